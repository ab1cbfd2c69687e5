"""How stages are cut into bands of rows: for threads that share a slice, and for one whose values are larger than its cache.

For threads every stage is cut, and each band lists the bands that must be made before it. A stage whose weights are most of what it
reads is cut by its output's channels instead, a share for each: of the weights, too, which every band of rows would read anew.

Nobody waits for a whole layer: a band may begin when the bands that it reads of the stage before are made. A thread comes to the
next stage when all bands of this one are taken, and together they depend on all bands of the stage before, so those are made by
then. At most two stages are at work at a time, and a value's memory is free one stage after its last reader.

One thread alone goes through a *chain* of stages band by band, so that each finds what the one before it made in the second cache: a
normalisation, what reads nothing else, and the statistics of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..spec import MAX_SIDE, Shape
from .algorithms import Algorithm
from .codegen.layout import blocks
from .codegen.simd import BYTES
from .fuse import STATISTICS, Layer

# Bytes of a value that is cut for one thread, more than a second cache, and of its bands. Two threads, a slice each of 512x512, in
# nnU-Net's default network: 375 ms of each in place of 403, one thread 359 of 369; bands of 512 KB or 2 MB the same. With 4 MB, which 64
# channels at 128x128 just do not exceed, a slice of 256x256 took 83.6 ms in place of 82.5
LARGE, BAND = 3 << 20, 1 << 20
PIXELS = 16 * 48  # of a band at least: one strip of Winograd's 4x4 tiles


def cut(height: int, width: int, unit: int, threads: int) -> list[int]:
    """Where rows are cut into bands, at multiples of ``unit``: [0, ..., height].

    Four bands a thread, if each keeps `PIXELS`: a thread that is slow, beside another program or on a slower core, holds up the
    others for one band at most.
    """
    if threads == 1:
        return [0, height]
    count = threads * min(4, max(1, height * width // (PIXELS * threads)))  # as many for each where the unit allows
    return sorted({min(round(height * i / count / unit) * unit, height) for i in range(count)} | {0, height})


def cut_channels(count: int, threads: int) -> list[int]:
    """Where so many channel blocks are cut into shares, in pairs, as the widest matrix product takes them: [0, ..., count].

    A share for each thread: every one transforms all inputs, so that twice as many took 1 % longer.
    """
    return sorted({min(round(count * i / threads / 2) * 2, count) for i in range(threads)} | {0, count})


def chains(stages: Sequence[Layer], deep: range = range(0)) -> list[int]:
    """The number of each stage's chain: those of one are made together, band by band; not in the `deep` ones."""
    found: list[int] = []
    for number, stage in enumerate(stages):
        before = stages[number - 1] if number else None
        joins = before and stage.reads == (before.name,) and (stage.op.kind == STATISTICS or before.statistics)
        joins = joins and number not in deep and number != deep.stop
        found.append(found[-1] + (not joins) if found else 0)
    return found


def cut_for_cache(shape: Shape, unit: int) -> list[int]:
    """As `cut`, where one thread makes a value (C, H, W), or measures it, in a chain."""
    channels, height, width = shape
    row = blocks(channels) * BYTES * width
    return [*range(0, height, max(BAND // (row * unit), 1) * unit), height] if height * row > LARGE else [0, height]


def in_turn(stages: Sequence[tuple[Layer, Algorithm]], bands: Sequence[np.ndarray], chain: Sequence[int]) -> list[tuple[int, int]]:
    """The order for one thread, as numbers of stages and of their bands: in a chain every band as soon as what it reads is made."""
    found: list[tuple[int, int]] = []
    made = [0] * len(stages)  # bands
    needs = [
        dependencies(stage, algorithm, stages[number - 1][0].name, bands[number], bands[number - 1])
        if number and chain[number] == chain[number - 1]
        else []
        for number, (stage, algorithm) in enumerate(stages)
    ]

    def make(number: int, count: int) -> None:
        for band in range(made[number], count):
            if needs[number]:
                make(number - 1, needs[number][band][1])
            found.append((number, band))
        made[number] = max(made[number], count)

    for number, steps in enumerate(bands):
        if number + 1 == len(stages) or chain[number + 1] != chain[number]:
            make(number, len(steps))
    return found


def rows_read(stage: Layer, algorithm: Algorithm, value: str, y0: int, y1: int) -> tuple[int, int] | None:
    """The rows [first, end) of ``value`` that rows [y0, y1) of a stage are made from; None if it reads another.

    They may lie outside the value: the caller clips.
    """
    if value not in stage.reads:
        return None
    if value == stage.statistics:
        return 0, MAX_SIDE
    first, end = algorithm.rows(stage.op, y0, y1) if value in stage.inputs else (y0, y1)
    return (min(first, y0), max(end, y1)) if value == stage.other else (first, end)


def dependencies(stage: Layer, algorithm: Algorithm, value: str, steps: np.ndarray, above: np.ndarray) -> list[tuple[int, int]]:
    """For each band of a stage, the bands [first, end) of the stage before, which makes ``value``, that must be made before it.

    Together they are all of them, even where a stage reads something else, or not every row.
    """
    found, upto = [], 0
    for number, step in enumerate(steps, 1):
        rows = rows_read(stage, algorithm, value, int(step["y0"]), int(step["y1"]))
        first, end = 0, len(above)
        if rows:
            first = min(upto, int(np.searchsorted(above["y1"], rows[0], "right")))
            end = len(above) if number == len(steps) else max(upto, int(np.searchsorted(above["y0"], rows[1], "left")))
        found.append((first, end))
        upto = end
    return found


def share(stages: Sequence[tuple[Layer, Algorithm]], bands: Sequence[np.ndarray]) -> np.ndarray:
    """Write into the steps of all bands, a stage's from the top down, what they depend on.

    Returns
    -------
    int64 array
        The state of every band, zero before a run: the steps point to it.
    """
    states = np.zeros(sum(map(len, bands)), np.int64)
    addresses = states.ctypes.data + 8 * np.cumsum([0, *map(len, bands)])  # of the state of a stage's first band
    for number, ((stage, algorithm), steps) in enumerate(zip(stages, bands, strict=True)):
        steps["state"] = addresses[number] + 8 * np.arange(len(steps))
        if number:
            before, _ = stages[number - 1]
            ranges = np.array(dependencies(stage, algorithm, before.name, steps, bands[number - 1]))
            steps["dependencies"] = addresses[number - 1] + 8 * ranges[:, 0]
            steps["dependency_count"] = ranges[:, 1] - ranges[:, 0]
    return states


def order(count: int, thread: int, threads: int) -> np.ndarray:
    """In which order a thread goes through a stage's bands: first its own share, then what others may not come to.

    Every second thread goes upwards, so that neighbours come to the edge between them at the same time, early or late.
    """
    first, end = count * thread // threads, count * (thread + 1) // threads
    steps = np.arange(count)
    return (first + steps if thread % 2 == 0 else end - 1 - steps) % count
