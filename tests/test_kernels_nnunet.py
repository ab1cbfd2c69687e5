"""The kernels of nnU-Net's networks against their definition: normalisation, averages, sides that differ, LeakyReLU."""

import naive
import numpy as np
import pytest
from defined import assert_as_defined, conv, conv_transpose, norm, op, run, uncommon

from monet_edge.engine.algorithms import families, winograd_deep
from monet_edge.engine.codegen import jit
from monet_edge.engine.codegen.simd import AMX, AVX512
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program
from monet_edge.spec import Op, Spec, unpair, validate

RECTANGLES = [((3, 3), (2, 2), (0, 0)), ((1, 3), (1, 2), (0, 1)), ((3, 1), (2, 1), (1, 0)), ((1, 3), (2, 3), (2, 0)),
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


@pytest.mark.parametrize("activation", ["none", "elu"])
@pytest.mark.parametrize(("channels", "filters"), [(1, 16), (16, 33), (40, 17)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (3, 3), (7, 8), (5, 29), (17, 18), (2, 145)])
def test_winograd_of_few_pixels(height, width, channels, filters, activation, monkeypatch):
    """Around its tiles of 2x2, and strips of 72 of them."""
    monkeypatch.setattr(winograd_deep, "WEIGHTS", 0)
    monkeypatch.setattr(winograd_deep, "PIXELS", 10**6)
    ops = [
        conv("a", "image", channels, 1),
        conv("b", "a", filters, activation=activation),
        conv("c", "b", filters),
        op("s", "add", "c", "b", activation="none"),
    ]
    assert_as_defined(ops, channels, height, width, "winograd_deep", sides=(64, 64))


@pytest.mark.parametrize(("isa", "few"), [(AVX512, "winograd_deep"), (AMX, "im2col")])
def test_algorithms_are_chosen_for_the_size_that_most_images_have(isa, few):
    """At 64 pixels im2col on AMX takes as long, and half of the weights."""
    spec = validate(Spec("deep", 512, (conv("c", "image", 512),)))
    tensors = {"c.weight": np.ones((512, 512, 3, 3), np.float32), "c.bias": np.ones(512, np.float32)}

    def chosen(sides):
        plan = Plan(spec, tensors, isa, sides=sides)
        return plan.suitable["c"][0].name

    many = "winograd_deep" if isa is AMX else "winograd"
    assert [chosen(sides) for sides in (None, (64, 64), (32, 32), (8, 8), (4, 4))] == [many, many, "winograd_deep", few, "im2col"]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 34), (12, 7)])
def test_what_default_plans_do_not_ask_for(height, width):
    assert_as_defined(uncommon().ops, 2, height, width)


@pytest.mark.parametrize("window", [2, 3, (1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("channels", [3, 16, 33])
def test_avgpool(window, channels):
    assert_as_defined([op("m", "avgpool", "image", kernel=window)], channels, 11, 31, "avgpool")


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
    program.settle()
    program.begin()[...] = image
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


@pytest.mark.parametrize(("isa", "channels", "expected"), [(AMX, 512, 2), (AVX512, 512, 2), (AMX, 256, 4), (AVX512, 256, 4)])
def test_weights_that_would_take_much_memory_have_smaller_tiles(isa, channels, expected):
    spec = validate(Spec("deep", channels, (conv("c", "image", channels),)))
    tensors = {"c.weight": np.ones((channels, channels, 3, 3), np.float32), "c.bias": np.ones(channels, np.float32)}
    assert Plan(spec, tensors, isa, sides=(32, 32)).packed["c"].fields.get("side", 4) == expected
