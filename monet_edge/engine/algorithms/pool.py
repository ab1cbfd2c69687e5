"""Maximum over windows of pixels that do not overlap."""

from __future__ import annotations

from typing import Any

from ..codegen.jit import Kernel
from ..codegen.memory import copy
from ..codegen.simd import BYTES, Micro, Vectors
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, of_kind

STEP = step(*TARGET, *SOURCES, "window")  # pixels a side


def pack(layer: Layer, network: Network) -> Packed:
    return Packed({"window": layer.op["kernel"]})


def _emit_maximum(v: Vectors, source: Any, step: Any, target: Any, target_step: Any, count: Any) -> None:
    """target = max(target, source), ``count`` channel blocks."""

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers
        for part in range(v.parts):
            offset = part * v.isa.lanes * 4
            v.store(v.maximum(v.load(source, offset), v.load(target, offset)), target, offset)
        return [v.at(source, step), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], body)


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


ALGORITHM = Algorithm(Kernel(maxpool, STEP), of_kind("maxpool"), pack, rows=lambda op, y0, y1: (y0 * op["kernel"], y1 * op["kernel"]))
