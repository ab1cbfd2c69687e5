"""Kernels without weights: pooling, products, sums, affine, concat, softmax."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .finish import exp, finish
from .memory import copy, peek, scatter, zero
from .simd import BLOCK, BYTES, FLOAT, Micro, Vectors


def _emit_maximum(v: Vectors, source: Any, step: Any, target: Any, target_step: Any, count: Any) -> None:
    """target = max(target, source), ``count`` channel blocks."""

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers
        for part in range(v.parts):
            offset = part * v.isa.lanes * 4
            v.store(v.maximum(v.load(source, offset), v.load(target, offset)), target, offset)
        return [v.at(source, step), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], body)


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


maximum = Micro("maximum", 5, _emit_maximum)
multiply = Micro("multiply", 8, _emit_multiply)
softmax = Micro("softmax", 6, _emit_softmax)


def maxpool(s):  # type: ignore[no-untyped-def]
    """Maximum over windows of ``window`` x ``window`` pixels that do not overlap."""
    window = s.window
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            source = s.sources + block * 24
            base, row, pixel = peek(source), peek(source + 8), peek(source + 16)
            target = s.target + y * s.target_row + block * BYTES
            for i in range(window):
                line = base + (y * window + i) * row
                for j in range(window):
                    if i + j == 0:
                        copy(line, pixel * window, target, s.target_pixel, s.width)
                    else:
                        maximum(line + j * pixel, pixel * window, target, s.target_pixel, s.width)


def pointwise(s):  # type: ignore[no-untyped-def]
    """One value, or two, pixel by pixel through `finish`: a sum or an affine."""
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            source = s.sources + block * 24
            line = peek(source) + y * peek(source + 8)
            target, other = s.target + y * s.target_row + block * BYTES, s.other + y * s.other_row + block * BYTES
            finish(s.finish, line, 0, peek(source + 16), target, 0, s.target_pixel, other, 0, s.other_pixel,
                   s.parameters + block * 3 * BYTES, 1, s.width)  # fmt: skip


def product(s):  # type: ignore[no-untyped-def]
    """A value times another of as many channels, or of one (``window`` = 1) that stands for all."""
    single = 1 if s.window == 1 else 0
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            source = s.sources + block * 24
            line = peek(source) + y * peek(source + 8)
            other = s.other + y * s.other_row + (0 if single else block * BYTES)
            target = s.target + y * s.target_row + block * BYTES
            multiply(line, peek(source + 16), other, s.other_pixel, single, target, s.target_pixel, s.width)


def concat(s):  # type: ignore[no-untyped-def]
    """Values side by side, channel by channel: channel c is lane ``weights[c]`` of the sources' blocks."""
    for y in range(s.y0, s.y1):
        target = s.target + y * s.target_row
        zero(target, BYTES, s.width * s.target_blocks)
        for channel in range(s.channels):
            lane = peek(s.weights + channel * 8)
            source = s.sources + lane // BLOCK * 24
            line = peek(source) + y * peek(source + 8)
            scatter(line + lane % BLOCK * 4, peek(source + 16), target + channel * 4, s.target_pixel, s.width)


def softmax_pixels(s):  # type: ignore[no-untyped-def]
    """Softmax over the channels of each pixel."""
    for y in range(s.y0, s.y1):
        line = peek(s.sources) + y * peek(s.sources + 8)
        softmax(line, s.target + y * s.target_row, s.target_pixel, s.channels, s.target_blocks, s.width)
