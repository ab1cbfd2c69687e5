"""Where everything lives while a network runs: its values and the threads' scratch in one arena, the image and the output as planes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..spec import INPUT, Shape
from .codegen.layout import aligned_zeros, blocks
from .codegen.simd import BYTES
from .codegen.step import SOURCE
from .fuse import Layer

Fields = dict[str, Any]  # of a step, by name: whole numbers, and arrays, which stand for their addresses


class Place(int):
    """An address in the arena: another one when the program goes to another arena."""


@dataclass(frozen=True)
class Buffer:
    """Where a value lives: channel block b of pixel (y, x) is at ``offset + y * row + x * pixel + b * 64`` in the arena.

    Of ``slices`` that go through the deep stages together, each one's value lies below that of the slice before.
    """

    shape: Shape
    offset: int = 0
    slices: int = 1

    @property
    def blocks(self) -> int:
        return blocks(self.shape[0])

    @property
    def pixel(self) -> int:
        return self.blocks * BYTES

    @property
    def row(self) -> int:
        return self.shape[2] * self.pixel

    @property
    def size(self) -> int:
        return self.slices * self.shape[1] * self.row

    def at(self, number: int) -> int:
        """Where the value of a slice begins; all slices are made in the same place where one is done with before the next begins."""
        return self.offset + (number * self.shape[1] * self.row if self.slices > 1 else 0)


def place(lives: list[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Offsets of buffers in one arena, first fit: two share bytes only if their lives do not meet.

    Parameters
    ----------
    lives : list of (size in bytes, first, last)
        Each buffer is in use from moment ``first`` to moment ``last``, both included.

    Returns
    -------
    offsets : list of int
    size : int
        Of the arena.
    """
    offsets: list[int] = [-1] * len(lives)
    for index in sorted(range(len(lives)), key=lambda i: -lives[i][0] * (lives[i][2] - lives[i][1] + 1)):  # hard to fit, so first
        size, first, last = lives[index]
        rivals = [i for i, life in enumerate(lives) if offsets[i] >= 0 and life[1] <= last and first <= life[2]]
        taken = sorted((offsets[i], offsets[i] + lives[i][0]) for i in rivals)
        offset = 0
        for begin, end in taken:
            if offset + size <= begin:
                break
            offset = max(offset, end)
        offsets[index] = offset
    return offsets, max((offset + size for offset, (size, _, _) in zip(offsets, lives, strict=True)), default=0)


@dataclass(frozen=True)
class Layout:
    """What the memory of a program is made of, before any is taken."""

    shapes: Mapping[str, Shape]  # of every value
    buffers: Mapping[str, Buffer]  # of the values in the arena
    scratch: Mapping[str, Mapping[str, range]]  # where each thread's areas begin there, by stage and by the step's field
    arena: int  # bytes
    border: int  # width of the zeros around the image
    output: Shape
    slices: int

    @property
    def planes(self) -> int:
        """Bytes of the images and outputs."""
        channels, height, width = self.shapes[INPUT]
        each = channels * (height + 2 * self.border) * (width + 2 * self.border) + prod(self.output)
        return 4 * self.slices * each

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.arena + self.planes


def arrange(
    stages: Sequence[Layer],
    shapes: Mapping[str, Shape],
    planes: Collection[str],
    in_place: Collection[str],
    scratch: Mapping[str, Mapping[str, int]],
    moments: Sequence[int],
    threads: int,
    keep: bool,
    deep: range = range(0),
    slices: int = 1,
) -> tuple[dict[str, Buffer], dict[str, dict[str, range]], int]:
    """Buffers of all values that ``stages`` make in turn, but those that exist as ``planes`` only, areas of scratch, the arena's size.

    ``scratch`` is the bytes of a stage's areas, each in use while it runs and had by every thread, whose places are a range.
    A value of ``in_place`` has the buffer of its stage's first input where it is the last to read that. ``moments`` are when each
    stage runs, the same for those that run together; of several threads one may begin a stage while others are at the one before. With
    ``keep`` no two share memory, so that all can be read after a run.

    Several slices go through the stages of ``deep`` together, and one after the other through those before and behind: what is made and
    last read on one side of them has room for one slice, all else for each.
    """
    lag = int(threads > 1)
    made = {stage.name: moment for moment, stage in enumerate(stages) if stage.name not in planes}
    last = dict(made)
    for moment, stage in enumerate(stages):
        last |= {value: moment for value in stage.reads if value in made}
    home = {value: value for value in made}  # in whose buffer it is
    for moment, stage in enumerate(stages):
        if stage.name in in_place and stage.name in made and not keep and last.get(stage.inputs[0]) == moment:
            home[stage.name] = home[stage.inputs[0]]
            last[home[stage.name]] = last[stage.name]
    owners = [value for value in made if home[value] == value]
    each = {name: 1 if last[name] < deep.start or made[name] >= deep.stop else slices for name in owners}
    lives = []
    for name in owners:
        several = each[name] > 1
        first = 0 if keep or (several and made[name] < deep.start) else moments[made[name]]  # another slice's may be made before
        end = len(stages) if keep or (several and last[name] >= deep.stop) else moments[last[name]] + lag  # and read after it
        lives.append((Buffer(shapes[name], slices=each[name]).size, first, end))
    areas = [(stage.name, area, moment) for stage, moment in zip(stages, moments, strict=True) for area in scratch[stage.name]]
    lives += [(threads * scratch[name][area], moment, moment + lag) for name, area, moment in areas]
    offsets, size = place(lives)
    offset = dict(zip(owners, offsets, strict=False))  # behind them those of scratch
    found: dict[str, dict[str, range]] = {name: {} for name in scratch}
    for (name, area, _), start in zip(areas, offsets[len(owners) :], strict=True):
        found[name][area] = range(start, start + threads * scratch[name][area], scratch[name][area])
    return {value: Buffer(shapes[value], offset[home[value]], each[home[value]]) for value in made}, found, size


