"""Slices that go through the deep stages of a network together: each gets the bits that it gets alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_tensors, tiny_nnunet
from defined import uncommon

from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.engine import Engine, paging
from monet_edge.engine.algorithms import winograd_deep
from monet_edge.engine.codegen import amx, jit
from monet_edge.engine.codegen.step import ROOM
from monet_edge.engine.engine import _groups
from monet_edge.engine.plan import Plan
from monet_edge.spec import INPUT, Op, Spec, fold_batchnorm

WIDE = (24, 256, 256)
NETWORKS = [
    (tiny_nnunet(residual=False, features=WIDE), 32, 40),
    (tiny_nnunet(residual=False, features=(16, 32, 256)), 32, 40),
    (tiny_nnunet(residual=True, channels=2, features=WIDE), 20, 14),
    (unet(64, depth=3, in_channels=2), 8, 24),
    (attention_unet(32, depth=2, classes=2), 12, 20),
    (uncommon(), 16, 36),
]


def conv(name, source, filters):
    return Op(name, "conv", (source,), {"filters": filters, "kernel": 3, "stride": 1, "dilation": 1, "padding": 1, "bias": True,
                                        "activation": "none"})  # fmt: skip


@pytest.fixture
def deep(monkeypatch):
    """Small networks have deep stages, too, of every kind."""
    monkeypatch.setattr("monet_edge.engine.plan.WEIGHTS", 0)
    monkeypatch.setattr(winograd_deep, "WEIGHTS", 0)
    monkeypatch.setattr(amx, "ROWS", 0)


@pytest.mark.parametrize(("network", "height", "width"), NETWORKS)
def test_a_slice_has_the_same_bits_alone_and_beside_any_other(deep, network, height, width):
    spec = fold_batchnorm(network)
    tensors = random_tensors(spec)
    images = np.random.default_rng(0).standard_normal((7, spec.in_channels, height, width)).astype(np.float32)
    images[3] = np.nan
    engine = Engine(spec, tensors, 1, (height, width))
    assert engine.pool.abreast(height, width) == 2
    alone = np.concatenate([engine.run(image[None]) for image in images])
    assert np.isfinite(np.delete(alone, 3, axis=0)).all()
    for threads in (1, 2, 3):
        engine = Engine(spec, tensors, threads, (height, width))
        for order in (slice(None), slice(None, None, -1), slice(1, None)):  # others beside it, above it and below
            assert np.array_equal(engine.run(images[order]), alone[order], equal_nan=True)


@pytest.mark.parametrize(("network", "height", "width"), NETWORKS[:3])
def test_two_threads_share_every_slice_where_weights_are_mapped(deep, network, height, width, tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "cache", SimpleNamespace(folder=lambda: tmp_path))
    monkeypatch.setattr(paging, "LAYER", 8192)  # of these networks weights only are so large
    spec = fold_batchnorm(network)
    tensors = random_tensors(spec)
    images = np.random.default_rng(0).standard_normal((5, spec.in_channels, height, width)).astype(np.float32)
    ref = Engine(spec, tensors, 1, (height, width)).run(images)
    monkeypatch.setattr(paging, "LARGE", 0)
    for threads, programs in ((2, {(2, 2)}), (3, {(1, 2), (3, 1)})):  # how many threads share how many slices
        engine = Engine(spec, tensors, threads, (height, width))
        assert np.array_equal(engine.run(images), ref)
        assert {key[2:] for key in engine.pool.programs} == programs
        for program in (program for kept in engine.pool.programs.values() for program in kept):
            rest_when_nobody_reads(program, engine._code.addresses)


def rest_when_nobody_reads(program, kernels):
    """Every thread gives all mapped weights back, whichever is late; of several a stage later, when no other is at it."""
    plan = program.plan
    fields = [value for packed in plan.packed.values() for value in packed.fields.values()]
    mapped = {id(value) for value in fields if isinstance(value, paging.Mapped)}
    assert mapped
    columns = {kernels[algorithm.name]: algorithm.kernel.step.names.index("weights")
               for algorithm in map(plan.algorithm, plan.stages) if "weights" in algorithm.kernel.step.names}  # fmt: skip
    for steps, rests in zip(program.steps, program.rests, strict=True):
        assert {id(value) for _, values in rests for value in values} == mapped
        rows = steps.view(np.int64).reshape(-1, ROOM)
        read = np.array([row[columns[row[0]]] if row[0] in columns else 0 for row in rows])
        for end, value in ((end, value) for end, values in rests for value in values):
            first = value.ctypes.data
            last = np.flatnonzero((read >= first) & (read < first + value.nbytes)).max()
            assert end > last + 1 if program.threads > 1 else end == last + 1


def test_deep_are_the_stages_with_more_weights_than_values_and_only_where_the_size_is_known():
    spec = Spec("net", 1, (conv("a", INPUT, 16), conv("b", "a", 256), conv("c", "b", 256), conv("d", "c", 16)))
    plans = [Plan(spec, random_tensors(spec), jit.target().isa, sides=sides) for sides in ((16, 16), (128, 128), None)]
    assert [[plan.stages[number].name for number in plan.deep] for plan in plans] == [["c"], [], []]
    monets = fold_batchnorm(monet())
    assert not Plan(monets, random_tensors(monets), jit.target().isa, sides=(256, 256)).deep


def test_where_another_slice_would_take_much_memory_none_goes_beside(deep, monkeypatch):
    spec = fold_batchnorm(tiny_nnunet(residual=False, features=WIDE))
    monkeypatch.setattr("monet_edge.engine.program.ANOTHER", 0)
    engine = Engine(spec, random_tensors(spec), 1, (8, 8))
    assert engine._plan.deep
    assert engine.pool.abreast(8, 8) == 1


@pytest.mark.parametrize(
    ("count", "threads", "sizes"),
    [(5, 1, [2, 2, 1]), (23, 2, [2] * 11 + [1]), (9, 8, [2] + [1] * 7), (7, 8, [1] * 7), (24, 8, [2] * 8 + [1] * 8)],
)
def test_threads_take_two_slices_as_long_as_there_are_two_for_all(count, threads, sizes):
    groups = list(_groups(count, 1, 2, threads))
    assert [end - first for first, end in groups] == sizes
    assert [first for first, _ in groups] == [0, *(end for _, end in groups[:-1])]
