"""The transforms of Winograd F(4x4, 3x3): sixteen outputs of a 3x3 convolution from 36 multiplications, not 144.

    Y = A' [ (G g G') * (B' d B) ] A          d a 6x6 tile of the input, g the 3x3 filter, Y a 4x4 tile of the output

The engine's README derives the matrices. Filters are transformed in double precision, when a model is loaded; tiles in the
vector registers, by the micro-kernels here. Summed over the input channels, each of the 36 positions is a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import amx, layout
from .gemm import emit_gemm, pack_matrix
from .simd import BLOCK, BYTES, I32, Isa, Micro, Vectors
from .step import table

TILE = 36 * BYTES  # a transformed tile of a channel block lies in one piece: 1 to 3 % less time for MoNet than in 36

LINE = table("index", "inside")  # a row or a column of a tile that hangs over the edge: its clamped index; -1 inside the image, else 0

P, Q = 0.5**0.5, 2**0.5  # the points are 0, +-P, +-Q and infinity; P * Q = 1
# The values of a filter a, b, c at the points: a, (a +- p b + p p c) / n for the two pairs of points, c. Scaled by n, the transforms of
# inputs and outputs cost the fewest operations
_SCALES = ((P, 2 * P * (P**2 - Q**2)), (Q, 2 * Q * (Q**2 - P**2)))


def transform_filters(filters: np.ndarray) -> np.ndarray:
    """(out, in, 3, 3) to (36, in, out) float32: G g G', in float64."""
    taps = filters.transpose(2, 3, 1, 0).astype(np.float64)
    found = np.empty((6, 6, *taps.shape[2:]), np.float32)
    for i, line in enumerate(_at_points(taps)):
        for j, value in enumerate(_at_points(line)):
            found[i, j] = value
    return found.reshape(36, *taps.shape[2:])


FILTERS = 64  # transformed at a time, a multiple of every `gemm`'s columns: in float64 all of a deep layer's would take 150 MB


def pack_filters(weight: np.ndarray, transform: Callable[[np.ndarray], np.ndarray], lanes: np.ndarray, isa: Isa) -> np.ndarray:
    """(out, in, 3, 3) as ``transform`` gives it, packed for `gemm`, position by position: (positions, K * N) float32, aligned."""
    rows = layout.blocks(int(lanes[-1]) + 1) * BLOCK
    size = rows * layout.blocks(len(weight)) * BLOCK
    for start in range(0, len(weight), FILTERS):
        part = pack_matrix(layout.place_lanes(transform(weight[start : start + FILTERS]), lanes), isa)
        if start == 0:
            packed = layout.aligned_zeros(4 * len(part) * size).view(np.float32).reshape(len(part), size)
        packed[:, rows * start : rows * start + part.shape[1]] = part
    return packed


def _at_points(taps: np.ndarray) -> list[np.ndarray]:
    """G g along the first axis: six values of three taps. All of a MoNet in 6 ms, where `einsum` takes 30."""
    first, second, third = taps
    values = [first]
    for point, scale in _SCALES:
        even, odd = first / scale + third * (point**2 / scale), second * (point / scale)
        values += [even + odd, even - odd]
    return [*values, third]


def _input_pair(v: Vectors, pair: int, d: list[Any]) -> tuple[Any, Any]:
    """Two of the six values of B' d: of pair 0 the first and the last, of pair 1 those at +-P, of pair 2 those at +-Q."""
    if pair == 0:
        return v.fma(v.constant(-2.5), d[2], v.add(d[0], d[4])), v.fma(v.constant(-2.5), d[3], v.add(d[1], d[5]))
    square, point = (-2.0, P) if pair == 1 else (-0.5, Q)
    even, odd = v.fma(v.constant(square), d[2], d[4]), v.fma(v.constant(square), d[1], d[3])
    return v.fma(v.constant(point), odd, even), v.fma(v.constant(-point), odd, even)


_PAIRS = ((0, 5), (1, 2), (3, 4))  # the values that `_input_pair` gives


