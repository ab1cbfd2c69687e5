"""How threads share a slice: every layer cut into bands of rows, who begins where, and what must be made before a band.

Nobody waits for a whole layer: a band may begin when the bands that it reads of the layer before are made. A thread comes to the next
layer when all bands of this one are taken; together they need all bands of the layer before (`needs` sees to that), which are made then.
So two layers at most are at work at a time, and a value's memory is free again one layer after its last reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .choose import STRIP
from .fuse import Layer

Stage = Layer | str  # a layer; the way in, by the image's name; the way out, by the output's


def cut(stage: Stage, height: int, width: int, parts: int) -> list[int]:
    """Where rows are cut into bands, between whole rows of tiles: [0, ..., height].

    Four bands a thread, if each keeps the pixels of 48 tiles of 4x4: a thread that is slow, beside another program or on a slower core,
    holds up the others for one band at most.
    """
    if parts == 1:
        return [0, height]
    unit = 1
    if isinstance(stage, Layer) and stage.op.kind in ("conv", "deconv"):
        unit = 4 * (stage.op["dilation"] if stage.op.kind == "conv" else stage.op["stride"])
    count = parts * min(4, max(1, height * width // (16 * STRIP * parts)))  # as many for each where the unit allows
    return sorted({min(round(height * i / count / unit) * unit, height) for i in range(count)} | {0, height})


def reads(stage: Stage, value: str, y0: int, y1: int) -> tuple[int, int] | None:
    """The rows [first, end) of ``value``, edges not minded, that rows [y0, y1) of a stage are made from; None if it reads another.

    With a stride of 2, Winograd reads whole pairs of rows: one more on either side.
    """
    if isinstance(stage, str):
        return y0, y1
    if value not in stage.reads:
        return None
    op, first, end = stage.op, y0, y1
    if value in stage.inputs and op.kind == "conv":
        stride, reach = op["stride"], op["dilation"] * (op["kernel"] - 1)
        first, end = y0 * stride - op["padding"] - stride + 1, y1 * stride - op["padding"] + reach
    elif value in stage.inputs and op.kind == "deconv":
        first, end = (y0 + op["padding"] - op["kernel"] + 1) // op["stride"], (y1 - 1 + op["padding"]) // op["stride"] + 1
    elif value in stage.inputs and op.kind == "maxpool":
        first, end = y0 * op["kernel"], y1 * op["kernel"]
    return (min(first, y0), max(end, y1)) if value == stage.other else (first, end)


def needs(stage: Stage, value: str, steps: np.ndarray, above: np.ndarray) -> list[tuple[int, int]]:
    """For each band of a stage, the bands [first, end) of the stage before, which makes ``value``, that must be made before it.

    Together they are all of them, even where a stage reads something else, or not every row.
    """
    found, upto = [], 0
    for number, step in enumerate(steps, 1):
        rows = reads(stage, value, int(step["y0"]), int(step["y1"]))
        first, end = 0, len(above)
        if rows:
            first = min(upto, int(np.searchsorted(above["y1"], rows[0], "right")))
            end = len(above) if number == len(steps) else max(upto, int(np.searchsorted(above["y0"], rows[1], "left")))
        found.append((first, end))
        upto = end
    return found


def share(stages: Sequence[Stage], bands: Sequence[np.ndarray]) -> np.ndarray:
    """Write into the steps of all bands, a stage's from the top down, what they wait for.

    Returns
    -------
    int64 array
        The state of every band, zero before a run: the steps point to it.
    """
    states = np.zeros(sum(map(len, bands)), np.int64)
    claims = states.ctypes.data + 8 * np.cumsum([0, *map(len, bands)])  # of a stage's first band
    for number, (stage, steps) in enumerate(zip(stages, bands, strict=True)):
        steps["claim"] = claims[number] + 8 * np.arange(len(steps))
        if number:
            before = stages[number - 1]
            value = before if isinstance(before, str) else before.name
            for step, (first, end) in zip(steps, needs(stage, value, steps, bands[number - 1]), strict=True):
                step["needs"], step["need_count"] = claims[number - 1] + 8 * first, end - first
    return states


def order(count: int, part: int, parts: int) -> np.ndarray:
    """In which order a thread goes through a stage's bands: first its own share, then what others may not come to.

    Every second thread goes upwards, so that neighbours come to the edge between them at the same time, early or late.
    """
    first, end = count * part // parts, count * (part + 1) // parts
    steps = np.arange(count)
    return (first + steps if part % 2 == 0 else end - 1 - steps) % count
