"""Run networks with an unreadable page right behind, then right before, every buffer: an overrun ends the process.

    python guarded.py SIDE [AREA]     SIDE is behind or before; AREA plants an overrun of one vector: source, target, weights,
                                      parameters, V, M, tile, image (before) or output; or of one row of stored voxels or of labels

A script and not a test: a segmentation fault cannot be caught. POSIX only.
"""

import ctypes
import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from conftest import random_tensors, tiny_nnunet  # noqa: E402
from defined import uncommon  # noqa: E402

from monet_edge import architectures  # noqa: E402
from monet_edge.engine import arena, plan, program, voxels  # noqa: E402
from monet_edge.engine.algorithms import families, winograd_deep  # noqa: E402
from monet_edge.engine.codegen import amx, jit, layout  # noqa: E402
from monet_edge.engine.program import Program  # noqa: E402
from monet_edge.engine.voxels import slices  # noqa: E402
from monet_edge.engine.voxels import sorted as ranked  # noqa: E402
from monet_edge.engine.voxels.stored import FORMS  # noqa: E402
from monet_edge.spec import INPUT, Op, Spec, fold_batchnorm  # noqa: E402

PAGE = mmap.PAGESIZE
SIDE, PLANT = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def forbid(address: int) -> None:
    """Take all rights from one page."""
    if _protect(address, PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def guarded_zeros(size: int) -> np.ndarray:
    """``size`` bytes between two forbidden pages, touching the one on the chosen side."""
    inside = pages(size)
    region = np.frombuffer(mmap.mmap(-1, inside + 2 * PAGE), np.uint8)
    start = PAGE + (inside - size if SIDE == "behind" else 0)
    forbid(region.ctypes.data)
    forbid(region.ctypes.data + PAGE + inside)
    return region[start : start + size]


def guarded_place(lives: list[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Every buffer on pages of its own, a page between any two; `GAPS` remembers where."""
    offsets, at = [], 0
    for size, _, _ in lives:
        inside = pages(size)
        offsets.append(at + (inside - size if SIDE == "behind" else 0))
        at += inside
        GAPS.append(at)
        at += PAGE
    return offsets, at


GAPS: list[int] = []
for module in (layout, arena, program):  # the real ones start at multiples of 64 bytes; so do these: all sizes are
    module.aligned_zeros = guarded_zeros
arena.place = guarded_place

DOWN = {"filters": 16, "kernel": 4, "stride": 2, "dilation": 1, "padding": 1, "bias": True, "activation": "none"}
SAME = {**DOWN, "kernel": 3, "stride": 1}
DEEP, HALF = {**SAME, "filters": 256}, {**DOWN, "kernel": 3, "filters": 272}
NETWORKS = [
    (architectures.monet(), 120, 116),  # enough for whole strips of tiles on every level
    (architectures.monet(filters=5, depth=1), 10, 34),
    (architectures.monet(in_channels=40, classes=3, filters=16, depth=1), 6, 22),
    (architectures.unet(12, depth=2, in_channels=3), 12, 20),
    (architectures.attention_unet(16, depth=1, classes=2), 6, 50),
    (tiny_nnunet(residual=False), 28, 26),
    (tiny_nnunet(residual=True, channels=20), 12, 50),
    (uncommon(), 8, 34),
    (Spec("few", 20, (Op("a", "conv", (INPUT,), SAME), Op("b", "conv", ("a",), SAME))), 9, 13),
    (Spec("odd", 20, (Op("down", "conv", (INPUT,), DOWN),)), 9, 13),  # its odd rows are one less than its even ones
    (Spec("odd", 20, (Op("down", "conv", (INPUT,), {**DOWN, "kernel": 3}),)), 9, 13),
    (Spec("deep", 16, (Op("a", "conv", (INPUT,), DEEP), Op("b", "conv", ("a",), DEEP), Op("c", "conv", ("b",), HALF))), 20, 52),
    (Spec("deep few", 16, (Op("a", "conv", (INPUT,), DEEP), Op("b", "conv", ("a",), DEEP))), 10, 14),
]
plan.WEIGHTS = 0  # so that stages are deep where they have more weights than values
amx.ROWS = 0  # so that the deep ones are multiplied by it, where the CPU has it


def plant(made: Program) -> None:
    """Move one buffer of the first step that has it by one vector, towards the guard."""
    shift = 64 if SIDE == "behind" else -64
    steps, at = made.steps[0], 0
    for stage, bands in zip(made.plan.stages, made.bands, strict=True):
        own = steps[at : at + len(bands)].view(bands.dtype)
        at += len(bands)
        if PLANT == "source" and "sources" in own.dtype.names:
            made.sources = np.copy(made.memory.source_table(stage.inputs))
            made.sources["base"][0] += shift
            own["sources"] = made.sources.ctypes.data
            return
        wanted = {"weights": "winograd"}.get(PLANT, made.plan.algorithm(stage).name)
        if PLANT not in own.dtype.names or made.plan.algorithm(stage).name != wanted:
            continue
        own[PLANT] += shift
        if PLANT not in ("V", "M", "tile"):  # of which only one step uses all
            return


def guarded_array(values: np.ndarray) -> np.ndarray:
    """A copy between forbidden pages, at an address that no dtype asks for."""
    found = guarded_zeros(values.nbytes).view(values.dtype).reshape(values.shape)
    found[...] = values
    return found


def planted(array: np.ndarray, area: str) -> np.ndarray:
    """One row more than there is, towards the guard, if it is to be planted there."""
    if area != PLANT:
        return array
    towards = array if SIDE == "behind" else array[::-1]
    return np.lib.stride_tricks.as_strided(towards, (len(array) + 1, *array.shape[1:]), towards.strides)


def run_voxels() -> None:
    """The kernels over stored voxels in every form, their scratch guarded too."""
    zeros = np.zeros  # what the names stand for from now on is guarded
    made = {name: lambda shape, dtype=np.float64: guarded_array(zeros(shape, dtype)) for name in ("empty", "zeros")}
    ranked.np = slices.np = SimpleNamespace(**{**vars(np), **made})
    for form in FORMS:
        dtype = np.dtype(f"{form.kind}{form.size}").newbyteorder("S" if form.swapped else "=")
        for width in (1, 7, 33):
            raw = planted(guarded_array(np.arange(3 * width).reshape(3, width).astype(dtype)), "voxels")
            for shape in ((3, width), (2, 5), (7, 40)):
                target = guarded_array(np.ones((1, *shape), np.float32))
                for turned in (raw, raw[::-1, ::-1]):
                    voxels.fill(target, turned[None], slope=1.0, inter=0.0, low=0.0, high=9.0, floor=1.0)
        found = voxels.Sorted(raw)
        found.select([0, 50])
        found.moments(found.lowest, found.highest)
    for classes, shape in ((1, (5, 33)), (3, (16, 7)), (2, (9, 20))):
        kept = [guarded_array(np.ones(shape, np.float32)) for _ in range(classes)]
        labels = guarded_array(np.ones(shape, np.uint8))
        voxels.assign(labels, guarded_array(np.ones((classes, 9, 20), np.float32)), 0.5, kept)
        voxels.assign(planted(labels, "labels"), guarded_array(np.ones((classes, 9, 20), np.float32)), 0.5)
    for shape in ((1, 1), (3, 16), (5, 33)):
        sums, values, weights = (guarded_array(np.ones(shape, np.float32)) for _ in range(3))
        voxels.add_halves(sums, values, weights)
        voxels.divide_halves(sums, weights)


run_voxels()
for network, height, width in NETWORKS[: 1 if PLANT else None]:
    folded = fold_batchnorm(network)
    code = jit.load(families())
    winograd_deep.WEIGHTS = 0 if network.name.endswith("few") else 1 << 40
    chosen = plan.Plan(folded, random_tensors(folded), jit.target().isa, sides=(height, width))
    for threads, most in ((1, 1), (2, 1), (1, 2)):
        GAPS.clear()
        made = Program(chosen, code.addresses, height, width, threads, slices=most)
        made.settle()
        memory = made.memory.arena.ctypes.data
        for gap in GAPS:
            forbid(memory + gap - (0 if SIDE == "before" else memory % PAGE))
        if PLANT:
            plant(made)
        made.begin()
        for image in made.memory.images:
            image[...] = np.random.default_rng(0).standard_normal(image.shape)
        at = [0] * len(made.steps)
        while at != [len(steps) for steps in made.steps]:  # in turn, a step each, so that every thread has its share of the bands
            at = [code.run(steps.ctypes.data, i, min(i + 1, len(steps))) for steps, i in zip(made.steps, at, strict=True)]
print("no overrun")
