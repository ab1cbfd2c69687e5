"""Convolutions as matrix products: the GEMM micro-kernel, and one kernel for every convolution that Winograd does not take.

    gathered (K / 16, strip, 16)   x   weights (K / 16, 16, N)   ->   sums (N / 16, strip, 16)

A convolution is a list of *phases*. Each phase makes the output pixels ``(q * out_step + fy, j * out_step + fx)`` from the
input pixels ``(q * in_step + dy, j * in_step + dx)``, one (dy, dx) a tap. A convolution with stride s is one phase with
``in_step = s``; a transposed one is s * s phases with ``out_step = s``, each with its share of the taps. Where each has one
tap, of the same pixel, they are one phase that makes s x s output pixels, side by side in the product's columns.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .finish import finish
from .layout import blocks
from .memory import copy, least, most, peek, zero
from .simd import BLOCK, BYTES, Isa, Micro, Vectors

AHEAD = 4096  # bytes: deep layers stream their weights, 36 * in * out * 4 bytes, from the last cache or memory
STEPS = 2  # of K, unrolled: 4 are no faster and make twice as much to compile


def _emit_tile(v: Vectors, rows: int, columns: int, pairs: bool, pitch: int,
               a: Any, a_block: Any, blocks: Any, u: Any, m: Any, m_block: Any) -> None:  # fmt: skip
    """``rows`` x ``columns`` sums kept in registers over all K.

    A product needs its own load of an input where there is one vector of weights. With ``pairs`` one load brings the inputs of
    two K to neighbouring lanes, the weights lie likewise, and two vectors of sums, each half of the columns, are added up at last.
    """
    lanes = v.isa.lanes
    together = 2 if pairs else 1
    vectors = together * columns // lanes
    load = v.load_pair if pairs else v.load_splat

    def few(_: Any, carried: list[Any]) -> list[Any]:
        a, u, *sums = carried
        for k in range(0, STEPS, together):
            if k:
                v.fence()
            if columns > lanes:  # a single vector a row leaves no time for it
                for line in range(0, columns * 4, 64):
                    v.prefetch(u, AHEAD + k * columns * 4 + line)
            weights = [v.load(u, (k * columns + i * lanes) * 4) for i in range(vectors)]
            for row in range(rows):
                value = load(a, row * pitch + k * 4)
                for i in range(vectors):
                    sums[row * vectors + i] = v.fma(value, weights[i], sums[row * vectors + i])
                if vectors > 1 and (row % 3 == 2 or row == rows - 1):
                    part = slice((row - row % 3) * vectors, (row + 1) * vectors)
                    sums[part] = v.pin(sums[part])
        return [v.at(a, STEPS * 4), v.at(u, STEPS * columns * 4), *sums]

    def block(_: Any, carried: list[Any]) -> list[Any]:
        a, u, *sums = carried
        _, u, *sums = v.loop(v.integer(BLOCK), STEPS, [a, u, *sums], few)
        return [v.at(a, a_block), u, *sums]

    sums = v.loop(blocks, 1, [a, u] + [v.constant(0.0)] * (rows * vectors), block)[2:]
    if pairs:
        sums = [v.add_neighbours(first, second) for first, second in zip(sums[::2], sums[1::2], strict=True)]
    for row in range(rows):
        for i in range(columns // lanes):
            group, offset = divmod(i * lanes, BLOCK)
            v.store(sums[row * columns // lanes + i], v.at(m, v.times(m_block, group)), row * pitch + offset * 4)


def emit_gemm(v: Vectors, a: Any, a_block: Any, blocks: Any, u: Any, m: Any, m_block: Any, columns: Any, rows: Any, pitch: int) -> None:
    """All ``columns`` of ``rows`` rows, ``pitch`` bytes apart in ``a`` and ``m``: a constant, so that it is part of the addresses.

    The last tile may reach, in both, up to the next multiple of `STRIP_UNIT` rows.
    """
    builder, isa = v.builder, v.isa
    a, u, m = v.pointer(a), v.pointer(u), v.pointer(m)
    wide_columns = builder.and_(columns, v.integer(-isa.wide[1]))
    panels = [(isa.wide, False, v.integer(0), wide_columns), (isa.narrow, isa.pairs, wide_columns, builder.sub(columns, wide_columns))]
    for (height, width), pairs, first, count in panels[:1] if isa.wide == isa.narrow else panels:
        # whole tiles as long as they waste less than tails would
        whole = builder.sdiv(builder.add(rows, v.integer((height - 1) % isa.tail)), v.integer(height))
        main = builder.mul(whole, v.integer(height))
        strips = [(height, v.integer(0), main), (isa.tail, main, builder.sub(rows, main))]
        if height == isa.tail:
            strips = [(height, v.integer(0), rows)]

        def panel(column: Any, _: list[Any], panel: tuple = (width, pairs, first, strips)) -> list[Any]:
            width, pairs, first, strips = panel
            column = builder.add(column, first)
            weights = v.at(u, builder.mul(builder.mul(blocks, v.integer(BYTES)), column))
            group = builder.mul(builder.sdiv(column, v.integer(BLOCK)), m_block)
            sums = v.at(v.at(m, group), v.times(builder.srem(column, v.integer(BLOCK)), 4))
            for height, start, some in strips:

                def strip(row: Any, _: list[Any], height: int = height, start: Any = start) -> list[Any]:
                    offset = v.times(builder.add(row, start), pitch)
                    _emit_tile(v, height, width, pairs, pitch, v.at(a, offset), a_block, blocks, weights, v.at(sums, offset), m_block)
                    return []

                v.loop(some, height, [], strip)
            return []

        v.loop(count, width, [], panel)


gemm = Micro("gemm", 8, partial(emit_gemm, pitch=BYTES))
STRIP_UNIT = 24  # strips are multiples of it: whole tiles of every instruction set


def pack_matrix(matrix: np.ndarray, isa: Isa) -> np.ndarray:
    """(..., K, N), both multiples of 16, to the order in which `gemm` reads: panels of N, in each (K, columns).

    Where the narrow tile takes pairs, its panel is (K / 2, columns, 2).
    """
    columns = matrix.shape[-1]
    wide = columns - columns % isa.wide[1]
    edges = [*range(0, wide, isa.wide[1]), *range(wide, columns, isa.narrow[1]), columns]
    panels = [matrix[..., left:right] for left, right in pairwise(edges)]
    if isa.pairs and wide < columns:
        *lead, k, width = panels[-1].shape
        panels[-1] = panels[-1].reshape(*lead, k // 2, 2, width).swapaxes(-1, -2)
    flat = [panel.reshape(*matrix.shape[:-2], -1) for panel in panels]
    return np.ascontiguousarray(np.concatenate(flat, axis=-1), np.float32)


def pad_blocks(array: np.ndarray, axis: int) -> np.ndarray:
    """Zeros behind ``axis`` up to the next multiple of 16."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, -array.shape[axis] % BLOCK)
    return np.pad(array, padding)


