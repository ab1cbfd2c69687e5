"""From a plan and the size of an image to a program: the memory it works in, and the steps that the kernels read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from operator import itemgetter

import numpy as np

from ..spec import Shape
from .arena import Fields, Layout, Memory, Place, arrange
from .bands import chains, cut, cut_channels, cut_for_cache, in_turn, order, share
from .codegen.epilogue import PARAMETERS
from .codegen.layout import aligned_zeros, blocks
from .codegen.simd import BYTES
from .codegen.step import ROOM, SOURCE, STEP
from .fuse import Layer
from .paging import Mapped
from .plan import Plan

# Bytes that another slice may take. nnU-Net's default network: 22 MB at 256x256, for a tenth of the time; on AVX2, which has fewer deep
# stages, 24, for 3 % of it; at 512x512 98, for 3 %
ANOTHER = 24 << 20


def lay_out(plan: Plan, height: int, width: int, threads: int = 1, keep: bool = False, slices: int = 1) -> Layout:
    """The memory that a program needs, for images of ``height`` x ``width``; with ``keep`` no two values share any."""
    shapes = plan.shapes(height, width)
    moments = chains(plan.stages, plan.deep) if threads == 1 else range(len(plan.stages))
    scratch = {}
    for stage, rows in zip(plan.stages, bounds(plan, shapes, threads), strict=True):
        most, width = max(end - first for first, end in pairwise(rows)), shapes[stage.name][2]
        scratch[stage.name] = plan.packed[stage.name].areas(slices, most, width)
    found = arrange(plan.stages, shapes, plan.planes, plan.in_place, scratch, moments, threads, keep, plan.deep, slices)
    return Layout(shapes, *found, plan.border, shapes[plan.spec.output], slices)


def bounds(plan: Plan, shapes: Mapping[str, Shape], threads: int) -> list[list[int]]:
    """Where the rows of every stage are cut."""
    chain, found = chains(plan.stages, plan.deep), []
    for number, stage in zip(chain, plan.stages, strict=True):
        shape, unit = shapes[stage.op.name], plan.algorithm(stage).unit(stage.op)
        chained = threads == 1 and chain.count(number) > 1
        rows = 1 if shares(plan, stage, shapes, threads) else threads
        found.append(cut_for_cache(shape, unit) if chained else cut(*shape[1:], unit, rows))
    return found


def shares(plan: Plan, stage: Layer, shapes: Mapping[str, Shape], threads: int) -> list[int]:
    """Where a stage's channel blocks are cut for threads, [0, ..., all]; empty where its rows are cut."""
    if threads == 1 or not plan.packed[stage.name].column or not plan.heavy(stage, shapes):
        return []
    return cut_channels(blocks(shapes[stage.name][0]), threads)


def abreast(plan: Plan, height: int, width: int) -> int:
    """How many slices a thread takes through the deep stages together: two, where there are such stages and another takes little memory.

    More would gain little: of 53 ms that these stages take of a slice in nnU-Net's default network two save 10 and four 11.
    """
    if not plan.deep:
        return 1
    one, two = (lay_out(plan, height, width, slices=slices).nbytes for slices in (1, 2))
    return 2 if two - one <= ANOTHER else 1


Key = tuple[int, int, int, int]  # of a program: height, width, threads, slices
Turn = tuple[str, np.ndarray]  # the name of a stage, and some of its steps as rows of numbers


