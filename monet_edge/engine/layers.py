"""The layers of a network as they run: algorithm, shape, work, bytes, and on demand the time of every algorithm that suits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from statistics import median

import numpy as np

from ..spec import INPUT, Pair, Shape, Spec, count_macs, pair
from .algorithms import convert, families
from .arena import Buffer
from .codegen import jit
from .fuse import BEFORE, CONVOLUTIONS, Layer
from .plan import Plan
from .program import Program

LABELS = {convert.FROM_PLANES: "way in", convert.TO_PLANES: "way out"}  # in a table
Times = dict[str, dict[str, list[float]]]  # seconds of every round, by stage and algorithm


@dataclass(frozen=True)
class Row:
    """One stage of a plan."""

    name: str
    algorithm: str
    shape: str
    macs: int  # multiply-accumulates of a direct convolution; 0 for what is none
    read: int  # bytes of the values read and of packed weights
    written: int  # bytes
    seconds: Mapping[str, float] = field(default_factory=dict)  # the median of every algorithm that was timed


def rows(plan: Plan, height: int, width: int, times: Times | None = None) -> list[Row]:
    """The stages of a plan for images of ``height`` x ``width``, in order, with what `measure` found."""
    shapes = plan.shapes(height, width)
    macs = count_macs(plan.spec, height, width)
    found = []
    for stage in plan.stages:
        values = stage.reads or (INPUT,)
        as_planes = plan.planes | ({INPUT} if stage.op.kind == convert.FROM_PLANES else set())
        read = sum(_nbytes(shapes[value], value in as_planes) for value in values)
        read += sum(value.nbytes for value in plan.packed[stage.name].fields.values() if isinstance(value, np.ndarray))
        seconds = {name: median(taken) for name, taken in (times or {}).get(stage.name, {}).items()}
        written = _nbytes(shapes[stage.name], stage.name in plan.planes)
        algorithm = plan.algorithm(stage).name
        found.append(
            Row(
                LABELS.get(stage.op.kind, stage.name.removesuffix(BEFORE)),
                algorithm,
                describe(stage, shapes),
                macs[stage.op.name] if stage.op.kind in CONVOLUTIONS else 0,
                read,
                written,
                seconds,
            )
        )
    return found


def describe(stage: Layer, shapes: Mapping[str, Shape]) -> str:
    """``16+16x256x256 to 16x256x256, conv 3x3``, with stride and dilation where they are not 1."""
    op, inputs = stage.op, stage.inputs or (INPUT,)
    _, height, width = shapes[inputs[0]]
    text = f"{'+'.join(str(shapes[value][0]) for value in inputs)}x{height}x{width} to {'x'.join(map(str, shapes[stage.name]))}"
    if "kernel" in op.attrs:
        kind = "conv_transpose" if op.kind == "deconv" else op.kind
        text += f", {kind} {_sides(pair(op['kernel']))}"
    steps = {key: op.attrs[key] for key in ("stride", "dilation") if op.attrs.get(key, 1) != 1}
    return text + "".join(f" {key} {_sides(step) if isinstance(step, tuple) else step}" for key, step in steps.items())


def _sides(sides: Pair) -> str:
    return f"{sides[0]}x{sides[1]}"


def _nbytes(shape: Shape, planes: bool) -> int:
    return 4 * prod(shape) if planes else Buffer(shape).size


def alternatives(spec: Spec, tensors: Mapping[str, np.ndarray], sides: tuple[int, int] | None = None) -> list[Plan]:
    """The plan of a network, for images of a size where one is given, then others, in which other algorithms that suit a layer run it."""
    isa = jit.target().isa
    plan = Plan(spec, tensors, isa, sides=sides)
    # a layer comes to its next algorithm when those before it are left out
    chains = [[algorithm.name for algorithm in plan.suitable[layer.name]] for layer in plan.layers]
    exclusions = dict.fromkeys(tuple(chain[:count]) for chain in chains for count in range(1, len(chain)))
    return [plan, *(Plan(spec, tensors, isa, exclude=names, sides=sides) for names in exclusions)]


class Race:
    """Programs of one network that run it in turn, each stage timed where it runs, with the caches as the stage before it left them."""

    def __init__(self, plans: Iterable[Plan], height: int, width: int) -> None:
        self.times: Times = {}
        self.programs = []
        for plan in plans:
            code = jit.load(families(plan.algorithms))
            program = Program(plan, code.addresses, height, width)
            program.settle()
            self.programs.append((program, code.run))

    def run(self, image: np.ndarray, counts: bool = True) -> None:
        """One round, which is not kept unless it ``counts``."""
        for program, run in self.programs:
            program.begin()[...] = image
            steps, seconds = program.steps[0], [0.0] * len(program.plan.stages)
            for index, (number, _) in enumerate(program.order):
                start = time.perf_counter()
                run(steps.ctypes.data, index, index + 1)
                seconds[number] += time.perf_counter() - start
            for stage, took in zip(program.plan.stages, seconds, strict=True):
                if counts:
                    self.times.setdefault(stage.name, {}).setdefault(program.plan.algorithm(stage).name, []).append(took)


def measure(spec: Spec, tensors: Mapping[str, np.ndarray], height: int, width: int, rounds: int = 15) -> Times:
    """Time every stage by every algorithm that suits it, in turn, on one thread and on noise."""
    race = Race(alternatives(spec, tensors, (height, width)), height, width)
    image = np.random.default_rng(0).standard_normal((spec.in_channels, height, width)).astype(np.float32)
    for done in range(rounds + 2):
        race.run(image, counts=done >= 2)
    return race.times


def table(spec: Spec, tensors: Mapping[str, np.ndarray], height: int, width: int, timed: bool = False) -> list[str]:
    """The stages of a network as lines of text in columns; with ``timed`` the milliseconds of each algorithm, the chosen one marked."""
    times = measure(spec, tensors, height, width) if timed else {}
    stages = rows(Plan(spec, tensors, jit.target().isa, sides=(height, width)), height, width, times)
    total = Row("total", "", "", sum(row.macs for row in stages), sum(row.read for row in stages), sum(row.written for row in stages))
    head = ["layer", "algorithm", "shape", "GMAC", "MB read", "MB written"] + ["ms (* chosen)"] * timed
    cells = [head]
    for row in [*stages, total]:
        macs = f"{row.macs / 1e9:.3f}" if row.macs else ""
        cells.append(
            [row.name, row.algorithm, row.shape, macs, f"{row.read / 1e6:.2f}", f"{row.written / 1e6:.2f}"] + [_milliseconds(row)] * timed
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    sides = "<<<>>><"  # numbers to the right
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=False)).rstrip() for line in cells]


def _milliseconds(row: Row) -> str:
    """``winograd* 1.21, im2col 2.90``: the chosen algorithm first."""
    names = sorted(row.seconds, key=lambda name: name != row.algorithm)
    return ", ".join(f"{name}{'*' * (name == row.algorithm)} {1e3 * row.seconds[name]:.2f}" for name in names)
