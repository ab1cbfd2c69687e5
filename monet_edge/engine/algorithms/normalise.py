"""Instance normalisation in two stages, and LeakyReLU, alone or with the sum before it.

`statistics` goes over a value once: mean and squared deviations of each row of each channel, a row's second pass while it is in
the first cache. They are a value of their own, of three "pixels" a row. `normalise` combines the rows, in their order and so to
the same bits whoever made them, and goes over the value again: normalisation, residual and activation in one pass.

Every sum is of differences (from the row's first pixel, from the first row's mean), and a mean is two numbers, what float32 can
hold and what it cannot: a mean far from zero would take the digits. With M2 the sum of squared deviations and n = height * width:

    mean = m_0 + sum(m_y - m_0) / height        M2 = sum(M2_y + width (m_y - mean)^2)        factor = weight / sqrt(M2 / n + eps)
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from llvmlite import ir

from ..arena import Fields, Memory
from ..codegen.epilogue import ACTIVATIONS, activate
from ..codegen.jit import Kernel
from ..codegen.layout import aligned, blocks
from ..codegen.simd import BLOCK, BYTES, Micro, Vectors
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..fuse import ACTIVATION, LEAKY, STATISTICS, Layer
from .contract import Algorithm, Network, Packed, of_kind

STATISTICS_STEP = step(*TARGET, *SOURCES, "source_width")
STEP = step(
    *TARGET, *SOURCES, "other", "other_row", "other_pixel",
    "statistics", "statistics_row", "statistics_pixel", "height",  # of the whole value; 0 where nothing is normalised
    "norm", "normal",  # rows of `NORM` for each channel block: those of the network, and scratch for those of the slice
    "follows",  # the number that `code` gives
)  # fmt: skip

# Rows of 16, y = (x - mean) * factor + shift; then LeakyReLU's slope and eps. Of the network the factor is the weight
NORM = 5 * BYTES
MEAN, FACTOR, SHIFT, SLOPE, EPS = (row * BYTES for row in range(5))


def code(activation: str, added: bool) -> int:
    """The number that tells `apply` what follows the normalisation."""
    return (*ACTIVATIONS, LEAKY).index(activation) * 2 + added


def suits(layer: Layer, network: Network) -> bool:
    """Instance normalisation, activations that stand alone, and sums that LeakyReLU follows."""
    return layer.op.kind in ("instance_norm", ACTIVATION) or (layer.op.kind == "add" and layer.activation == LEAKY)


def pack(layer: Layer, network: Network) -> Packed:
    """(blocks, 5, 16) float32: a place for the mean, factor, shift, the activation's slope, epsilon; what follows as a number."""
    count = network.channels[layer.name]
    norm = np.zeros((5, blocks(count) * BLOCK), np.float32)
    norm[1, :count], norm[4] = 1.0, 1.0
    if layer.op.kind == "instance_norm":
        norm[1, :count], norm[2, :count] = network.weight(layer), network.tensors[f"{layer.op.name}.bias"]
        norm[4, :count] = layer.op["eps"]
    norm[3] = layer.slope
    packed = np.ascontiguousarray(norm.reshape(5, -1, BLOCK).transpose(1, 0, 2))
    fields = {"norm": aligned(packed), "follows": code(layer.activation, layer.other is not None)}
    return Packed(fields, {"normal": packed.nbytes})


def locate_statistics(layer: Layer, memory: Memory) -> Fields:
    """The value that is measured, its width, and where mean and variance go."""
    return {"source_width": memory.shapes[layer.inputs[0]][2]} | memory.target(layer.name) | memory.sources(layer.inputs)


def locate(layer: Layer, memory: Memory) -> Fields:
    """Where values are and, for a norm, the statistics of its input and the height that they are of."""
    fields = memory.target(layer.name) | memory.sources(layer.inputs) | memory.other(layer)
    if layer.statistics:
        fields |= memory.at("statistics", layer.statistics) | {"height": memory.shapes[layer.name][1]}
    return fields


def _offsets(v: Vectors) -> list[int]:
    return [part * v.isa.lanes * 4 for part in range(v.parts)]


def _mean(v: Vectors, start: Any, away: Any) -> tuple[Any, Any]:
    """``start + away`` as what a float32 holds and what is left."""
    mean = v.add(start, away)
    return mean, v.sub(away, v.sub(mean, start))


