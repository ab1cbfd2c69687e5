"""Threads that share a slice: a band that is late holds up what is made from it, and nothing that is made meanwhile does it harm."""

import numpy as np
import pytest
from conftest import random_tensors, tiny_nnunet

from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.engine import bands
from monet_edge.engine.algorithms import families
from monet_edge.engine.bands import PIXELS, cut, order
from monet_edge.engine.codegen import jit
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program
from monet_edge.spec import INPUT, Op, Spec, fold_batchnorm


def conv(name, before, kernel, stride=1, dilation=1, padding=0, kind="conv"):
    attributes = {"filters": 8, "kernel": kernel, "stride": stride, "padding": padding, "bias": True, "activation": "none"}
    return Op(name, kind, (before,), attributes | ({"dilation": dilation} if kind == "conv" else {}))


OTHERS = (
    conv("a", INPUT, 5, padding=2),
    conv("b", "a", 3, stride=2, padding=1),
    conv("c", "b", 3, dilation=3, padding=1),
    conv("d", "c", 3, stride=3, kind="deconv"),
    conv("e", "d", 4, stride=2, padding=1),
    conv("f", "e", 4, stride=2, padding=1, kind="deconv"),
    conv("g", "f", 6, stride=4, padding=1, kind="deconv"),
)
NARROW = (  # the last layer's taps and its summand are other rows of one value
    conv("a", INPUT, 3, padding=1),
    conv("b", "a", 1, stride=2, padding=32),
    Op("c", "add", ("b", "a"), {"activation": "none"}),
)
NETWORKS = {
    "monet": (monet(filters=4), 128, 48),
    "u-net": (unet(4, depth=2, in_channels=3), 96, 64),
    "attention u-net": (attention_unet(4, depth=2, classes=3), 96, 64),
    "other sizes, strides and dilations": (Spec("others", 20, OTHERS), 96, 50),
    "nnU-Net, plain": (tiny_nnunet(residual=False), 96, 48),
    "nnU-Net, residual": (tiny_nnunet(residual=True), 96, 48),
    "a value read twice": (Spec("narrow", 20, NARROW), 64, 64),
}


@pytest.fixture(params=NETWORKS)
def plan(request):
    spec, height, width = NETWORKS[request.param]
    spec = fold_batchnorm(spec)
    image = np.random.default_rng(0).standard_normal((spec.in_channels, height, width)).astype(np.float32)
    return Plan(spec, random_tensors(spec), jit.target().isa), image


def run(program, thread, first=0, end=None):
    return jit.load(families()).run(program.steps[thread].ctypes.data, first, len(program.steps[thread]) if end is None else end)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("threads", [2, 3])
def test_any_band_may_be_late(plan, threads, keep):
    """With ``keep`` a value that is read before it is made is not a number; without, values lie where others were."""
    plan, image = plan
    addresses = jit.load(families()).addresses
    alone = Program(plan, addresses, *image.shape[1:])
    alone.settle()
    alone.begin()[...] = image
    run(alone, 0)
    shared = Program(plan, addresses, *image.shape[1:], threads, keep)
    assert len(shared.steps[0]) >= len(alone.steps[0]) * threads
    make_each_late(shared, [image], alone.memory.outputs)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize(("residual", "threads"), [(False, 2), (True, 3)])
def test_any_share_of_a_deep_stage_may_be_late(residual, threads, slices, monkeypatch):
    """Of one slice's, and of one that is made for two."""
    monkeypatch.setattr("monet_edge.engine.plan.WEIGHTS", 0)
    monkeypatch.setattr("monet_edge.engine.algorithms.winograd_deep.WEIGHTS", 0)
    spec = tiny_nnunet(residual, features=(24, 256, 256))
    plan = Plan(spec, random_tensors(spec), jit.target().isa, sides=(24, 20))
    images = np.random.default_rng(0).standard_normal((slices, spec.in_channels, 24, 20)).astype(np.float32)
    alone, shared = (Program(plan, jit.load(families()).addresses, 24, 20, count, slices=slices) for count in (1, threads))
    alone.settle()
    for place, image in zip(alone.memory.images, images, strict=True):
        place[...] = image
    run(alone, slices - 1)
    cut = [steps for steps in shared.bands if len(steps) > 1 and (steps["y0"] == 0).all()]
    assert {plan.algorithm(stage).name for stage in plan.stages} >= {"im2col", "winograd_deep"}
    assert len(cut) >= 4
    assert all(len({*steps["weights"]}) == len({*steps["target"]}) == threads for steps in cut)
    make_each_late(shared, images, alone.memory.outputs)


