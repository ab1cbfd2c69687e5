"""The matrix product: the GEMM micro-kernel, and how a matrix of weights is packed for it.

V (K / 16, rows, 16)   x   weights (K / 16, 16, N)   ->   M (N / 16, rows, 16)
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from . import amx
from .simd import BLOCK, BYTES, Isa, Micro, Vectors

# Deep layers stream their weights, 36 * in * out * 4 bytes, from the last cache or memory: bytes ahead, and the cache that they are fetched
# into. With 4096 and the first one a network of 32 to 512 features takes 97 ms in place of 89 (256x256, AVX-512 and AMX); with these
# on AVX2 MoNet takes 1.5 % longer
AHEAD, INTO = 16384, 2
AHEAD_NARROW, INTO_NARROW = 4096, 1
WHOLE = 48  # rows
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
    ahead, into = (AHEAD, INTO) if lanes == BLOCK else (AHEAD_NARROW, INTO_NARROW)

    def few(_: Any, carried: list[Any]) -> list[Any]:
        a, u, *sums = carried
        for k in range(0, STEPS, together):
            if k:
                v.fence()
            if columns > lanes:  # a single vector a row leaves no time for it
                for line in range(0, columns * 4, 64):
                    v.prefetch(u, ahead + k * columns * 4 + line, into)
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


def emit_gemm(v: Vectors, a: Any, a_block: Any, blocks: Any, u: Any, m: Any, m_block: Any,
              columns: Any, rows: Any, parts: Any, pitch: int) -> None:  # fmt: skip
    """All ``columns`` of ``rows`` rows, ``pitch`` bytes apart in ``a`` and ``m``: a constant, so that it is part of the addresses.

    The last tile may reach, in both, up to `room` of the rows. ``parts`` is the scratch of a layer that AMX is chosen for, else 0.
    """
    builder, isa = v.builder, v.isa
    wide_columns = builder.and_(columns, v.integer(-isa.wide[1]))
    left = amx.emit_choice(v, a, a_block, blocks, u, m, m_block, wide_columns, rows, v.integer(pitch), parts) if isa.tiles else wide_columns
    a, u, m = v.pointer(a), v.pointer(u), v.pointer(m)
    panels = [(isa.wide, False, v.integer(0), left), (isa.narrow, isa.pairs, wide_columns, builder.sub(columns, wide_columns))]
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


gemm = Micro("gemm", 9, partial(emit_gemm, pitch=BYTES), calls=(amx.product,))


def room(rows: int) -> int:
    """The rows that `a` and `m` of a product of so many must have room for: whole tiles of every instruction set."""
    return -(-rows // WHOLE) * WHOLE


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
