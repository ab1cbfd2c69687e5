"""Every kernel against its definition, around its tiles: one less, exact, one more, one pixel, dilation beyond the image."""

import naive
import numpy as np
import pytest
from conftest import random_tensors
from defined import assert_as_defined, conv, conv_transpose, op, run

from monet_edge.engine.algorithms import families
from monet_edge.engine.codegen import epilogue, jit
from monet_edge.engine.codegen.simd import AMX, AVX512
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program
from monet_edge.spec import Spec, validate


@pytest.mark.parametrize("dilation", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 4), (5, 3), (17, 16), (16, 33), (2, 64)])
def test_winograd(height, width, dilation):
    assert_as_defined([conv("c", "image", 16, dilation=dilation, activation="elu")], 16, height, width, "winograd")


@pytest.mark.parametrize("tiles", [1, 7, 8, 9, 11, 12, 13, 23, 24, 25, 47, 48, 49, 97])
@pytest.mark.parametrize(("channels", "filters"), [(16, 16), (32, 48)])
def test_winograd_around_a_strip(tiles, channels, filters):
    assert_as_defined([conv("c", "image", filters)], channels, 4, 4 * tiles, "winograd")


@pytest.mark.parametrize(("channels", "filters"), [(5, 7), (15, 17), (16, 33), (48, 16), (31, 64), (80, 5)])
def test_winograd_any_channels(channels, filters):
    assert_as_defined([conv("c", "image", filters, dilation=2, activation="relu")], channels, 13, 10, "winograd")


GEMM = [(1, 1, 1, 0), (1, 2, 1, 0), (2, 2, 1, 0), (3, 1, 1, 0), (3, 2, 2, 1), (4, 2, 2, 3), (5, 1, 2, 4), (5, 3, 1, 7), (7, 1, 1, 3)]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), GEMM)
@pytest.mark.parametrize(("height", "width"), [(9, 9), (10, 47), (9, 98)])
def test_gemm(kernel, stride, dilation, padding, height, width):
    assert_as_defined([conv("c", "image", 20, kernel, stride, dilation, padding, activation="elu")], 40, height, width, "im2col")


@pytest.mark.parametrize("pixels", [1, 5, 6, 7, 23, 24, 25, 47, 48, 49, 97])
@pytest.mark.parametrize("filters", [16, 32, 48])
def test_gemm_around_a_strip(pixels, filters):
    assert_as_defined([conv("c", "image", filters, kernel=1)], 40, 1, pixels, "im2col")


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2), (2, 3, 0), (4, 4, 0), (6, 2, 2)])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (7, 8), (5, 50)])
def test_transposed_gemm(kernel, stride, padding, height, width):
    assert_as_defined([conv_transpose("d", "image", 21, kernel, stride, padding, activation="relu")], 19, height, width, "im2col")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 4), (4, 5), (8, 31), (4, 196)])
@pytest.mark.parametrize(("channels", "filters"), [(16, 16), (20, 50), (64, 32)])
def test_transposed_winograd(height, width, channels, filters):
    assert_as_defined([conv_transpose("d", "image", filters, 4, 2, 1, activation="elu")], channels, height, width, "winograd")


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 2), (5, 8), (8, 9), (9, 31), (18, 17), (4, 386)])
@pytest.mark.parametrize(("channels", "filters"), [(16, 16), (20, 50), (64, 32)])
@pytest.mark.parametrize("kernel", [3, 4])
def test_strided_winograd(height, width, channels, filters, kernel):
    assert_as_defined([conv("c", "image", filters, kernel, 2, padding=1, activation="elu")], channels, height, width, "winograd")


@pytest.mark.parametrize(("isa", "first"), [(AVX512, "winograd"), (AMX, "im2col")])
def test_strided_winograd_is_left_where_its_weights_are_too_many_or_amx_multiplies(isa, first):
    spec = validate(
        Spec(
            "deep",
            256,
            (conv("a", "image", 128, 3, 2, padding=1), conv("b", "a", 512, 3, 2, padding=1), conv("c", "b", 512, 3, 2, padding=1)),
        )
    )
    plan = Plan(spec, random_tensors(spec), isa)
    assert [plan.algorithm(layer).name for layer in plan.layers] == [first, "im2col", "im2col"]


@pytest.mark.parametrize("kernel", [3, 4])
def test_strided_winograd_at_the_right_edge_does_not_see_the_next_row(kernel):
    spec = Spec("test", 16, (conv("c", "image", 16, kernel, 2, padding=1),))
    program = Program(Plan(spec, random_tensors(spec), jit.target().isa), jit.load(families()).addresses, 9, 13, keep=True)
    program.settle()
    image = np.ones((16, 9, 13), np.float32)
    image[:, :, 0] = np.nan
    program.begin()[...] = image
    run(program)
    assert np.isfinite(program.memory.value("c")[:, :, 4:]).all()


