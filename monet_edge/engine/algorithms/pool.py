"""Maximum and mean over windows of pixels that do not overlap."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ...spec import Op, pair
from ..codegen.jit import Kernel
from ..codegen.memory import copy
from ..codegen.simd import BYTES, Micro, Vectors
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, of_kind

STEP = step(*TARGET, *SOURCES, "window")  # pixels a side
MEAN_STEP = step(*TARGET, *SOURCES, "window_rows", "window_columns")


def pack(layer: Layer, network: Network) -> Packed:
    """Pixels a side of a window."""
    return Packed({"window": layer.op["kernel"]})


def pack_mean(layer: Layer, network: Network) -> Packed:
    """Rows and columns of a window."""
    rows, columns = pair(layer.op["kernel"])
    return Packed({"window_rows": rows, "window_columns": columns})


def _emit_maximum(v: Vectors, source: Any, step: Any, target: Any, target_step: Any, count: Any) -> None:
    """target = max(target, source), ``count`` channel blocks."""

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers
        for part in range(v.parts):
            offset = part * v.isa.lanes * 4
            v.store(v.maximum(v.load(source, offset), v.load(target, offset)), target, offset)
        return [v.at(source, step), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], body)


def _emit_average(
    v: Vectors, source: Any, row: Any, pixel: Any, rows: Any, columns: Any, target: Any, target_step: Any, count: Any
) -> None:
    """Means of ``count`` windows of ``rows`` x ``columns`` channel blocks, side by side."""
    builder = v.builder
    number = v.splat(builder.sitofp(builder.mul(rows, columns), ir.FloatType()))
    offsets = [part * v.isa.lanes * 4 for part in range(v.parts)]

    def window(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers

        def line(_: Any, carried: list[Any]) -> list[Any]:
            def point(_: Any, carried: list[Any]) -> list[Any]:
                at, *sums = carried
                return [v.at(at, pixel), *(v.add(total, v.load(at, offset)) for total, offset in zip(sums, offsets, strict=True))]

            at, *sums = carried
            _, *sums = v.loop(columns, 1, [at, *sums], point)
            return [v.at(at, row), *sums]

        _, *sums = v.loop(rows, 1, [source, *[v.constant(0.0)] * v.parts], line)
        for total, offset in zip(sums, offsets, strict=True):
            v.store(builder.fdiv(total, number), target, offset)
        return [v.at(source, builder.mul(pixel, columns)), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], window)


average = Micro("average", 8, _emit_average)
maximum = Micro("maximum", 5, _emit_maximum)


def maxpool(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1): the first pixel of every window, then the greater of it and each other."""
    window = s.window
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            base, row, pixel = source_base(s.sources, block), source_row(s.sources, block), source_pixel(s.sources, block)
            target = s.target + y * s.target_row + block * BYTES
            for i in range(window):
                line = base + (y * window + i) * row
                for j in range(window):
                    if i + j == 0:
                        copy(line, pixel * window, target, s.target_pixel, s.width)
                    else:
                        maximum(line + j * pixel, pixel * window, target, s.target_pixel, s.width)


def avgpool(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1)."""
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            row, pixel = source_row(s.sources, block), source_pixel(s.sources, block)
            line, target = source_base(s.sources, block) + y * s.window_rows * row, s.target + y * s.target_row + block * BYTES
            average(line, row, pixel, s.window_rows, s.window_columns, target, s.target_pixel, s.width)


def rows(op: Op, y0: int, y1: int) -> tuple[int, int]:
    """See `contract.Algorithm`: windows do not overlap."""
    height, _ = pair(op["kernel"])
    return y0 * height, y1 * height


ALGORITHMS = (
    Algorithm(Kernel(maxpool, STEP), of_kind("maxpool"), pack, rows=rows),
    Algorithm(Kernel(avgpool, MEAN_STEP), of_kind("avgpool"), pack_mean, rows=rows, family="nnunet"),
)