class Program:
    """The steps of a network for one size of image, and the memory they work in, of which the arena is given before a run: see `settle`.

    Parameters
    ----------
    plan : Plan
    addresses : mapping of str to int
        The compiled kernels.
    height, width : int
        Of the image.
    threads : int
        That share one slice, see `bands`.
    keep : bool
        Give every value memory of its own, so that all can be read after a run.
    slices : int
        That go through the deep stages together, at most.

    Attributes
    ----------
    key : Key
    memory : Memory
    bands : list of array
        A stage's steps, each in the record of its algorithm: one for each band of rows, or share of its channels.
    steps : list of array of STEP
        A thread's steps of all stages, in its order and with its scratch: every thread's of one slice, then of two ...
    order : list of (int, int)
        Where there is one thread, the stage and the band of each of its steps for one slice.
    addresses : list of int
        Where each of ``steps`` begins.
    rests : list of (int, list of Mapped)
        Of each of ``steps``: behind which step a stage's mapped weights are done with.
    states : list of int64 array
        Of the bands of one slice, of two ..., where threads share them.
    """

    def __init__(
        self,
        plan: Plan,
        addresses: Mapping[str, int],
        height: int,
        width: int,
        threads: int = 1,
        keep: bool = False,
        slices: int = 1,
    ) -> None:
        self.plan = plan
        self._addresses = addresses
        self.layout = lay_out(plan, height, width, threads, keep, slices)
        self.memory = Memory(self.layout)
        self._held: list[np.ndarray] = []  # what steps point to
        self._places = {stage.name: np.zeros(ROOM, np.bool_) for stage in plan.stages}  # which fields of its steps are a `Place`
        self.key = height, width, threads, slices
        stages = [(stage, plan.algorithm(stage)) for stage in plan.stages]
        chain = chains(plan.stages, plan.deep)
        rows = zip(plan.stages, bounds(plan, self.memory.shapes, threads), strict=True)
        views = [self.memory.of(number) for number in range(slices)]
        each = [[self._bands(stage, view, cuts) for view in views] for stage, cuts in rows]
        self.bands = [bands[0] for bands in each]
        self.states: list[np.ndarray] = []
        self.order = in_turn(stages, self.bands, chain) if threads == 1 else []
        turns = [turn for count in range(1, slices + 1) for turn in self._of_slices(count, each)]
        self.steps = [np.concatenate([rows for _, rows in turn]).view(STEP)[:, 0] for turn in turns]
        self._moving = [np.concatenate([np.repeat(self._places[name][None], len(rows), 0) for name, rows in turn]) for turn in turns]
        self.addresses = [steps.ctypes.data for steps in self.steps]
        self.rests = [self._rests(turn) for turn in turns]

    @property
    def output(self) -> np.ndarray:
        """Probabilities, (classes, H, W) float32, after a run and until the next."""
        return self.memory.output

    @property
    def threads(self) -> int:
        """That share a slice."""
        return self.key[2]

    @property
    def slices(self) -> int:
        """How many run together, at most."""
        return self.key[3]

    def settle(self, arena: np.ndarray | None = None) -> None:
        """Before the first run, or to run in another arena, of which it may hold any share: without one in new memory."""
        memory, arena = self.memory, aligned_zeros(self.layout.arena) if arena is None else arena
        moved = arena.ctypes.data - memory.address
        memory.arena, memory.address = arena, arena.ctypes.data
        if moved:
            for steps, places in zip(self.steps, self._moving, strict=True):
                steps.view(np.int64).reshape(-1, ROOM)[places] += moved
            for table in self._held:
                if table.dtype == SOURCE:
                    table["base"] += moved

    def begin(self) -> np.ndarray:
        """Before every run: nothing is done yet. Gives the place of the image, (C, H, W) float32, which the caller fills."""
        for states in self.states:
            states[:] = 0
        return self.memory.image

    def _bands(self, stage: Layer, memory: Memory, bounds: list[int]) -> np.ndarray:
        """The steps of one stage, but for the scratch: one for each band of rows, from the top down, or for each share of its channels."""
        algorithm = self.plan.algorithm(stage)
        steps = np.zeros(len(bounds) - 1, algorithm.kernel.step)
        steps["kernel"], steps["y0"], steps["y1"] = self._addresses[algorithm.name], bounds[:-1], bounds[1:]
        self._write(stage, steps, self.plan.packed[stage.name].fields)
        self._write(stage, steps, algorithm.locate(stage, memory))
        for number in range(len(steps)):
            self._write(stage, steps[number : number + 1], algorithm.band(stage, memory, bounds[number], bounds[number + 1]))
        cuts = self._cuts(stage)
        if cuts:  # of the one band
            steps, first = np.repeat(steps, len(cuts) - 1), np.array(cuts[:-1])
            steps["target_blocks"] = np.diff(cuts)
            apart = {"weights": self.plan.packed[stage.name].column, "parameters": PARAMETERS, "target": BYTES, "other": BYTES}
            for name, size in apart.items():  # from a channel block to the next
                steps[name] += size * first
        return steps

    def _cuts(self, stage: Layer) -> list[int]:
        return shares(self.plan, stage, self.memory.shapes, self.threads)

    def _write(self, stage: Layer, steps: np.ndarray, fields: Fields) -> None:
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                self._held.append(value)
                value = value.ctypes.data
            elif isinstance(value, Place):
                self._places[stage.name][(steps.dtype.names or ()).index(name)] = True
            steps[name] = value

    def _of_slices(self, count: int, each: list[list[np.ndarray]]) -> list[list[Turn]]:
        """Every thread's steps for so many slices, given a stage's for each: deep stages in turn, made for all, others by slices."""
        deep, rows = self.plan.deep if count > 1 else range(0), []
        for number, (stage, bands) in enumerate(zip(self.plan.stages, each, strict=True)):
            together = number in deep and self.plan.algorithm(stage).several and (self.threads == 1 or self._cuts(stage))
            rows.append([self._together(stage, count)] if together else bands[:count])
        if self.threads > 1:
            return self._shared(deep, count, rows)
        turns = [(one, *turn) for one in range(count) for turn in self.order if turn[0] < deep.start]
        turns += [(one, *turn) for turn in self.order if turn[0] in deep for one in range(len(rows[turn[0]]))]
        turns += [(one, *turn) for one in range(count) for turn in self.order if turn[0] >= deep.stop]
        ready = [[self._ready(stage, made, 0) for made in several] for stage, several in zip(self.plan.stages, rows, strict=True)]
        return [[(self.plan.stages[number].name, ready[number][one][band : band + 1]) for one, number, band in turns]]

    def _shared(self, deep: range, count: int, rows: list[list[np.ndarray]]) -> list[list[Turn]]:
        """Where threads share slices, as `_of_slices`: each slice's stages, and what is made for all, follow each other like stages."""
        numbers = range(len(rows))
        turns = [(number, one) for one in range(count) for number in numbers[: deep.start]]
        turns += [(number, one) for number in deep for one in range(len(rows[number]))]
        turns += [(number, one) for one in range(count) for number in numbers[deep.stop :]]
        stages, bands = [self.plan.stages[number] for number, _ in turns], [rows[number][one].copy() for number, one in turns]
        self.states.append(share([(stage, self.plan.algorithm(stage)) for stage in stages], bands))

        def of(thread: int) -> list[Turn]:
            pairs = zip(stages, bands, strict=True)
            return [(stage.name, self._ready(stage, made, thread)[order(len(made), thread, self.threads)]) for stage, made in pairs]

        return [of(thread) for thread in range(self.threads)]

    def _together(self, stage: Layer, count: int) -> np.ndarray:
        """The one step of a deep stage that makes all rows of so many slices, or its shares."""
        memory = self.memory.of(0, count)
        return self._bands(stage, memory, [0, memory.shapes[stage.name][1]])

    def _rests(self, turn: list[Turn]) -> list[tuple[int, list[Mapped]]]:
        """Where stages with mapped weights have run for the last time, and those."""
        upto = list(accumulate(len(rows) for _, rows in turn))
        if self.threads > 1:  # others may still be at a stage that one has passed, but none at the one before; any thread may be late
            upto = [*upto[1:], upto[-1]]
        ends = dict(zip((name for name, _ in turn), upto, strict=True))
        mapped = {name: [each for each in self.plan.packed[name].fields.values() if isinstance(each, Mapped)] for name in ends}
        return sorted(((end, mapped[name]) for name, end in ends.items() if mapped[name]), key=itemgetter(0))

    def _ready(self, stage: Layer, bands: np.ndarray, thread: int) -> np.ndarray:
        """A stage's steps with a thread's scratch, as plain numbers: NumPy need not copy what lies between the fields of a record."""
        rows = bands.view(np.int64).reshape(-1, ROOM).copy()
        self._write(stage, rows.view(bands.dtype)[:, 0], self.memory.scratch(stage.name, thread))
        return rows
