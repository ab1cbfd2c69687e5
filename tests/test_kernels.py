"""Every kernel against its definition, around its tiles: one less, exact, one more, one pixel, dilation beyond the image."""

import naive
import numpy as np
import pytest
from conftest import random_tensors

from monet_edge.engine.algorithms import families
from monet_edge.engine.codegen import epilogue, jit
from monet_edge.engine.fuse import BEFORE
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program
from monet_edge.spec import Op, Spec, unpair, validate

TOLERANCE = 2e-5  # of the largest value; measured: 4e-6 for Winograd, 1e-6 for GEMM


def conv(name, x, filters, kernel=3, stride=1, dilation=1, padding=None, bias=True, activation="none"):
    padding = dilation * (kernel - 1) // 2 if padding is None else padding
    return Op(name, "conv", (x,), {"filters": filters, "kernel": kernel, "stride": stride, "dilation": dilation,
                                   "padding": padding, "bias": bias, "activation": activation})  # fmt: skip


def conv_transpose(name, x, filters, kernel, stride, padding, bias=True, activation="none"):
    return Op(name, "deconv", (x,), {"filters": filters, "kernel": kernel, "stride": stride, "padding": padding,
                                     "bias": bias, "activation": activation})  # fmt: skip


def op(name, kind, *inputs, **attrs):
    return Op(name, kind, inputs, attrs)


def run(program):
    code = jit.load(families())
    assert code.run(program.steps[0].ctypes.data, 0, len(program.steps[0])) == len(program.steps[0])


def assert_as_defined(ops, channels, height, width, algorithm=None, image=None, fused=True):
    """Run ops three times, compare every value of the last run with the definition; ``algorithm`` must be among those used."""
    spec = validate(Spec("test", channels, tuple(ops)))
    tensors = random_tensors(spec, seed=height * 1000 + width)
    if image is None:
        image = np.random.default_rng(width).standard_normal((channels, height, width)).astype(np.float32)
    plan = Plan(spec, tensors, jit.target().isa, fused)
    if algorithm:
        assert algorithm in plan.algorithms
    program = Program(plan, jit.load(families()).addresses, height, width, keep=True)
    for _ in range(3):  # buffers that hold the last run must not show in the next
        program.begin(image)
        run(program)
    reference = naive.values(spec, tensors, image)
    for layer in plan.layers:
        if layer.name.endswith(BEFORE):  # no value of the Spec
            continue
        ref, comp = reference[layer.name], program.memory.value(layer.name)
        assert comp.shape == ref.shape
        assert np.abs(comp - ref).max() <= TOLERANCE * max(1, np.abs(ref).max()), layer.name
    return plan, program


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


GEMM = [(1, 1, 1, 0), (1, 2, 1, 0), (2, 2, 1, 0), (3, 1, 1, 0), (3, 2, 1, 1), (4, 2, 2, 3), (5, 1, 2, 4), (5, 3, 1, 7), (7, 1, 1, 3)]


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
def test_strided_winograd(height, width, channels, filters):
    assert_as_defined([conv("c", "image", filters, 4, 2, padding=1, activation="elu")], channels, height, width, "winograd")


def test_strided_winograd_at_the_right_edge_does_not_see_the_next_row():
    spec = Spec("test", 16, (conv("c", "image", 16, 4, 2, padding=1),))
    program = Program(Plan(spec, random_tensors(spec), jit.target().isa), jit.load(families()).addresses, 9, 13, keep=True)
    image = np.ones((16, 9, 13), np.float32)
    image[:, :, 0] = np.nan
    program.begin(image)
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
def test_head_to_planes(width, activation, channels):
    assert_as_defined([conv("a", "image", channels), conv("h", "a", 1, kernel=1, activation=activation)], 12, 3, width, "head1x1")


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


RECTANGLES = [((3, 3), (2, 2), (1, 1)), ((1, 3), (1, 2), (0, 1)), ((3, 1), (2, 1), (1, 0)), ((1, 3), (2, 3), (2, 0)),
              ((3, 3), (1, 2), (1, 1)), ((4, 4), (2, 2), (0, 1)), ((1, 5), (1, 1), (0, 2))]  # fmt: skip


@pytest.mark.parametrize(("kernel", "stride", "padding"), RECTANGLES)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (9, 10), (10, 47), (5, 98)])
def test_gemm_of_unlike_sides(kernel, stride, padding, height, width):
    kernel, stride, padding = unpair(*kernel), unpair(*stride), unpair(*padding)
    assert_as_defined([conv("c", "image", 20, kernel, stride, 1, padding, activation="elu")], 18, height, width, "im2col")


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((1, 2), (1, 2), 0), ((2, 1), (2, 1), 0), ((3, 2), (3, 2), 0), ((3, 4), (2, 3), (1, 0)), (3, (1, 2), (0, 1)), (1, 1, 0)],
)
@pytest.mark.parametrize(("height", "width"), [(1, 2), (7, 8), (5, 50)])
def test_transposed_gemm_of_unlike_sides(kernel, stride, padding, height, width):
    assert_as_defined([conv_transpose("d", "image", 21, kernel, stride, padding)], 19, height, width, "im2col")


