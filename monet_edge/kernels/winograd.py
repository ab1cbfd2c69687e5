"""Winograd F(4x4, 3x3): sixteen outputs of a 3x3 convolution from 36 multiplications where the definition needs 144.

    Y = A' [ (G g G') * (B' d B) ] A          d a 6x6 tile of the input, g the 3x3 filter, Y a 4x4 tile of the output

README.md derives the matrices. Summed over the input channels, each of the 36 positions is a matrix product over a strip of
tiles. A dilation of n is n * n convolutions without one on the grids ``x[i::n, j::n]``: only the tile's steps change. The
transposed 4x4 convolution with stride 2 is four 2x2 convolutions, one a phase of the output, that share the input transform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from .finish import finish
from .gemm import gemm, pack_matrix, place_lanes
from .memory import least, peek, poke
from .simd import BLOCK, BYTES, I32, Isa, Micro, Vectors

P, Q = 0.5**0.5, 2**0.5  # the points are 0, +-P, +-Q and infinity; P * Q = 1

# G: a filter's values at the points, scaled so that the other two transforms cost the fewest operations
_SCALES = ((P, 2 * P * (P**2 - Q**2)), (Q, 2 * Q * (Q**2 - P**2)))
G = np.array([[1, 0, 0], *([1 / n, sign * p / n, p * p / n] for p, n in _SCALES for sign in (1, -1)), [0, 0, 1]])


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


def _emit_input(v: Vectors, source: Any, row: Any, pixel: Any, target: Any, position: Any) -> None:
    """A tile inside the image: pixel (i, j) at source + i * row + j * pixel."""
    lines = [v.at(v.pointer(source), v.times(row, i)) for i in range(6)]
    _transform_input(v, lambda i, j: v.at(lines[i], v.times(pixel, j)), None, target, position)


def _emit_input_edge(v: Vectors, source: Any, row: Any, pixel: Any, rows: Any, columns: Any, target: Any, position: Any) -> None:
    """A tile that hangs over the edge: pixel (rows[i][0], columns[j][0]) of the image, and zero unless both [1] are all ones."""
    rows, columns = v.pointer(rows), v.pointer(columns)
    lines = [v.at(v.pointer(source), v.builder.mul(row, v.load_integer(rows, i * 16))) for i in range(6)]

    def address(i: int, j: int) -> Any:
        return v.at(lines[i], v.builder.mul(pixel, v.load_integer(columns, j * 16)))

    def mask(i: int, j: int) -> Any:
        bits = v.builder.and_(v.load_integer(rows, i * 16 + 8), v.load_integer(columns, j * 16 + 8))
        return v.splat(v.builder.trunc(bits, I32))

    _transform_input(v, address, mask, target, position)


def _transform_input(v: Vectors, pixel: Any, mask: Any, target: Any, position: Any) -> None:
    """B' d B for one tile of one channel block: 144 operations, two lines of positions at a time.

    All 36 values between the two passes would not fit into registers; those of two lines do. Loading a pixel up to three times
    costs less than spilling: 84 loads at two a cycle against 36 loads and 36 more stores at one a cycle.
    """
    target = v.pointer(target)

    def read(i: int, j: int, offset: Any) -> Any:
        value = v.load(pixel(i, j), offset)
        return v.builder.bitcast(v.builder.and_(v.builder.bitcast(value, v.integers), mask(i, j)), v.type) if mask else value

    def part(offset: Any, _: list[Any]) -> list[Any]:
        for pair, lines in enumerate(_PAIRS):
            needed = range(6) if pair == 0 else range(1, 5)
            columns = []
            for j in range(6):
                v.fence()
                columns.append(_input_pair(v, pair, [read(i, j, offset) if i in needed else None for i in range(6)]))
            for index, i in enumerate(lines):
                values = [column[index] for column in columns]
                out = v.at(v.at(target, v.times(position, i * 6)), offset)
                v.fence()
                for other, places in enumerate(_PAIRS):
                    for j, value in zip(places, _input_pair(v, other, values), strict=True):
                        v.store(value, v.at(out, v.times(position, j)))
        return []

    v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)


def _emit_output(v: Vectors, phase: Any, sums: Any, position: Any, tile: Any) -> None:
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
                values = [None if i == row else v.load(v.at(sums, v.times(position, i * 6 + j)), offset) for i in range(6)]
                columns.append(None if j == column else _output_line(v, values))
            for i in range(4):
                v.fence()
                for j, value in enumerate(_output_line(v, [line and line[i] for line in columns])):
                    v.store(value, v.at(tile, offset), (i * 4 + j) * BYTES)
            return []

        v.loop(v.integer(BYTES), v.isa.lanes * 4, [], part)
        v.builder.branch(done)
    v.builder.position_at_end(done)


winograd_input = Micro("winograd_input", 5, _emit_input)
winograd_input_edge = Micro("winograd_input_edge", 7, _emit_input_edge)
winograd_output = Micro("winograd_output", 4, _emit_output)


def conv_winograd(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1) of a 3x3 convolution with stride 1 (one phase), or of a transposed 4x4 with stride 2 (four).

    Rows and columns are counted on the grid of the input; ``y0 / out_step`` is a multiple of 4 * dilation, so that the tiles,
    and with them every bit of the result, do not depend on how the rows are shared out.
    """
    blocks, out_blocks, dilation, out_step, strip = s.source_blocks, s.target_blocks, s.dilation, s.out_step, s.strip
    y0, y1, width = s.y0 // out_step, s.y1 // out_step, s.in_width
    line = strip * BYTES
    in_position = blocks * line + BYTES  # one line more: positions at multiples of 4 KB would share cache sets
    out_position = out_blocks * line + BYTES
    panel = blocks * out_blocks * BLOCK * BYTES
    rows, columns, places = s.tables, s.tables + 96, s.tables + 192
    step = 4 * dilation
    across = width // step * dilation + least(width % step, dilation)
    left = ((y1 - y0) // step * dilation + least((y1 - y0) % step, dilation)) * across  # tiles to go
    count = 0
    for band in range(y0, y1, step):
        for y in range(band, least(band + dilation, y1)):
            within = y >= dilation and y + step < s.in_height
            for i in range(6):
                row = y + (i - 1) * dilation
                valid = row >= 0 and row < s.in_height
                poke(rows + i * 16, row if valid else 0)
                poke(rows + i * 16 + 8, -1 if valid else 0)
            for begin in range(0, width, step):
                for x in range(begin, least(begin + dilation, width)):
                    inside = within and x >= dilation and x + step < width
                    if not inside:
                        for j in range(6):
                            column = x + (j - 1) * dilation
                            valid = column >= 0 and column < width
                            poke(columns + j * 16, column if valid else 0)
                            poke(columns + j * 16 + 8, -1 if valid else 0)
                    for block in range(blocks):
                        source = s.sources + block * 24
                        row, pixel = peek(source + 8), peek(source + 16)
                        target = s.gathered + block * line + count * BYTES
                        if inside:
                            corner = peek(source) + (y - dilation) * row + (x - dilation) * pixel
                            winograd_input(corner, dilation * row, dilation * pixel, target, in_position)
                        else:
                            winograd_input_edge(peek(source), row, pixel, rows, columns, target, in_position)
                    poke(places + count * 16, y)
                    poke(places + count * 16 + 8, x)
                    count += 1
                    left -= 1
                    if count < strip and left > 0:
                        continue
                    weights = s.weights
                    for phase in range(s.phase_count):
                        fy, fx, size = 0, 0, 6
                        if out_step == 2:
                            fy, fx, size = phase // 2, phase % 2, 5
                        for i in range(fy, fy + size):
                            for j in range(fx, fx + size):
                                position = i * 6 + j
                                gemm(s.gathered + position * in_position, line, blocks, weights,
                                     s.sums + position * out_position, line, out_blocks * BLOCK, count)  # fmt: skip
                                weights += panel
                        for t in range(count):
                            top, first = peek(places + t * 16), peek(places + t * 16 + 8)
                            high = least((y1 - top + dilation - 1) // dilation, 4) if top + step > y1 else 4
                            wide = least((width - first + dilation - 1) // dilation, 4) if first + step > width else 4
                            top, first = top * out_step + fy, first * out_step + fx
                            target = s.target + top * s.target_row + first * s.target_pixel
                            other = s.other + top * s.other_row + first * s.other_pixel
                            spread = dilation * out_step
                            for block in range(out_blocks):
                                winograd_output(phase if out_step == 2 else -1, s.sums + block * line + t * BYTES, out_position, s.tile)
                                finish(s.finish, s.tile, 4 * BYTES, BYTES, target, spread * s.target_row, spread * s.target_pixel,
                                       other, spread * s.other_row, spread * s.other_pixel,
                                       s.parameters + block * 3 * BYTES, high, wide)  # fmt: skip
                                target += BYTES
                                other += BYTES
                    count = 0


def transform_weights(filters: np.ndarray, lanes: np.ndarray, isa: Isa) -> np.ndarray:
    """(out, in, 3, 3) to (36, packed (in, out) matrix): G g G', in double precision."""
    return pack_matrix(place_lanes(_transform(filters), lanes), isa)


def transform_transposed(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> np.ndarray:
    """(in, out, 4, 4), stride 2, padding 1, to (4 * 25, packed (in, out) matrix).

    Output row 2 i + fy is a sum over input rows i - 1, i, i + 1: taps (3, 1, -) for fy = 0, (-, 2, 0) for fy = 1.
    """
    taps = (((0, 3), (1, 1)), ((1, 2), (2, 0)))
    phases = []
    for fy in range(2):
        for fx in range(2):
            filters = np.zeros((weight.shape[1], weight.shape[0], 3, 3))
            for i, ky in taps[fy]:
                for j, kx in taps[fx]:
                    filters[:, :, i, j] = weight[:, :, ky, kx].T
            positions = _transform(filters).reshape(6, 6, *weight.shape[:2])
            phases.append(positions[fy : fy + 5, fx : fx + 5].reshape(25, *weight.shape[:2]))
    return pack_matrix(place_lanes(np.concatenate(phases), lanes), isa)


def _transform(filters: np.ndarray) -> np.ndarray:
    """(out, in, 3, 3) to (36, in, out), float64."""
    return np.einsum("ia,ocab,jb->ijco", G, filters.astype(np.float64), G).reshape(36, filters.shape[1], filters.shape[0])
