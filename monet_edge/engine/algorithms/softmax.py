"""Softmax over the channels of each pixel."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..codegen.epilogue import exp
from ..codegen.jit import Kernel
from ..codegen.simd import FLOAT, Micro, Vectors
from ..codegen.step import SOURCES, TARGET, source_base, source_row, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, of_kind

STEP = step(*TARGET, *SOURCES, "channels")


def pack(layer: Layer, network: Network) -> Packed:
    """How many channels count; what else the last block holds is padding."""
    return Packed({"channels": network.channels[layer.name]})


def _emit_softmax(v: Vectors, source: Any, target: Any, step: Any, channels: Any, blocks: Any, count: Any) -> None:
    """Softmax over the ``channels`` of each of ``count`` pixels, both values with pixels ``step`` bytes apart."""
    builder, lanes = v.builder, v.isa.lanes
    vectors = v.times(blocks, v.parts)
    numbers = ir.Constant(v.integers, list(range(lanes)))

    def reduce(name: str, *arguments: Any) -> Any:
        return v.intrinsic(f"llvm.vector.reduce.{name}.v{lanes}f32", FLOAT, arguments)

    def valid(i: Any) -> Any:
        left = builder.trunc(builder.sub(channels, v.times(i, lanes)), ir.IntType(32))
        return builder.icmp_signed("<", numbers, v.splat(left))

    def pixel(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers

        def highest(i: Any, most: list[Any]) -> list[Any]:
            x = builder.select(valid(i), v.load(source, v.times(i, lanes * 4)), v.constant(float("-inf")))
            return [v.maximum(x, most[0])]

        most = v.splat(reduce("fmax", v.loop(vectors, 1, [v.constant(float("-inf"))], highest)[0]))

        def exponential(i: Any, total: list[Any]) -> list[Any]:
            offset = v.times(i, lanes * 4)
            e = builder.select(valid(i), exp(v, v.sub(v.load(source, offset), most)), v.constant(0.0))
            v.store(e, target, offset)
            return [v.add(total[0], e)]

        total = v.loop(vectors, 1, [v.constant(0.0)], exponential)[0]
        factor = builder.fdiv(v.constant(1.0), v.splat(reduce("fadd", ir.Constant(FLOAT, 0.0), total)))

        def scale(i: Any, _: list[Any]) -> list[Any]:
            offset = v.times(i, lanes * 4)
            v.store(v.mul(v.load(target, offset), factor), target, offset)
            return []

        v.loop(vectors, 1, [], scale)
        return [v.at(source, step), v.at(target, step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], pixel)


softmax_row = Micro("softmax_row", 6, _emit_softmax)


def softmax(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1)."""
    for y in range(s.y0, s.y1):
        line = source_base(s.sources, 0) + y * source_row(s.sources, 0)
        softmax_row(line, s.target + y * s.target_row, s.target_pixel, s.channels, s.target_blocks, s.width)


ALGORITHM = Algorithm(Kernel(softmax, STEP), of_kind("softmax"), pack)