def _output_line(v: Vectors, m: list[Any]) -> list[Any]:
    """A' m for one line of six, of which the first or the last may be None (zero): at most 11 operations."""
    s, u, t, w = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    first = v.mul(v.constant(P), t) if m[0] is None else v.fma(v.constant(P), t, m[0])
    last = v.mul(v.constant(2.0), w) if m[5] is None else v.fma(v.constant(2.0), w, m[5])
    return [v.fma(v.constant(Q), s, first), v.add(u, w), v.fma(v.constant(P), s, v.mul(v.constant(Q), t)), v.fma(v.constant(0.5), u, last)]


def _emit_patch(v: Vectors, source: Any, row: Any, pixel: Any, rows: Any, columns: Any, patch: Any, side: int = 6) -> None:
    """The pixels of a tile that hangs over the edge, ``side`` a side, to as many vectors in a row.

    ``rows`` and ``columns`` are so many `LINE` each: pixel (index, index) of the image, and zero unless both are inside.
    """
    builder, source = v.builder, v.pointer(source)
    inside_at = LINE.fields["inside"][1]  # type: ignore[index]  # NumPy's stubs do not know that a record has fields

    def line(_: Any, carried: list[Any]) -> list[Any]:
        rows, out = carried
        begin, inside = v.at(source, builder.mul(row, v.load_integer(rows))), v.load_integer(rows, inside_at)

        def point(_: Any, carried: list[Any]) -> list[Any]:
            columns, out = carried
            at = v.at(begin, builder.mul(pixel, v.load_integer(columns)))
            mask = v.splat(builder.trunc(builder.and_(inside, v.load_integer(columns, inside_at)), I32))
            for offset in range(0, BYTES, v.isa.lanes * 4):
                bits = builder.and_(builder.bitcast(v.load(at, offset), v.integers), mask)
                v.store(builder.bitcast(bits, v.type), out, offset)
            return [v.at(columns, LINE.itemsize), v.at(out, BYTES)]

        return [v.at(rows, LINE.itemsize), v.loop(v.integer(side), 1, [v.pointer(columns), out], point)[1]]

    v.loop(v.integer(side), 1, [v.pointer(rows), v.pointer(patch)], line)


def _emit_input(v: Vectors, source: Any, row: Any, pixel: Any, target: Any, apart: Any = BYTES) -> None:
    """B' d B for one tile of one channel block, its pixel (i, j) at source + i * row + j * pixel; positions ``apart`` bytes apart.

    144 operations, two lines of positions at a time: all 36 values between the two passes would not fit into registers; those
    of two lines do. Loading a pixel up to three times costs less than spilling: 84 loads at two a cycle against 36 loads and
    36 more stores at one a cycle.
    """
    source, target = v.pointer(source), v.pointer(target)
    lines = [v.at(source, v.times(row, i)) for i in range(6)]

    def part(offset: Any, _: list[Any]) -> list[Any]:
        for pair, positions in enumerate(_PAIRS):
            needed = range(6) if pair == 0 else range(1, 5)
            columns = []
            for j in range(6):
                v.fence()
                pixels = [v.load(v.at(lines[i], v.times(pixel, j)), offset) if i in needed else None for i in range(6)]
                columns.append(_input_pair(v, pair, pixels))
            for index, i in enumerate(positions):
                values = [column[index] for column in columns]
                out = v.at(target, offset)
                v.fence()
                for other, places in enumerate(_PAIRS):
                    for j, value in zip(places, _input_pair(v, other, values), strict=True):
                        v.store(value, out, v.times(apart, i * 6 + j))
        return []

    v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)