class Memory:
    """The memory of one program, and the fields of steps that say where things are.

    Attributes
    ----------
    shapes : mapping of str to (C, H, W)
    address : int
        Of the arena; 0 before the first one.
    arena : uint8 array or None
        While the program has one: programs that do not run at the same time may share it.
    images, outputs : list of (C, H, W) float32
        Of each slice. An image is a view into a border of zeros.
    image, output : (C, H, W) float32
        The first ones.
    slices : int
        How many a step makes whose algorithm can make `several`.
    """

    def __init__(self, layout: Layout) -> None:
        self.shapes = layout.shapes
        self.address = 0
        self.arena: np.ndarray | None = None
        self.slices, self._number = layout.slices, 0
        self.images = [_bordered(layout.shapes[INPUT], layout.border) for _ in range(layout.slices)]
        self.outputs = [aligned_zeros(4 * prod(layout.output)).view(np.float32).reshape(layout.output) for _ in range(layout.slices)]
        self.image, self.output = self.images[0], self.outputs[0]
        self._buffers, self._scratch = layout.buffers, layout.scratch
        self._made: dict[tuple[Any, ...], Any] = {}

    def of(self, number: int, slices: int = 1) -> Memory:
        """The same memory as a slice sees it, or some from it on."""
        view = copy(self)
        view.slices, view._number, view.image, view.output = slices, number, self.images[number], self.outputs[number]
        return view

    def target(self, value: str) -> Fields:
        """`codegen.step.TARGET`: where a value is made."""
        buffer = self._buffers[value]
        return {"width": buffer.shape[2], "target_blocks": buffer.blocks} | self.at("target", value)

    def other(self, layer: Layer) -> Fields:
        """``other`` and its strides, of `codegen.epilogue.EPILOGUE`: the layer's second operand, zeros if it has none."""
        return self.at("other", layer.other) if layer.other else {}

    def at(self, field: str, value: str) -> Fields:
        """The address of a value in ``field``, and its strides in ``field_row`` and ``field_pixel``."""
        buffer = self._buffers[value]
        place = Place(self.address + buffer.at(self._number))
        return {field: place, f"{field}_row": buffer.row, f"{field}_pixel": buffer.pixel}

    def scratch(self, stage: str, thread: int) -> Fields:
        """A thread's workspace in a stage: what its kernel writes and nobody reads afterwards."""
        return {area: Place(self.address + starts[thread]) for area, starts in self._scratch[stage].items()}

    def source_table(self, values: Sequence[str]) -> np.ndarray:
        """Every channel block of ``values`` side by side, as rows of `codegen.step.SOURCE`."""
        buffers = [self._buffers[value] for value in values]
        places = [(self.address + buffer.at(self._number), buffer) for buffer in buffers]
        rows = [(first + block * BYTES, one.row, one.pixel) for first, one in places for block in range(one.blocks)]
        return np.array(rows, SOURCE)

    def sources(self, values: Sequence[str]) -> Fields:
        """`codegen.step.SOURCES` of ``values``."""
        table = self.source_table(values)
        return {"sources": table, "source_blocks": len(table)}

    def once(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """``make(*arguments)``, made once for all layers that ask for it and kept as long as this memory."""
        key = (make, *arguments)
        if key not in self._made:
            self._made[key] = make(*arguments)
        return self._made[key]

    def value(self, name: str) -> np.ndarray:
        """A copy of one value, (C, H, W), after a run that kept it."""
        if name not in self._buffers:
            return self.output.copy()
        assert self.arena is not None  # in which it ran
        buffer = self._buffers[name]
        channels, height, width = buffer.shape
        rows = self.arena[buffer.offset : buffer.offset + buffer.size].view(np.float32)
        return rows.reshape(height, width, -1)[:, :, :channels].transpose(2, 0, 1).copy()


def _bordered(shape: Shape, border: int) -> np.ndarray:
    """Planes within a border of zeros, and room behind them for the end of the last tile."""
    channels, height, width = shape
    line, size = width + 2 * border, (height + 2 * border) * (width + 2 * border)
    memory = aligned_zeros(4 * channels * size + 4 * BYTES)[: 4 * channels * size]
    whole = memory.view(np.float32).reshape(channels, height + 2 * border, line)
    return whole[:, border : border + height, border : border + width]