def test_strided_winograd_of_a_concat():
    concat = [conv("a", "image", 20), conv("b", "image", 24), op("k", "concat", "a", "b")]
    assert_as_defined([*concat, conv("c", "k", 40, 4, 2, padding=1)], 16, 18, 22, "winograd")


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("operands", [("a", "d"), ("d", "a")])
@pytest.mark.parametrize(("kernel", "padding", "taken"), [(4, 1, "winograd"), (2, 0, "im2col")])
def test_a_transposed_convolution_and_a_sum(activation, operands, kernel, padding, taken):
    down = [conv("a", "image", 20), conv("b", "a", 24, 4, 2, padding=1), conv_transpose("d", "b", 20, kernel, 2, padding)]
    plan, _ = assert_as_defined([*down, op("s", "add", *operands, activation=activation)], 17, 10, 14, taken)
    assert [layer.name for layer in plan.layers] == ["a", "b", "s"]  # the sum is fused


@pytest.mark.parametrize(("channels", "kernel", "dilation"), [(1, 3, 1), (4, 3, 2), (1, 5, 1), (2, 3, 9), (3, 1, 1), (1, 6, 1)])
@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 24), (6, 47), (8, 49)])
def test_first_convolution_from_planes(channels, kernel, dilation, height, width):
    assert_as_defined([conv("c", "image", 35, kernel, dilation=dilation, activation="elu")], channels, height, width, "direct")


def test_two_first_convolutions_with_unlike_borders():
    plan, _ = assert_as_defined(
        [conv("a", "image", 16, 3), conv("b", "image", 16, 5), op("j", "concat", "a", "b"), conv("c", "j", 8)], 1, 12, 20
    )
    assert [plan.suitable[name][0].name for name in "ab"] == ["direct", "direct"]


@pytest.mark.parametrize("width", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("activation", ["none", "elu", "relu", "sigmoid"])
@pytest.mark.parametrize("channels", [7, 16, 40])
@pytest.mark.parametrize("labels", [1, 2, 4])
def test_head_to_planes(width, activation, channels, labels):
    assert_as_defined([conv("a", "image", channels), conv("h", "a", labels, kernel=1, activation=activation)], 12, 3, width, "head1x1")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("activation", ["none", "elu", "relu", "sigmoid"])
def test_sums_and_affines(fused, activation):
    ops = [conv("a", "image", 18, activation=activation), op("n", "affine", "a"), conv("b", "n", 18, activation=activation),
           op("s", "add", "n", "b", activation="none"), conv("c", "s", 18), op("t", "add", "c", "s", activation=activation)]  # fmt: skip
    plan, _ = assert_as_defined(ops, 17, 9, 11, fused=fused)
    modes = [layer.mode for layer in plan.layers]
    last = epilogue.RESIDUAL if activation == "none" else epilogue.SUM
    assert not fused or modes == [epilogue.AFFINE, epilogue.RESIDUAL, last]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("channels", [(16, 32), (5, 11), (3, 3, 20)])
def test_concat(fused, channels):
    parts = [conv(f"p{i}", "image", count) for i, count in enumerate(channels)]
    names = tuple(part.name for part in parts)
    joined = [op("j", "concat", *names), conv("c", "j", 16), conv_transpose("d", "j", 8, 2, 2, 0)]
    plan, _ = assert_as_defined([*parts, *joined], 10, 6, 10, fused=fused)
    assert fused != ("j" in {layer.name for layer in plan.layers})


@pytest.mark.parametrize("window", [2, 3, 5])
@pytest.mark.parametrize("channels", [3, 16, 33])
def test_maxpool(window, channels):
    assert_as_defined([op("m", "maxpool", "image", kernel=window)], channels, 11, 31, "maxpool")


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("channels", [2, 16, 37])
def test_product(single, channels):
    factor = conv("f", "image", 1 if single else channels, kernel=1, activation="sigmoid")
    assert_as_defined([factor, op("m", "mul", "image", "f")], channels, 5, 9, "product")


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 40])
def test_softmax(classes):
    assert_as_defined([conv("c", "image", classes, kernel=1), op("s", "softmax", "c")], 5, 4, 7, "softmax")


@pytest.mark.parametrize("activation", ["elu", "relu", "sigmoid"])
def test_activations_over_the_whole_range(activation):
    x = np.concatenate([-np.logspace(-38, 38, 500), np.logspace(-38, 38, 500), [0.0, -0.0, -80, -87.4, -88, -104]]).astype(np.float32)
    image = np.stack([x, np.zeros_like(x)])[:, None]
    ops = [op("a", "add", "image", "image", activation=activation)]
    with np.errstate(over="ignore"):
        _, program = assert_as_defined(ops, 2, 1, x.size, image=image / 2, fused=False)
        reference = naive.activate(x.astype(np.float64), activation)
    assert np.abs(program.memory.value("a")[0, 0] - reference)[x < 1].max() <= 2e-7


@pytest.mark.parametrize("activation", ["none", "elu", "sigmoid"])
def test_a_wrong_input_is_not_hidden(activation):
    image = np.zeros((2, 3, 20), np.float32)
    image[0, 1, 7] = np.nan
    spec = validate(Spec("test", 2, (op("a", "add", "image", "image", activation=activation),)))
    program = Program(Plan(spec, {}, jit.target().isa), jit.load(families()).addresses, 3, 20)
    program.settle()
    program.begin()[...] = image
    run(program)
    assert np.isnan(program.output[0, 1, 7])
    assert np.isfinite(program.output[1]).all()
