"""From a plan and the size of an image to a program: the memory it works in, and the steps that the kernels read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .arena import Fields, Layout, Memory, arrange
from .bands import chains, cut, cut_for_cache, in_turn, order, share
from .codegen.step import ROOM, STEP
from .fuse import Layer
from .plan import Plan


def lay_out(plan: Plan, height: int, width: int, threads: int = 1, keep: bool = False) -> Layout:
    """The memory that a program needs, for images of ``height`` x ``width``; with ``keep`` no two values share any."""
    shapes = plan.shapes(height, width)
    moments = chains(plan.stages) if threads == 1 else range(len(plan.stages))
    buffers, size = arrange(plan.stages, shapes, plan.planes, plan.in_place, moments, int(threads > 1), keep)
    return Layout(shapes, buffers, size, plan.scratch, plan.border, shapes[plan.spec.output], threads)


class Program:
    """The steps of a network for one size of image, with the memory they work in.

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

    Attributes
    ----------
    key : (int, int, int)
        Height, width, threads.
    memory : Memory
    bands : list of array
        A stage's steps, each in the record of its algorithm: one for each band of rows.
    steps : list of array of STEP
        A thread's steps of all stages, in its order and with its scratch.
    order : list of (int, int)
        Where there is one thread, the stage and the band of each of its steps.
    addresses : list of int
        Where each thread's steps begin.
    states : int64 array
        Of the bands, where threads share them.
    """

    def __init__(self, plan: Plan, addresses: Mapping[str, int], height: int, width: int, threads: int = 1, keep: bool = False) -> None:
        self.plan = plan
        self.memory = Memory(lay_out(plan, height, width, threads, keep))
        self._held: list[np.ndarray] = []  # what steps point to
        stages = [(stage, plan.algorithm(stage)) for stage in plan.stages]
        chain = chains(plan.stages)
        self.bands = [
            self._bands(stage, addresses, self._bounds(stage, threads, chain.count(number)))
            for number, stage in zip(chain, plan.stages, strict=True)
        ]
        self.states = share(stages, self.bands) if threads > 1 else np.zeros(0, np.int64)
        self.order = in_turn(stages, self.bands, chain) if threads == 1 else []
        self.steps = [self._steps(thread, threads) for thread in range(threads)]
        self.addresses = [steps.ctypes.data for steps in self.steps]
        self.key = height, width, threads

    @property
    def output(self) -> np.ndarray:
        """Probabilities, (classes, H, W) float32, after a run and until the next."""
        return self.memory.output

    def begin(self) -> np.ndarray:
        """Before every run: nothing is done yet. Gives the place of the image, (C, H, W) float32, which the caller fills."""
        self.states[:] = 0
        return self.memory.image

    def _bounds(self, stage: Layer, threads: int, chained: int) -> list[int]:
        """Where the rows of a stage are cut, which is one of a chain of so many."""
        shape, unit = self.memory.shapes[stage.op.name], self.plan.algorithm(stage).unit(stage.op)
        return cut_for_cache(shape, unit) if threads == 1 and chained > 1 else cut(*shape[1:], unit, threads)

    def _bands(self, stage: Layer, addresses: Mapping[str, int], bounds: list[int]) -> np.ndarray:
        """The steps of one stage, but for the scratch: one for each band of rows, from the top down."""
        algorithm, memory = self.plan.algorithm(stage), self.memory
        steps = np.zeros(len(bounds) - 1, algorithm.kernel.step)
        steps["kernel"], steps["y0"], steps["y1"] = addresses[algorithm.name], bounds[:-1], bounds[1:]
        self._write(steps, self.plan.packed[stage.name].fields)
        self._write(steps, algorithm.locate(stage, memory))
        for number in range(len(steps)):
            self._write(steps[number : number + 1], algorithm.band(stage, memory, bounds[number], bounds[number + 1]))
        return steps

    def _write(self, steps: np.ndarray, fields: Fields) -> None:
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                self._held.append(value)
                value = value.ctypes.data
            steps[name] = value

    def _steps(self, thread: int, threads: int) -> np.ndarray:
        """The steps of one thread, in its order and with its scratch."""
        parts = []
        for stage, bands in zip(self.plan.stages, self.bands, strict=True):
            rows = bands.view(np.int64).reshape(-1, ROOM)[order(len(bands), thread, threads)]
            steps = rows.view(bands.dtype)[:, 0]
            for area in self.plan.packed[stage.name].scratch:
                steps[area] = self.memory.scratch[thread][area].ctypes.data
            parts.append(rows)  # as plain numbers: NumPy need not copy what lies between the fields of a record
        if threads == 1:
            parts = [parts[stage][band : band + 1] for stage, band in self.order]
        return np.concatenate(parts).view(STEP)[:, 0]