def make_each_late(shared, images, ref):
    """Each of the steps for so many slices in turn is taken by somebody who takes long: the result is the same."""
    shared.settle()
    states, first = shared.states[len(images) - 1], shared.threads * (len(images) - 1)
    steps, end = shared.steps[first], len(shared.steps[first])
    last = (np.max(steps["dependencies"] + 8 * steps["dependency_count"]) - states.ctypes.data) // 8  # nothing depends on the rest
    assert last >= end - 4 * shared.threads
    for late in range(end):
        for thread, other in ((first, first + 1), (first + 1, first)):  # one goes down, the other up
            shared.begin()
            for place, image, output in zip(shared.memory.images, images, shared.memory.outputs, strict=True):
                place[...], output[...] = image, np.nan
            shared.memory.arena[:] = 255
            states[late] = 1  # somebody has taken it
            reached = run(shared, thread)
            assert (reached < end) == (late < last)
            states[late] = 0
            step = int(np.flatnonzero(shared.steps[other]["state"] == states.ctypes.data + 8 * late)[0])
            assert run(shared, other, step, step + 1) == step + 1
            assert run(shared, thread, reached) == end
            assert np.array_equal(shared.memory.outputs, ref), late


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("size", [1, 6000])
def test_a_chain_made_band_by_band_gives_the_same_bits(residual, size, monkeypatch):
    """What is read before it is made, or after it is written over, is not a number."""
    spec = tiny_nnunet(residual)
    plan = Plan(spec, random_tensors(spec), jit.target().isa)
    image = np.random.default_rng(0).standard_normal((spec.in_channels, 96, 48)).astype(np.float32)
    outputs = []
    for large in (bands.LARGE, 0):
        monkeypatch.setattr(bands, "LARGE", large)
        monkeypatch.setattr(bands, "BAND", size)
        program = Program(plan, jit.load(families()).addresses, 96, 48)
        program.settle()
        program.begin()[...] = image
        program.memory.arena[:] = 255
        run(program, 0)
        outputs.append(program.output.copy())
    assert np.isfinite(outputs[0]).all()
    assert np.array_equal(*outputs)
    assert sorted(program.order) == [(number, band) for number, steps in enumerate(program.bands) for band in range(len(steps))]
    turns = [number for number, _ in program.order]
    assert turns != sorted(turns)


def test_only_what_is_too_large_for_the_cache_is_cut_for_one_thread():
    assert bands.cut_for_cache((32, 512, 512), 4) == [*range(0, 512, 16), 512]
    assert bands.cut_for_cache((64, 512, 512), 32) == [*range(0, 512, 32), 512]  # whole units
    assert bands.cut_for_cache((32, 96, 256), 4) == [0, 96]
    assert bands.chains([]) == []


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_a_thread_has_four_bands_where_they_are_large_enough(threads):
    rows = np.diff(cut(1024, 512, 4, threads))
    assert len(rows) == 4 * threads
    assert np.ptp(rows) <= 4
    assert len(cut(48, 2 * PIXELS // 48, 1, threads)) - 1 == threads  # two for all of them: one for each at least
    assert cut(1024, 512, 4, 1) == [0, 1024]


@pytest.mark.parametrize(("count", "threads"), [(8, 2), (12, 3), (2, 5), (7, 4)])
def test_shares_are_disjoint_and_neighbours_meet_at_their_edge(count, threads):
    orders = [order(count, thread, threads) for thread in range(threads)]
    assert all(sorted(bands) == list(range(count)) for bands in orders)
    shares = [count * (thread + 1) // threads - count * thread // threads for thread in range(threads)]
    own = [bands[:share] for bands, share in zip(orders, shares, strict=True)]
    assert sorted(np.concatenate(own)) == list(range(count))
    if count == 8:
        assert [list(bands) for bands in orders] == [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]]