@pytest.mark.parametrize("padding", [1, (0, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [3, (1, 3), (3, 1)])
def test_first_convolution_of_unlike_sides(kernel, padding):
    plan, _ = assert_as_defined([conv("c", "image", 8, kernel, padding=padding)], 1, 9, 21)
    assert ("direct" in plan.algorithms) == (kernel == 3 and padding == 1)


@pytest.mark.parametrize("window", [2, 3, (1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("channels", [3, 16, 33])
def test_avgpool(window, channels):
    assert_as_defined([op("m", "avgpool", "image", kernel=window)], channels, 11, 31, "avgpool")


def norm(name, x, activation="none", eps=1e-5):
    return op(name, "instance_norm", x, eps=eps, activation=activation, **({"slope": 0.01} if activation == "leaky_relu" else {}))


@pytest.mark.parametrize("activation", ["none", "elu", "relu", "sigmoid", "leaky_relu"])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (2, 1), (1, 3), (3, 4), (5, 5), (7, 47), (8, 130)])
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_instance_norm(activation, height, width, channels):
    assert_as_defined([norm("n", "image", activation)], channels, height, width, "normalise")


@pytest.mark.parametrize(("height", "width"), [(256, 256), (512, 320), (8, 1031)])
@pytest.mark.parametrize("mean", [0, 100, -3000])
def test_instance_norm_loses_no_digits_to_a_mean_or_to_many_pixels(height, width, mean):
    """Of values that are exact in float32, so that the error is the kernel's own."""
    rng = np.random.default_rng(0)
    image = (rng.integers(-2048, 2048, (2, height, width)) / 1024 + mean).astype(np.float32)
    image[1] *= np.linspace(0, 1, height, dtype=np.float32)[:, None].round(2)  # rows that differ
    spec = validate(Spec("test", 2, (norm("n", "image"),)))
    tensors = {"n.weight": np.ones(2, np.float32), "n.bias": np.zeros(2, np.float32)}
    program = Program(Plan(spec, tensors, jit.target().isa), jit.load(families()).addresses, height, width)
    program.begin(image)
    run(program)
    reference = naive.values(spec, tensors, image)["n"]
    assert np.abs(program.output - reference).max() <= 2e-6 * np.abs(reference).max()


def test_instance_norm_of_a_constant_is_its_bias():
    image = np.full((16, 5, 9), 1e6, np.float32)
    _, program = assert_as_defined([norm("n", "image")], 16, 5, 9, image=image)
    assert np.isfinite(program.output).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("activation", ["none", "elu", "leaky_relu"])
@pytest.mark.parametrize("operands", [("a", "n"), ("n", "a"), ("m", "n")])
def test_a_normalisation_and_a_sum(fused, activation, operands):
    slope = {"slope": 0.2} if activation == "leaky_relu" else {}
    ops = [conv("a", "image", 18), norm("m", "a", "leaky_relu"), conv("b", "m", 18), norm("n", "b")]
    plan, _ = assert_as_defined([*ops, op("s", "add", *operands, activation=activation, **slope)], 17, 9, 11, fused=fused)
    assert not fused or "n" not in {layer.name for layer in plan.layers}  # the sum is fused


def test_a_sum_after_an_activated_normalisation_is_not_activated():
    plan, _ = assert_as_defined(
        [conv("a", "image", 18), norm("m", "a", "leaky_relu"), op("s", "add", "a", "m", activation="none")], 17, 9, 11
    )
    assert plan.layers[-1].op.kind == "add"


@pytest.mark.parametrize("fused", [False, True])
def test_leaky_relu_follows_any_convolution_and_any_sum(fused):
    leaky = {"activation": "leaky_relu", "slope": 0.3}
    a, b = conv("a", "image", 18), conv_transpose("d", "s", 5, 2, 2, 0)
    b2 = conv("b", "image", 18)
    ops = [
        Op("a", "conv", a.inputs, {**a.attrs, **leaky}),
        b2,
        op("s", "add", "a", "b", **leaky),
        Op("d", "deconv", b.inputs, {**b.attrs, **leaky}),
    ]
    assert_as_defined([*ops, norm("n", "d", "leaky_relu")], 3, 9, 11, fused=fused)


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
    program.begin(image)
    run(program)
    assert np.isnan(program.output[0, 1, 7])
    assert np.isfinite(program.output[1]).all()
