"""From a plan and the size of an image to a program: place the buffers, write the steps that the kernels read.

Depends on NumPy, the plan and the kernels' layouts; compiles nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..kernels import finish, planes, winograd
from ..kernels.layout import ALIGNMENT, aligned_zeros, blocks
from ..kernels.simd import BLOCK, BYTES
from ..kernels.step import STEP
from ..spec import INPUT, Shape, infer_shapes
from .bands import Stage, cut, order, share
from .choose import Plan
from .fuse import Layer


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
    for index in sorted(range(len(lives)), key=lambda i: -lives[i][0]):  # large ones first: they are hard to fit
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
class Buffer:
    """Where a value lives: pixel (y, x) of (H, W, blocks, 16) is at ``offset + y * row + x * pixel`` in the arena."""

    offset: int
    row: int
    pixel: int
    blocks: int
    size: int


class Program:
    """The steps of a network for one size of image, with the memory they work in.

    Parameters
    ----------
    plan : Plan
    addresses : mapping of str to int
        The compiled kernels.
    height, width : int
        Of the image.
    parts : int
        Threads that share one slice, see `bands`.
    keep : bool
        Give every value memory of its own, so that all can be read after a run.
    """

    def __init__(self, plan: Plan, addresses: Mapping[str, int], height: int, width: int, parts: int = 1, keep: bool = False) -> None:
        self.plan = plan
        self.shapes = infer_shapes(plan.spec, height, width)
        self.buffers, size = self._place(keep, parts)
        self.arena = aligned_zeros(size)
        self.scratches = [_Scratch(plan).allocate() for _ in range(parts)]
        self.sources = {layer.name: self._sources(layer.inputs, plan.packed[layer.name].apart) for layer in plan.layers}
        self.output_sources = self._sources((plan.spec.output,))
        self.image = _bordered(self.shapes[INPUT], plan.border or 0)
        output = self.shapes[plan.spec.output]
        self.output = aligned_zeros(4 * int(np.prod(output))).view(np.float32).reshape(output)
        self.taps: list[np.ndarray] = []
        self.places: dict[tuple[int, ...], tuple[np.ndarray, tuple[np.ndarray, ...]]] = {}
        way_in = [INPUT] if plan.border is None else []
        way_out = [plan.spec.output] if plan.spec.output in self.buffers else []
        stages: list[Stage] = [*way_in, *plan.layers, *way_out]
        bands = [self._bands(stage, addresses, parts) for stage in stages]
        self.states = share(stages, bands) if parts > 1 else np.zeros(0, np.int64)
        self.steps = [self._steps(bands, part, parts) for part in range(parts)]

    @staticmethod
    def memory(plan: Plan, height: int, width: int, parts: int = 1) -> int:
        """Bytes that a program takes."""
        program = object.__new__(Program)
        program.plan, program.shapes = plan, infer_shapes(plan.spec, height, width)
        _, size = program._place(keep=False, parts=parts)
        scratch = _Scratch(plan)
        bordered = [extent + 2 * (plan.border or 0) for extent in (height, width)]
        outer = 4 * (plan.spec.in_channels * int(np.prod(bordered)) + int(np.prod(program.shapes[plan.spec.output])))
        return size + parts * scratch.size + outer

    def begin(self, image: np.ndarray) -> None:
        """Before every run: the image, (C, H, W), and nothing done yet."""
        self.image[...] = image
        self.states[:] = 0

    def value(self, name: str) -> np.ndarray:
        """A copy of one value, (C, H, W), after a run of a program that keeps them."""
        if name not in self.buffers:
            return self.output.copy()
        channels, height, width = self.shapes[name]
        buffer = self.buffers[name]
        rows = self.arena[buffer.offset : buffer.offset + height * buffer.row].view(np.float32)
        return rows.reshape(height, width, -1)[:, :, :channels].transpose(2, 0, 1).copy()

    def _place(self, keep: bool, parts: int) -> tuple[dict[str, Buffer], int]:
        layers = self.plan.layers
        made = {INPUT: 0} | {layer.name: i + 1 for i, layer in enumerate(layers)}
        last = dict(made)
        for i, layer in enumerate(layers):
            for value in layer.reads:
                last[value] = i + 1
        last[self.plan.spec.output] = len(layers) + 1
        planar = {INPUT} if self.plan.border is not None else set()
        if self.plan.packed[self.plan.spec.output].kernel == "conv_dot":
            planar.add(self.plan.spec.output)
        names = [name for name in made if name not in planar]
        geometry = {name: self._geometry(self.shapes[name]) for name in names}
        end = len(layers) + 1
        lag = int(parts > 1)  # a layer may begin before the one in front of it is done
        lives = [(geometry[name].size, 0 if keep else made[name], end if keep else last[name] + lag) for name in names]
        offsets, size = place(lives)
        return {name: replace(geometry[name], offset=offset) for name, offset in zip(names, offsets, strict=True)}, size

    @staticmethod
    def _geometry(shape: Shape) -> Buffer:
        channels, height, width = shape
        pixel = blocks(channels) * BYTES
        return Buffer(0, width * pixel, pixel, blocks(channels), height * width * pixel)

    def _sources(self, values: tuple[str, ...], apart: int = 1) -> np.ndarray:
        """The (blocks, 3) table of what a layer reads: base, row, pixel.

        With ``apart`` 2, even and odd rows and columns are images of their own, in the order that `filters.pack_strided` says.
        """
        rows = []
        for value in values:
            if value not in self.buffers:  # planes
                continue
            buffer = self.buffers[value]
            for block in range(buffer.blocks):
                rows.append((self.arena.ctypes.data + buffer.offset + block * BYTES, buffer.row, buffer.pixel))
        sides = range(apart)
        images = [(base + i * row + j * pixel, apart * row, apart * pixel) for i in sides for base, row, pixel in rows for j in sides]
        return np.array(images, np.int64).reshape(-1, 3)

    def _steps(self, bands: list[np.ndarray], part: int, parts: int) -> np.ndarray:
        """The steps of one thread, in its order and with its workspace."""
        steps = np.concatenate([band[order(len(band), part, parts)] for band in bands])
        for area, memory in self.scratches[part].items():
            steps[area] = memory.ctypes.data
        return steps

    def _bands(self, stage: Stage, addresses: Mapping[str, int], parts: int) -> np.ndarray:
        """The steps of one stage, a layer, the way in (the image's name) or the way out (the output's): one for each band of rows."""
        step = np.zeros(1, STEP)[0]
        name = stage if isinstance(stage, str) else stage.name
        step["channels"], step["height"], step["width"] = self.shapes[name]
        if name in self.buffers:
            buffer = self.buffers[name]
            step["target"] = self.arena.ctypes.data + buffer.offset
            step["target_row"], step["target_pixel"], step["target_blocks"] = buffer.row, buffer.pixel, buffer.blocks
        if isinstance(stage, Layer):
            self._describe(step, stage, addresses)
        else:
            step["kernel"] = addresses["from_planes" if stage == INPUT else "to_planes"]
            step["sources"] = self.output_sources.ctypes.data
            self._planes(step, self.image if stage == INPUT else self.output)
        bounds = cut(stage, *self.shapes[name][1:], parts)
        steps = np.repeat(step, len(bounds) - 1)
        steps["y0"], steps["y1"] = bounds[:-1], bounds[1:]
        for each in steps if step["kernel"] == addresses.get("conv_winograd") else ():
            each["places"], each["tiles"] = self._tiles(each)
        return steps

    @staticmethod
    def _planes(step: np.void, planes: np.ndarray) -> None:
        step["other"], step["other_pixel"], step["other_row"] = planes.ctypes.data, planes.strides[0], planes.strides[1]

    def _tiles(self, step: np.void) -> tuple[int, int]:
        """Address and number of the tiles of a step; layers of one shape share them."""
        rows = [int(step[side] // step["out_step"]) for side in ("y0", "y1")]
        key = (*(int(step[field]) for field in ("in_height", "in_width", "in_step", "dilation")), *rows)
        if key not in self.places:
            self.places[key] = winograd.tile_places(*key)
        places = self.places[key][0]
        return places.ctypes.data, len(places)

    def _describe(self, step: np.void, layer: Layer, addresses: Mapping[str, int]) -> None:
        """Fill what a step says about its layer."""
        packed, op = self.plan.packed[layer.name], layer.op
        step["kernel"] = addresses[packed.kernel]
        step["sources"], step["source_blocks"] = self.sources[layer.name].ctypes.data, len(self.sources[layer.name])
        _, step["in_height"], step["in_width"] = self.shapes[layer.inputs[0]]
        if layer.other:
            other = self.buffers[layer.other]
            step["other"] = self.arena.ctypes.data + other.offset
            step["other_row"], step["other_pixel"] = other.row, other.pixel
        step["weights"], step["parameters"] = packed.weights.ctypes.data, packed.parameters.ctypes.data
        step["finish"] = finish.kind(layer.activation, layer.mode)
        step["phases"], step["phase_count"] = packed.phases.ctypes.data, packed.phase_count
        step["in_step"] = op["stride"] if op.kind == "conv" else 1
        step["out_step"] = op["stride"] if op.kind == "deconv" else 1
        step["dilation"] = op.attrs.get("dilation", 1)
        if op.kind == "maxpool":
            step["window"] = op["kernel"]
        elif layer.other:
            step["window"] = self.plan.channels[layer.other]
        step["strip"] = packed.strip
        if packed.kernel == "conv_planes":
            self._planes(step, self.image)
            step["other"] -= op["padding"] * (self.image.strides[1] + 4)
            self.taps.append(planes.plane_offsets(len(self.image), op["kernel"], op["dilation"], *self.image.strides[:2]))
            step["phases"], step["phase_count"] = self.taps[-1].ctypes.data, len(self.taps[-1])
        if packed.kernel == "conv_dot":
            self._planes(step, self.output)


def _bordered(shape: Shape, border: int) -> np.ndarray:
    """Planes within a border of zeros, and room behind them for the end of the last tile."""
    channels, height, width = shape
    line, size = width + 2 * border, (height + 2 * border) * (width + 2 * border)
    memory = aligned_zeros(4 * channels * size + 4 * BYTES)[: 4 * channels * size]
    whole = memory.view(np.float32).reshape(channels, height + 2 * border, line)
    return whole[:, border : border + height, border : border + width]


class _Scratch:
    """A thread's workspace: what the kernels write and nobody reads afterwards."""

    def __init__(self, plan: Plan) -> None:
        gathered = sums = 0
        for layer in plan.layers:
            inputs, outputs = sum(blocks(plan.channels[value]) for value in layer.inputs), blocks(plan.channels[layer.name])
            packed = plan.packed[layer.name]
            line = packed.strip * BYTES
            if packed.kernel == "conv_winograd":
                gathered = max(gathered, 36 * packed.apart**2 * inputs * line)
                sums = max(sums, 36 * outputs * line)
            elif packed.kernel == "conv_gemm":
                gathered = max(gathered, int(packed.phases[:, 3].max()) * inputs * (line + BYTES) - BYTES)
                sums = max(sums, int(packed.phases[:, 2].max()) ** 2 * outputs * (line + BYTES) - BYTES)
            elif packed.kernel == "conv_planes":
                sums = max(sums, outputs * line)
            elif packed.kernel == "conv_dot":
                gathered = max(gathered, inputs * BLOCK * BYTES)
        self.sizes = {
            "gathered": gathered,  # inputs of a strip, transformed by Winograd or tap by tap
            "sums": sums,  # their products with the weights
            "tile": 36 * BYTES,  # of a channel block: 6x6 pixels at an edge, or a 4x4 patch before its activation
        }

    @property
    def size(self) -> int:
        return sum(size + ALIGNMENT for size in self.sizes.values())

    def allocate(self) -> dict[str, np.ndarray]:
        return {area: aligned_zeros(size) for area, size in self.sizes.items()}