def _emit_output(v: Vectors, phase: Any, m: Any, tile: Any, apart: Any = BYTES) -> None:
    """A' m A for one tile of one channel block, to a 4x4 patch of vectors.

    Phase -1 is a convolution. Of a transposed one, phase 2 * fy + fx lacks the last row (fy = 0) or the first, and the last
    column (fx = 0) or the first.
    """
    m, tile = v.pointer(m), v.pointer(tile)
    for row, column in v.cases(phase, ((-1, -1), (5, 5), (5, 0), (0, 5), (0, 0)), first=-1):

        def part(offset: Any, _: list[Any], row: int = row, column: int = column) -> list[Any]:
            columns: list[Any] = []
            for j in range(6):
                v.fence()
                values = [None if i == row else v.load(v.at(m, offset), v.times(apart, i * 6 + j)) for i in range(6)]
                columns.append(None if j == column else _output_line(v, values))
            for i in range(4):
                v.fence()
                for j, value in enumerate(_output_line(v, [line and line[i] for line in columns])):
                    v.store(value, v.at(tile, offset), (i * 4 + j) * BYTES)
            return []

        v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)


winograd_input = Micro("winograd_input", 4, _emit_input)
winograd_patch = Micro("winograd_patch", 6, _emit_patch)
winograd_output = Micro("winograd_output", 3, _emit_output)
deep_input = Micro("deep_input", 5, _emit_input)
deep_output = Micro("deep_output", 4, _emit_output)
gemm_tiles = Micro("gemm_tiles", 9, partial(emit_gemm, pitch=TILE), calls=(amx.product,))


# -- F(2x2, 3x3): four outputs from 16 multiplications, not 36, by filters of less than half the size

G2 = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # the points are 0, 1, -1 and infinity


def transform_small_filters(filters: np.ndarray) -> np.ndarray:
    """(out, in, 3, 3) to (16, in, out) float32: G g G', in float64."""
    found = np.einsum("ia,jb,ocab->ijco", G2, G2, filters.astype(np.float64), optimize=True)
    return found.reshape(16, *filters.shape[1::-1]).astype(np.float32)


# B': each of the four values is a sum or a difference of two pixels
_SMALL_INPUT = ((0, 2, False), (1, 2, True), (2, 1, False), (1, 3, False))


def _emit_small_input(v: Vectors, source: Any, row: Any, pixel: Any, target: Any, apart: Any) -> None:
    """B' d B for one tile of one channel block, its pixel (i, j) at source + i * row + j * pixel: a line of four positions at a time."""
    source, target = v.pointer(source), v.pointer(target)
    lines = [v.at(source, v.times(row, i)) for i in range(4)]

    def part(offset: Any, _: list[Any]) -> list[Any]:
        for i, (first, second, plus) in enumerate(_SMALL_INPUT):
            v.fence()
            pixels = [[v.load(v.at(lines[line], v.times(pixel, j)), offset) for line in (first, second)] for j in range(4)]
            values = [(v.add if plus else v.sub)(*each) for each in pixels]
            for j, (left, right, plus_too) in enumerate(_SMALL_INPUT):
                v.store((v.add if plus_too else v.sub)(values[left], values[right]), v.at(target, offset), v.times(apart, i * 4 + j))
        return []

    v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)


def _emit_small_output(v: Vectors, m: Any, tile: Any, apart: Any) -> None:
    """A' m A for one tile of one channel block, to a 2x2 patch of vectors."""
    m, tile = v.pointer(m), v.pointer(tile)

    def line(i: int, m: list[Any]) -> Any:
        return v.add(v.add(m[0], m[1]), m[2]) if i == 0 else v.sub(v.sub(m[1], m[2]), m[3])

    def part(offset: Any, _: list[Any]) -> list[Any]:
        for i in range(2):
            v.fence()
            needed = range(3) if i == 0 else range(1, 4)
            columns = [
                line(i, [v.load(v.at(m, offset), v.times(apart, k * 4 + j)) if k in needed else None for k in range(4)]) for j in range(4)
            ]
            for j in range(2):
                v.store(line(j, columns), v.at(tile, offset), (i * 2 + j) * BYTES)
        return []

    v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)


small_input = Micro("small_input", 5, _emit_small_input)
small_patch = Micro("small_patch", 6, partial(_emit_patch, side=4))
small_output = Micro("small_output", 3, _emit_small_output)
