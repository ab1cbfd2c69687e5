"""Deep layers, which AMX multiplies where the CPU has it: around its tiles, exact, and only where it is faster. True of every CPU."""

import numpy as np
import pytest
from conftest import random_tensors
from defined import assert_as_defined, conv, conv_transpose, run

from monet_edge import system
from monet_edge.engine.algorithms import families
from monet_edge.engine.codegen import amx, jit
from monet_edge.engine.codegen.simd import AMX, AVX512
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program
from monet_edge.spec import Spec, validate

WINOGRAD = "winograd_deep" if jit.target().isa.tiles else "winograd"  # of 3x3 convolutions
ONES = {"c.weight": np.ones((272, 256, 1, 1), np.float32), "c.bias": np.zeros(272, np.float32)}


def product(image, weight=ONES["c.weight"]):
    """(pixels, 272) from (256, pixels) by a matrix product alone."""
    spec = validate(Spec("test", 256, (conv("c", "image", 272, 1),)))
    program = Program(Plan(spec, {**ONES, "c.weight": weight}, jit.target().isa), jit.load(families()).addresses, 1, image.shape[1])
    program.settle()
    program.begin()[...] = image[:, None]
    run(program)
    return program.output[:, 0].T.copy()


@pytest.mark.parametrize("tiles", [1, 15, 16, 17, 48, 63, 65, 97])
def test_winograd_around_tiles_of_16_rows(tiles):
    assert_as_defined([conv("c", "image", 272)], 256, 4, 4 * tiles, WINOGRAD)


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 31, 33, 47, 49, 63, 64, 65, 95, 96, 97, 193])
def test_a_matrix_product_around_tiles_of_16_rows(pixels):
    assert_as_defined([conv("c", "image", 272, 1)], 256, 1, pixels, "im2col")


@pytest.mark.parametrize("channels", [128, 132, 144, 272])
def test_more_inputs_than_are_split_at_a_time_and_blocks_without_a_pair(channels):
    assert_as_defined([conv("c", "image", 544, 2, padding=0)], channels, 6, 12, "im2col")


@pytest.mark.parametrize(
    ("layer", "channels", "algorithm"),
    [
        (conv("c", "image", 256, 3, 2, padding=1), 128, "im2col" if jit.target().isa.tiles else "winograd"),
        (conv("c", "image", 256, 4, 2, padding=1), 128, "winograd"),
        (conv_transpose("c", "image", 272, 4, 2, 1), 256, "winograd"),
        (conv_transpose("c", "image", 72, 2, 2, 0), 256, "im2col"),
    ],
)
def test_strided_and_transposed(layer, channels, algorithm):
    assert_as_defined([layer], channels, 14, 10, algorithm)


def test_winograd_of_few_pixels(monkeypatch):
    monkeypatch.setattr(amx, "ROWS", 0)
    assert_as_defined([conv("a", "image", 512), conv("c", "a", 512)], 16, 10, 14, "winograd_deep", sides=(16, 16))


def test_a_product_is_as_exact_as_in_float32():
    rng = np.random.default_rng(0)
    image, weight = rng.standard_normal((256, 70)).astype(np.float32), rng.standard_normal((272, 256, 1, 1)).astype(np.float32)
    exact = image.T.astype(np.float64) @ weight[:, :, 0, 0].T.astype(np.float64)
    assert np.abs(product(image, weight) - exact).max() <= 1e-6 * np.abs(exact).max()


def test_a_number_has_all_its_bits():
    """A product with 1 is the number itself, whatever its sign and size, with one too small for all its bits beside it."""
    rng = np.random.default_rng(0)
    image = np.zeros((256, 70), np.float32)
    image[3] = rng.standard_normal(70) * 10.0 ** rng.integers(-25, 30, 70)
    weight = np.zeros((272, 256, 1, 1), np.float32)
    weight[:, 3] = 1
    np.testing.assert_array_equal(product(image, weight), np.repeat(image[3][:, None], 272, axis=1))
    image[[2, 18, 19]] = 1.2e-39
    np.testing.assert_array_equal(product(image, weight), np.repeat(image[3][:, None], 272, axis=1))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_stays_in_its_pixel(wrong):
    image = np.ones((256, 70), np.float32)
    image[7, 20] = wrong
    found = product(image)
    assert not np.isfinite(found[20]).any()
    np.testing.assert_array_equal(np.delete(found, 20, 0), 256)


def test_bands_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(amx, "ROWS", 0)
    spec = validate(Spec("deep", 20, (conv("a", "image", 256), conv("b", "a", 256), conv("c", "b", 512, 3, 2, padding=1))))
    image = np.random.default_rng(0).standard_normal((20, 40, 36)).astype(np.float32)
    outputs = []
    for threads in (1, 3):
        program = Program(Plan(spec, random_tensors(spec), jit.target().isa), jit.load(families()).addresses, 40, 36, threads)
        program.settle()
        program.begin()[...] = image
        at = [0] * threads
        while at != [len(steps) for steps in program.steps]:  # in turn, a step each
            at = [
                jit.load(families()).run(steps.ctypes.data, i, min(i + 1, len(steps)))
                for steps, i in zip(program.steps, at, strict=True)
            ]  # fmt: skip
        outputs.append(program.output.copy())
    np.testing.assert_array_equal(*outputs)


def test_it_is_chosen_for_deep_layers_of_many_rows():
    spec = validate(Spec("deep", 256, (conv("wide", "image", 256), conv("slim", "wide", 48))))
    tensors = random_tensors(spec)

    def chosen(isa, sides):
        return [layer for layer, packed in Plan(spec, tensors, isa, sides=sides).packed.items() if "parts" in packed.scratch]

    assert chosen(AMX, (32, 32)) == chosen(AMX, None) == ["wide"]
    assert chosen(AMX, (24, 24)) == chosen(AVX512, None) == []


def test_it_is_left_where_the_system_does_not_allow_it(monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "sapphirerapids")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx512f,+amx-tile,+amx-bf16,+fma")
    monkeypatch.setattr(jit.llvm, "get_process_triple", lambda: "x86_64-unknown-linux-gnu")
    for allowed, features in ((True, "+avx512f,+amx-tile,+amx-bf16,+fma"), (False, "+avx512f,+fma")):
        monkeypatch.setattr(system, "allow_tiles", lambda allowed=allowed: allowed)
        target = jit.target.__wrapped__()
        assert (target.features, target.isa) == (features, AMX if allowed else AVX512)
