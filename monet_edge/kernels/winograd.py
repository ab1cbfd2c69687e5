"""Winograd F(4x4, 3x3): sixteen outputs of a 3x3 convolution from 36 multiplications where the definition needs 144.

    Y = A' [ (G g G') * (B' d B) ] A          d a 6x6 tile of the input, g the 3x3 filter, Y a 4x4 tile of the output

README.md derives the matrices. Summed over the input channels, each of the 36 positions is a matrix product over a strip of
tiles. A dilation of n is n * n convolutions without one on the grids ``x[i::n, j::n]``: only the tile's steps change. 4x4
convolutions with stride 2, transposed or not, are made of 2x2 ones; `filters` says how.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir

from .finish import finish
from .gemm import emit_gemm
from .memory import least, peek
from .simd import BLOCK, BYTES, I32, Micro, Vectors

TILE = 36 * BYTES  # a transformed tile of a channel block lies in one piece: 1 to 3 % less time for MoNet than in 36

P, Q = 0.5**0.5, 2**0.5  # the points are 0, +-P, +-Q and infinity; P * Q = 1


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


def _emit_patch(v: Vectors, source: Any, row: Any, pixel: Any, rows: Any, columns: Any, patch: Any) -> None:
    """The 6x6 pixels of a tile that hangs over the edge, to 36 vectors in a row.

    Pixel (rows[i][0], columns[j][0]) of the image, and zero unless both [1] are all ones.
    """
    builder, source = v.builder, v.pointer(source)

    def line(_: Any, carried: list[Any]) -> list[Any]:
        rows, out = carried
        begin, inside = v.at(source, builder.mul(row, v.load_integer(rows))), v.load_integer(rows, 8)

        def point(_: Any, carried: list[Any]) -> list[Any]:
            columns, out = carried
            at = v.at(begin, builder.mul(pixel, v.load_integer(columns)))
            mask = v.splat(builder.trunc(builder.and_(inside, v.load_integer(columns, 8)), I32))
            for offset in range(0, BYTES, v.isa.lanes * 4):
                bits = builder.and_(builder.bitcast(v.load(at, offset), v.integers), mask)
                v.store(builder.bitcast(bits, v.type), out, offset)
            return [v.at(columns, 16), v.at(out, BYTES)]

        return [v.at(rows, 16), v.loop(v.integer(6), 1, [v.pointer(columns), out], point)[1]]

    v.loop(v.integer(6), 1, [v.pointer(rows), v.pointer(patch)], line)


def _emit_input(v: Vectors, source: Any, row: Any, pixel: Any, target: Any) -> None:
    """B' d B for one tile of one channel block, its pixel (i, j) at source + i * row + j * pixel.

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
                        v.store(value, out, (i * 6 + j) * BYTES)
        return []

    v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)


def _emit_output(v: Vectors, phase: Any, sums: Any, tile: Any) -> None:
    """A' m A for one tile of one channel block, to a 4x4 patch of vectors.

    Phase -1 is a convolution. Of a transposed one, phase 2 * fy + fx lacks the last row (fy = 0) or the first, and the last
    column (fx = 0) or the first.
    """
    sums, tile = v.pointer(sums), v.pointer(tile)
    done = v.builder.append_basic_block("done")
    switch = v.builder.switch(v.builder.trunc(phase, I32), done)
    for number, (row, column) in enumerate(((-1, -1), (5, 5), (5, 0), (0, 5), (0, 0)), -1):
        block = v.builder.append_basic_block(f"phase{number}")
        switch.add_case(ir.Constant(I32, number), block)
        v.builder.position_at_end(block)

        def part(offset: Any, _: list[Any], row: int = row, column: int = column) -> list[Any]:
            columns: list[Any] = []
            for j in range(6):
                v.fence()
                values = [None if i == row else v.load(v.at(sums, offset), (i * 6 + j) * BYTES) for i in range(6)]
                columns.append(None if j == column else _output_line(v, values))
            for i in range(4):
                v.fence()
                for j, value in enumerate(_output_line(v, [line and line[i] for line in columns])):
                    v.store(value, v.at(tile, offset), (i * 4 + j) * BYTES)
            return []

        v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)
        v.builder.branch(done)
    v.builder.position_at_end(done)


winograd_input = Micro("winograd_input", 4, _emit_input)
winograd_patch = Micro("winograd_patch", 6, _emit_patch)
winograd_output = Micro("winograd_output", 3, _emit_output)
gemm_tiles = Micro("gemm_tiles", 8, partial(emit_gemm, pitch=TILE))


PLACE = np.dtype([(name, np.int64) for name in ("y", "x", "height", "width", "rows", "columns")])
PLACE_BYTES = PLACE.itemsize
LINES = 6 * 16  # bytes: the addresses of a tile's six rows or columns