def _emit_row_statistics(v: Vectors, source: Any, step: Any, count: Any, target: Any, target_step: Any) -> None:
    """Mean, what is left of it, and the sum of squared deviations of ``count`` channel blocks, each lane on its own."""
    builder, offsets = v.builder, _offsets(v)
    source, target = v.pointer(source), v.pointer(target)
    ways = max(1, 4 // v.parts)  # four sums at a time hide the delay of an addition
    whole = builder.mul(builder.udiv(count, v.integer(ways)), v.integer(ways))
    number = v.splat(builder.sitofp(count, ir.FloatType()))

    def total(centre: list[Any], term: Any) -> list[Any]:
        """Sum over all pixels of ``term(x - centre)``, a vector for each part."""

        def body(ways: int) -> Any:
            def pixels(_: Any, carried: list[Any]) -> list[Any]:
                at, *sums = carried
                for way in range(ways):
                    for part, offset in enumerate(offsets):
                        x = v.sub(v.load(at, offset), centre[part])
                        sums[way * v.parts + part] = term(x, sums[way * v.parts + part])
                    at = v.at(at, step)
                return [at, *sums]

            return pixels

        at, *sums = v.loop(whole, ways, [source, *[v.constant(0.0)] * (ways * v.parts)], body(ways))
        _, *rest = v.loop(builder.sub(count, whole), 1, [at, *sums[: v.parts]], body(1))
        sums[: v.parts] = rest
        while len(sums) > v.parts:
            half = len(sums) // 2
            sums = [v.add(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        return sums

    first = [v.load(source, offset) for offset in offsets]
    sums = total(first, lambda x, s: v.add(x, s))
    means = [_mean(v, start, builder.fdiv(away, number)) for start, away in zip(first, sums, strict=True)]
    squares = total([mean for mean, _ in means], lambda x, s: v.fma(x, x, s))
    for (mean, left), square, offset in zip(means, squares, offsets, strict=True):
        at = target
        for value in (mean, left, square):
            v.store(value, at, offset)
            at = v.at(at, target_step)


def _emit_combine(v: Vectors, statistics: Any, row: Any, pixel: Any, height: Any, width: Any, norm: Any, target: Any) -> None:
    """The `NORM` rows of one channel block of a slice, from those of the network and the statistics of ``height`` rows."""
    builder = v.builder
    statistics, norm, target = v.pointer(statistics), v.pointer(norm), v.pointer(target)
    rows, columns = (v.splat(builder.sitofp(count, ir.FloatType())) for count in (height, width))
    for offset in _offsets(v):
        first = v.load(statistics, offset)

        def difference(_: Any, carried: list[Any], offset: int = offset, first: Any = first) -> list[Any]:
            at, total = carried
            away = v.add(v.sub(v.load(at, offset), first), v.load(v.at(at, pixel), offset))
            return [v.at(at, row), v.add(total, away)]

        _, total = v.loop(height, 1, [statistics, v.constant(0.0)], difference)
        mean, left = _mean(v, first, builder.fdiv(total, rows))

        def square(_: Any, carried: list[Any], offset: int = offset, mean: Any = mean) -> list[Any]:
            at, total = carried
            away = v.sub(v.load(at, offset), mean)
            return [v.at(at, row), v.add(total, v.fma(v.mul(columns, away), away, v.load(v.at(v.at(at, pixel), pixel), offset)))]

        _, squares = v.loop(height, 1, [statistics, v.constant(0.0)], square)
        variance = builder.fdiv(squares, v.mul(rows, columns))
        deviation = v.intrinsic(f"llvm.sqrt.v{v.isa.lanes}f32", v.type, [v.add(variance, v.load(norm, EPS + offset))])
        v.store(mean, target, MEAN + offset)
        factor = builder.fdiv(v.load(norm, FACTOR + offset), deviation)
        v.store(factor, target, FACTOR + offset)
        v.store(v.sub(v.load(norm, SHIFT + offset), v.mul(left, factor)), target, SHIFT + offset)
        v.store(v.load(norm, SLOPE + offset), target, SLOPE + offset)


def _emit_apply(v: Vectors, code: Any, source: Any, source_step: Any, target: Any, target_step: Any, other: Any, other_step: Any,
                norm: Any, count: Any) -> None:  # fmt: skip
    """act((x - mean) * factor + shift), or act((x - mean) * factor + shift + other), of ``count`` channel blocks."""
    builder, offsets = v.builder, _offsets(v)
    pointers = [v.pointer(address) for address in (source, target, other)]
    mean, factor, shift, slope = ([v.load(v.pointer(norm), row + offset) for offset in offsets] for row in (MEAN, FACTOR, SHIFT, SLOPE))

    def pixels(activation: str, added: bool) -> None:
        def pixel(_: Any, pointers: list[Any]) -> list[Any]:
            at, out, second = pointers
            results = []
            for part, offset in enumerate(offsets):
                x = v.fma(v.sub(v.load(at, offset), mean[part]), factor[part], shift[part])
                if added:
                    x = v.add(x, v.load(second, offset))
                if activation == LEAKY:
                    x = builder.select(builder.fcmp_ordered("<", x, v.constant(0.0)), v.mul(x, slope[part]), x)
                results.append(activate(v, activation, x))
            for x, offset in zip(results, offsets, strict=True):
                v.store(x, out, offset)
            return [v.at(at, source_step), v.at(out, target_step), v.at(second, other_step)]

        v.loop(count, 1, pointers, pixel)

    for activation, added in v.cases(code, product((*ACTIVATIONS, LEAKY), (False, True))):
        pixels(activation, added)


row_statistics = Micro("row_statistics", 5, _emit_row_statistics)
combine = Micro("combine", 7, _emit_combine)
apply = Micro("apply", 9, _emit_apply)


def statistics(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Mean and squares of rows [y0, y1)."""
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            line, pixel = source_base(s.sources, block) + y * source_row(s.sources, block), source_pixel(s.sources, block)
            row_statistics(line, pixel, s.source_width, s.target + y * s.target_row + block * BYTES, s.target_pixel)


def normalise(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1): each band combines the statistics of all rows, which is less than one row's work."""
    norm = s.norm
    if s.height > 0:
        norm = s.normal
        for block in range(s.target_blocks):
            mine = s.statistics + block * BYTES
            combine(mine, s.statistics_row, s.statistics_pixel, s.height, s.width, s.norm + block * NORM, norm + block * NORM)
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            line, pixel = source_base(s.sources, block) + y * source_row(s.sources, block), source_pixel(s.sources, block)
            target, other = s.target + y * s.target_row + block * BYTES, s.other + y * s.other_row + block * BYTES
            apply(s.follows, line, pixel, target, s.target_pixel, other, s.other_pixel, norm + block * NORM, s.width)


ALGORITHMS = (
    Algorithm(
        Kernel(statistics, STATISTICS_STEP), of_kind(STATISTICS), lambda layer, network: Packed({}), locate_statistics, family="nnunet"
    ),
    Algorithm(Kernel(normalise, STEP), suits, pack, locate, in_place=True, family="nnunet"),
)