def conv_gemm(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1) of any convolution: gather a strip of pixels tap by tap, multiply, finish."""
    blocks, out_blocks = s.source_blocks, s.target_blocks
    gathered, sums, strip, out_step = s.gathered, s.sums, s.strip, s.out_step
    block_bytes = strip * BYTES + BYTES  # one line more: positions at multiples of 4 KB would share cache sets
    for phase in range(s.phase_count):
        entry = s.phases + phase * 48
        fy, fx, side, taps, offsets, weights = (
            peek(entry), peek(entry + 8), peek(entry + 16), peek(entry + 24), peek(entry + 32), peek(entry + 40)
        )  # fmt: skip
        first = (s.y0 - fy + out_step - 1) // out_step
        rows = (s.y1 - fy + out_step - 1) // out_step - first
        columns = (s.width - fx + out_step - 1) // out_step
        total = rows * columns
        for start in range(0, total, strip):
            count = least(strip, total - start)
            done = 0
            while done < count:  # one row's share of the strip
                q, j = (start + done) // columns, (start + done) % columns
                some = least(count - done, columns - j)
                for tap in range(taps):
                    y = (first + q) * s.in_step + peek(offsets + tap * 16)
                    dx = peek(offsets + tap * 16 + 8)
                    left = least(most((-dx + s.in_step - 1) // s.in_step - j, 0), some)  # pixels before the first column
                    inside = least(most((s.in_width - dx + s.in_step - 1) // s.in_step - j, left), some)  # and before the end
                    for block in range(blocks):
                        source = s.sources + block * 24
                        target = gathered + (tap * blocks + block) * block_bytes + done * BYTES
                        if y < 0 or y >= s.in_height:
                            zero(target, BYTES, some)
                        else:
                            pixel = peek(source + 16)
                            line = peek(source) + y * peek(source + 8)
                            zero(target, BYTES, left)
                            begin = line + ((j + left) * s.in_step + dx) * pixel
                            copy(begin, pixel * s.in_step, target + left * BYTES, BYTES, inside - left)
                            zero(target + inside * BYTES, BYTES, some - inside)
                done += some
            gemm(gathered, block_bytes, taps * blocks, weights, sums, block_bytes, side * side * out_blocks * BLOCK, count)
            done = 0
            while done < count:
                q, j = (start + done) // columns, (start + done) % columns
                some = least(count - done, columns - j)
                for n in range(side * side * out_blocks):
                    block, pixel = n % out_blocks, n // out_blocks
                    y, x = (first + q) * out_step + fy + pixel // side, j * out_step + fx + pixel % side
                    target = s.target + y * s.target_row + x * s.target_pixel + block * BYTES
                    other = s.other + y * s.other_row + x * s.other_pixel + block * BYTES
                    finish(s.finish, sums + n * block_bytes + done * BYTES, 0, BYTES, target, 0, s.target_pixel * out_step,
                           other, 0, s.other_pixel * out_step, s.parameters + block * 3 * BYTES, 1, some)  # fmt: skip
                done += some


def conv_phases(weight: np.ndarray, dilation: int, padding: int, lanes: np.ndarray, isa: Isa) -> list[tuple]:
    """The one phase of a convolution with ``weight`` (out, in, k, k): (fy, fx, side, taps (n, 2), packed weights)."""
    kernel = weight.shape[2]
    taps = [(ky, kx) for ky in range(kernel) for kx in range(kernel)]
    offsets = np.array([(ky * dilation - padding, kx * dilation - padding) for ky, kx in taps], np.int64)
    return [(0, 0, 1, offsets, _pack_taps([weight[:, :, ky, kx].T for ky, kx in taps], lanes, isa))]


def deconv_phases(weight: np.ndarray, stride: int, padding: int, lanes: np.ndarray, isa: Isa) -> list[tuple]:
    """The stride * stride phases of a transposed convolution with ``weight`` (in, out, k, k), or the one that stands for all.

    Output row o gets input row i through tap k = o + padding - stride * i.
    """
    kernel, phases = weight.shape[2], []
    if kernel == stride and padding == 0:
        matrices = [place_lanes(weight[:, :, ky, kx], lanes) for ky in range(kernel) for kx in range(kernel)]
        return [(0, 0, stride, np.zeros((1, 2), np.int64), pack_matrix(np.concatenate(matrices, axis=1), isa))]
    for fy in range(stride):
        for fx in range(stride):
            ys = range((fy + padding) % stride, kernel, stride)
            xs = range((fx + padding) % stride, kernel, stride)
            taps = [(ky, kx) for ky in ys for kx in xs]
            offsets = [((fy + padding - ky) // stride, (fx + padding - kx) // stride) for ky, kx in taps]
            packed = _pack_taps([weight[:, :, ky, kx] for ky, kx in taps], lanes, isa) if taps else np.zeros(0, np.float32)
            phases.append((fy, fx, 1, np.array(offsets, np.int64).reshape(-1, 2), packed))
    return phases


def _pack_taps(matrices: list[np.ndarray], lanes: np.ndarray, isa: Isa) -> np.ndarray:
    """Each tap's (in, out) matrix, its rows at the input's padded lanes, below each other and packed."""
    return pack_matrix(np.concatenate([place_lanes(matrix, lanes) for matrix in matrices]), isa)


def place_lanes(matrix: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """(..., in, out) to (..., padded in, padded out): row i goes to lane ``lanes[i]`` of the concatenated inputs' blocks."""
    matrix = pad_blocks(matrix, -1)
    placed = np.zeros((*matrix.shape[:-2], blocks(int(lanes[-1]) + 1) * BLOCK, matrix.shape[-1]), matrix.dtype)
    placed[..., lanes, :] = matrix
    return placed