def conv_winograd(s):  # type: ignore[no-untyped-def]  # Numba infers
    """The tiles of ``places`` of a 3x3 convolution with stride 1 or a 4x4 with stride 2 (one phase), or its transpose (four)."""
    blocks, out_blocks, out_step, strip = s.source_blocks, s.target_blocks, s.out_step, s.strip
    half = blocks // s.in_step  # with stride 2 the blocks of the even rows, then of the odd ones; in each, columns take turns
    down, right = s.dilation * out_step * s.target_row, s.dilation * out_step * s.target_pixel
    other_down, other_right = s.dilation * out_step * s.other_row, s.dilation * out_step * s.other_pixel
    positions = 36 if out_step == 1 else 25
    for start in range(0, s.tiles, strip):
        count = least(strip, s.tiles - start)
        place = s.places + start * PLACE_BYTES
        for t in range(count):
            y, x, rows, columns = peek(place), peek(place + 8), peek(place + 32), peek(place + 40)
            for block in range(blocks):
                source = s.sources + block * 24
                base, row, pixel = peek(source), peek(source + 8), peek(source + 16)
                target = s.gathered + (block * strip + t) * TILE
                if rows == 0:
                    corner = base + (y - s.dilation) * row + (x - s.dilation) * pixel
                    winograd_input(corner, s.dilation * row, s.dilation * pixel, target)
                else:
                    odd_row, odd_column = block // half, block % s.in_step
                    winograd_patch(base, row, pixel, rows + odd_row * LINES, columns + odd_column * LINES, s.tile)
                    winograd_input(s.tile, 6 * BYTES, BYTES, target)
            place += PLACE_BYTES
        weights = s.weights
        for phase in range(s.phase_count):
            for number in range(positions):
                product = s.phases + (phase * positions + number) * 32
                position, first, step, some = peek(product) * BYTES, peek(product + 8), peek(product + 16), peek(product + 24)
                gathered = s.gathered + first * strip * TILE + position
                gemm_tiles(gathered, step * strip * TILE, some, weights, s.sums + position, strip * TILE, out_blocks * BLOCK, count)
                weights += some * out_blocks * BLOCK * BYTES
            place = s.places + start * PLACE_BYTES
            for t in range(count):
                y, x = peek(place) * out_step + phase // 2, peek(place + 8) * out_step + phase % 2
                target, other = s.target + y * s.target_row + x * s.target_pixel, s.other + y * s.other_row + x * s.other_pixel
                for block in range(out_blocks):
                    winograd_output(phase if out_step == 2 else -1, s.sums + (block * strip + t) * TILE, s.tile)
                    finish(s.finish, s.tile, 4 * BYTES, BYTES, target, down, right, other, other_down, other_right,
                           s.parameters + block * 3 * BYTES, peek(place + 16), peek(place + 24))  # fmt: skip
                    target += BYTES
                    other += BYTES
                place += PLACE_BYTES


def tile_places(height: int, width: int, apart: int, dilation: int, y0: int, y1: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Where the tiles are that make rows [y0, y1) of an output, in order of rows.

    ``y0`` is a multiple of 4 * dilation, so that the tiles, and with them every bit of the result, do not depend on how the
    rows are shared out.

    Parameters
    ----------
    height, width : int
        Of the input.
    apart : int
        1, or 2 where even and odd rows and columns of the input are images of their own.

    Returns
    -------
    places : array of PLACE
        A tile's first output pixel; how many of its 4x4 are wanted; for a tile that hangs over an edge the addresses of its
        rows and its columns in the second array, (6, 2) an image: an index inside it, and -1 if it is really meant, else 0.
    keep : tuple of arrays
        What the addresses point to.
    """
    width_out = width // apart
    ys, xs = _starts(y0, y1, dilation), _starts(0, width_out, dilation)
    rows, columns = _reach(ys, height, apart, dilation), _reach(xs, width, apart, dilation)
    places = np.zeros((len(ys), len(xs)), PLACE)
    places["y"], places["x"] = ys[:, None], xs
    places["height"] = np.minimum(4, -((ys - y1) // dilation))[:, None]
    places["width"] = np.minimum(4, -((xs - width_out) // dilation))
    edge = (rows[..., 1] == 0).any((1, 2))[:, None] | (columns[..., 1] == 0).any((1, 2))
    places["rows"] = edge * (rows.ctypes.data + np.arange(len(ys)) * rows.strides[0])[:, None]
    places["columns"] = edge * (columns.ctypes.data + np.arange(len(xs)) * columns.strides[0])
    return places.ravel(), (rows, columns)


def _starts(first: int, end: int, dilation: int) -> np.ndarray:
    """First pixels of the tiles along one side: bands of 4 * dilation, in each ``dilation`` interleaved tiles."""
    starts = (np.arange(first, end, 4 * dilation)[:, None] + np.arange(dilation)).ravel()
    return starts[starts < end]


def _reach(starts: np.ndarray, size: int, apart: int, dilation: int) -> np.ndarray:
    """(tiles, apart, 6, 2): the six lines that each tile reads of every image, and whether they are inside."""
    lines = starts[:, None, None] + (np.arange(6) - 1) * dilation
    sizes = -(-(size - np.arange(apart)) // apart)
    inside = (lines >= 0) & (lines < sizes[:, None])
    return np.stack([np.where(inside, lines, 0), -inside.astype(np.int64)], axis=3)
