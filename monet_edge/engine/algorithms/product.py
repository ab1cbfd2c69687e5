"""A value times another of as many channels, or of one that stands for all."""

from __future__ import annotations

from typing import Any

from ..codegen.jit import Kernel
from ..codegen.simd import BYTES, Micro, Vectors
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, of_kind

STEP = step(*TARGET, *SOURCES, "other", "other_row", "other_pixel", "single")  # the factor; 1 if it has one channel, else 0


def pack(layer: Layer, network: Network) -> Packed:
    """Whether the factor has one channel, (1, H, W), that stands for all."""
    return Packed({"single": int(network.channels[layer.reads[1]] == 1)})


def _emit_multiply(v: Vectors, a: Any, step: Any, b: Any, b_step: Any, single: Any, target: Any, target_step: Any, count: Any) -> None:
    """target = a * b, ``count`` channel blocks; where ``single`` is 1, b's first channel stands for all of them."""
    builder = v.builder
    single = builder.icmp_signed("!=", single, v.integer(0))

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        a, b, target = pointers
        first = v.load_splat(b)
        for offset in [part * v.isa.lanes * 4 for part in range(v.parts)]:
            v.store(v.mul(v.load(a, offset), builder.select(single, first, v.load(b, offset))), target, offset)
        return [v.at(a, step), v.at(b, b_step), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(a), v.pointer(b), v.pointer(target)], body)


multiply = Micro("multiply", 8, _emit_multiply)


def product(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1)."""
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            line = source_base(s.sources, block) + y * source_row(s.sources, block)
            other = s.other + y * s.other_row + (0 if s.single else block * BYTES)
            target = s.target + y * s.target_row + block * BYTES
            multiply(line, source_pixel(s.sources, block), other, s.other_pixel, s.single, target, s.target_pixel, s.width)


ALGORITHM = Algorithm(Kernel(product, STEP), of_kind("mul"), pack)
