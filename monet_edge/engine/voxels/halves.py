"""float32 numbers rounded as float16 holds them: nnU-Net's sums of logits. NumPy takes 2.5 ns for one, 59 where float16 is denormal.

Integers do it on every CPU: of a float32 the last 13 bits are rounded away, to the nearest, of two the even one. Below 2^-14 float16
has multiples of 2^-24, which is what a float32 between 1/2 and 1 has. From 65520 on it is infinite.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..codegen.simd import FLOAT, I32, Micro, Vectors
from .lines import emit_pixels, kind_of, splat


def _rounded(v: Vectors, x: Any, lanes: int) -> Any:
    builder, kind, integers = v.builder, kind_of(FLOAT, lanes), kind_of(I32, lanes)

    def number(value: float) -> Any:
        return splat(v, ir.Constant(FLOAT, value), lanes)

    def bits(value: int) -> Any:
        return splat(v, ir.Constant(I32, value), lanes)

    stored = builder.bitcast(x, integers)
    even = builder.and_(builder.lshr(stored, bits(13)), bits(1))
    near = builder.and_(builder.add(stored, builder.add(even, bits(0xFFF))), bits(0xFFFFE000))
    size = builder.and_(near, bits(0x7FFFFFFF))
    infinite = builder.or_(builder.and_(stored, bits(0x80000000)), bits(0x7F800000))
    near = builder.select(builder.icmp_unsigned(">=", size, bits(0x47800000)), infinite, near)  # 65536
    small = builder.fsub(builder.fadd(x, number(0.75)), number(0.75))
    tiny = builder.icmp_unsigned("<", builder.and_(stored, bits(0x7FFFFFFF)), bits(0x38800000))  # 2^-14
    found = builder.select(tiny, small, builder.bitcast(near, kind))
    return builder.select(builder.fcmp_unordered("uno", x, x), x, found)


def _emit_weigh(v: Vectors, values: Any, weights: Any, sums: Any, sums_row: Any, height: Any, width: Any) -> None:
    """Add ``values`` times ``weights`` (height, width) to ``sums``, whose rows are ``sums_row`` bytes apart."""
    builder = v.builder
    row = v.times(width, 4)

    def line(_: Any, starts: list[Any]) -> list[Any]:
        def body(lanes: int, at: list[Any]) -> None:
            value, weight, total = (builder.load(one, typ=kind_of(FLOAT, lanes), align=4) for one in at)
            builder.store(_rounded(v, builder.fadd(builder.fmul(value, weight), total), lanes), at[2], align=4)

        emit_pixels(v, width, starts, [4, 4, 4], body)
        return [v.at(start, step) for start, step in zip(starts, (row, row, sums_row), strict=True)]

    v.loop(height, 1, [v.pointer(one) for one in (values, weights, sums)], line)


def _emit_share(v: Vectors, sums: Any, weights: Any, row: Any, height: Any, width: Any) -> None:
    """Divide ``sums`` by ``weights`` (height, width), whose rows are ``row`` bytes apart."""
    builder = v.builder

    def line(_: Any, starts: list[Any]) -> list[Any]:
        def body(lanes: int, at: list[Any]) -> None:
            total, weight = (builder.load(one, typ=kind_of(FLOAT, lanes), align=4) for one in at)
            builder.store(_rounded(v, builder.fdiv(total, weight), lanes), at[0], align=4)

        emit_pixels(v, width, starts, [4, 4], body)
        return [v.at(start, row) for start in starts]

    v.loop(height, 1, [v.pointer(one) for one in (sums, weights)], line)


weigh = Micro("weigh_halves", 6, _emit_weigh)
share = Micro("share_halves", 5, _emit_share)
