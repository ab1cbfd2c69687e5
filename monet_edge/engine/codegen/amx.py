"""The matrix product on the tiles of AMX, as exact as in float32, where the CPU has them and the system lets a process use them.

AMX multiplies numbers of 8 bits, bfloat16, and adds up in float32. A float32 has 24: it is the sum of three bfloat16, a = a1 + a2 + a3,
and of the nine products of two such sums the six greatest, a1 b1 + a1 b2 + a2 b1 + a2 b2 + a1 b3 + a3 b1, are all but 2^-24 of it.
(Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", 2019.)

An instruction adds to 16 x 16 sums the products of 16 x 32 and 32 x 16 numbers; a tile is 16 lines of 64 bytes. A line holds two
channel blocks of a row, number by number in turn, as the instruction adds up pairs.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .simd import BLOCK, BYTES, I8, VOID, Isa, Micro, Vectors

LINES = 16
TILE = LINES * BYTES  # bytes; also from one part of a split number to the next
SPLIT = 3 * TILE  # of 16 lines
GROUP = 4  # tiles of rows multiplied with the same weights: as many sums as leave room for three tiles of weights and one of inputs
DEPTH = 8  # pairs of blocks at a time: their split inputs take a twentieth of a second cache of 2 MB
PARTS = (DEPTH * GROUP + 2) * SPLIT  # bytes of scratch: the split inputs; the split weights of this pair of blocks and the next

INTO = 2  # the cache that weights are fetched into
ROW = 2 * BYTES  # of weights in a panel of 32 columns
PAIR = 2 * BLOCK * ROW  # of blocks, in a panel

ROWS, SIZE = 64, 128 * 128  # of a matrix product, and of its weights: from there on it is faster; 64 channels take 4.9 ms so, and 4.4

WEIGHTS, INPUT = (4, 5, 6), 7  # the numbers of tiles; sums have the first ones


def _split(v: Vectors, value: Any) -> list[Any]:
    """Three vectors of bits, each a float32 whose upper half, a bfloat16, is a part of ``value`` and whose rest is zero.

    Only of a number so small that it has fewer than 24 bits is there a rest to be cut off.
    """
    parts = []
    for _ in range(2):
        bits = v.builder.add(v.builder.bitcast(value, v.integers), _bits(v, 0x8000))  # to the nearest
        parts.append(v.builder.and_(bits, _bits(v, 0xFFFF0000)))
        value = v.sub(value, v.builder.bitcast(parts[-1], v.type))
    return [*parts, v.builder.and_(v.builder.bitcast(value, v.integers), _bits(v, 0xFFFF0000))]


def _bits(v: Vectors, value: int) -> ir.Constant:
    return ir.Constant(v.integers, [value] * v.isa.lanes)


def _split_line(v: Vectors, first: Any, second: Any, target: Any) -> None:
    """Two vectors to a line of each of three tiles, number by number in turn."""
    for part, (low, high) in enumerate(zip(_split(v, v.load(first)), _split(v, v.load(second)), strict=True)):
        line = v.builder.or_(v.builder.lshr(low, _bits(v, 16)), high)
        v.store(v.builder.bitcast(line, v.type), target, part * TILE)


class _Tiles:
    """The instructions; tiles are numbers, as there is nothing that would assign them."""

    def __init__(self, v: Vectors) -> None:
        self.v = v

    def _do(self, name: str, *arguments: Any) -> None:
        self.v.intrinsic(f"llvm.x86.{name}", VOID, [ir.Constant(I8, a) if isinstance(a, int) else a for a in arguments])

    def begin(self) -> None:
        """Eight tiles of 16 lines of 64 bytes."""
        module = self.v.builder.module
        size, lines = b"".join(BYTES.to_bytes(2, "little") for _ in range(8)), bytes([LINES] * 8)
        kind = ir.ArrayType(I8, 64)
        shape = module.globals.get("amx_shape") or ir.GlobalVariable(module, kind, "amx_shape")
        shape.initializer = ir.Constant(kind, bytearray(bytes([1] + [0] * 15) + size.ljust(32, b"\0") + lines.ljust(16, b"\0")))
        shape.global_constant, shape.linkage = True, "internal"
        self._do("ldtilecfg", shape)

    def end(self) -> None:
        self._do("tilerelease")

    def zero(self, tile: int) -> None:
        self._do("tilezero", tile)

    def load(self, tile: int, pointer: Any, offset: int = 0, pitch: Any = BYTES) -> None:
        self._do("tileloadd64", tile, self.v.at(pointer, offset), self._pitch(pitch))

    def store(self, tile: int, pointer: Any, pitch: Any) -> None:
        self._do("tilestored64", tile, pointer, self._pitch(pitch))

    def product(self, sums: int, inputs: int, weights: int) -> None:
        self._do("tdpbf16ps", sums, inputs, weights)

    def _pitch(self, pitch: Any) -> Any:
        return self.v.integer(pitch) if isinstance(pitch, int) else pitch


def _emit(v: Vectors, a: Any, a_block: Any, blocks: Any, u: Any, m: Any, m_block: Any,
          columns: Any, rows: Any, pitch: Any, parts: Any) -> None:  # fmt: skip
    """As `gemm`, for an even number of blocks and panels of 32 columns, and rows ``pitch`` bytes apart.

    Writes up to the next multiple of 16 rows of ``m``. Sums are made in the same order whatever the number of rows.
    """
    if not v.isa.tiles:
        return
    builder, tiles = v.builder, _Tiles(v)
    a, u, m, parts = (v.pointer(address) for address in (a, u, m, parts))
    tiles.begin()
    pairs = builder.lshr(blocks, v.integer(1))

    def chunk(pair: Any, _: list[Any]) -> list[Any]:
        depth = _least(v, builder.sub(pairs, pair), DEPTH)

        def group(row: Any, _: list[Any]) -> list[Any]:
            offset, some = builder.mul(row, pitch), _least(v, builder.sub(rows, row), GROUP * LINES)
            inputs = v.at(v.at(a, offset), builder.mul(v.times(pair, 2), a_block))
            _split_inputs(v, inputs, a_block, depth, some, pitch, parts)
            filled = builder.lshr(builder.add(some, v.integer(LINES - 1)), v.integer(4))
            for count in v.cases(filled, range(1, GROUP + 1), first=1):
                _multiply(v, tiles, count, pair, depth, pairs, v.at(m, offset), u, m_block, columns, pitch, parts)
            return []

        v.loop(rows, GROUP * LINES, [], group)
        return []

    v.loop(pairs, DEPTH, [], chunk)
    tiles.end()


def _least(v: Vectors, value: Any, most: int) -> Any:
    return v.builder.select(v.builder.icmp_signed("<", value, v.integer(most)), value, v.integer(most))


def _split_inputs(v: Vectors, a: Any, a_block: Any, depth: Any, rows: Any, pitch: Any, parts: Any) -> None:
    """``rows`` of ``depth`` pairs of blocks to tiles: (pair, `GROUP`, 3, 16 rows, 64 bytes)."""
    builder = v.builder

    def pair(_: Any, carried: list[Any]) -> list[Any]:
        a, out = carried

        def row(index: Any, carried: list[Any]) -> list[Any]:
            (a,) = carried
            tile, line = builder.lshr(index, v.integer(4)), builder.and_(index, v.integer(LINES - 1))
            _split_line(v, a, v.at(a, a_block), v.at(v.at(out, v.times(tile, SPLIT)), v.times(line, BYTES)))
            return [v.at(a, pitch)]

        v.loop(rows, 1, [a], row)
        return [v.at(v.at(a, a_block), a_block), v.at(out, GROUP * SPLIT)]

    v.loop(depth, 1, [a, parts], pair)


def _multiply(v: Vectors, tiles: _Tiles, count: int, first: Any, depth: Any, pairs: Any,
              m: Any, u: Any, m_block: Any, columns: Any, pitch: Any, parts: Any) -> None:  # fmt: skip
    """``count`` tiles of rows with all columns: while a pair of blocks is multiplied, the weights of the next are split."""
    builder = v.builder

    def start_of(column: Any) -> Any:
        panel = builder.mul(builder.lshr(column, v.integer(5)), v.times(pairs, PAIR))
        inside = v.times(builder.and_(builder.lshr(column, v.integer(4)), v.integer(1)), BYTES)
        return v.at(v.at(u, panel), builder.add(inside, v.times(first, PAIR)))

    def column(index: Any, carried: list[Any]) -> list[Any]:
        after = builder.add(index, v.integer(BLOCK))
        following = start_of(builder.select(builder.icmp_signed("<", after, columns), after, index))
        sums = v.at(m, builder.mul(builder.lshr(index, v.integer(4)), m_block))
        places = [v.at(sums, v.times(pitch, LINES * tile)) for tile in range(count)]
        with builder.if_else(builder.icmp_signed("==", first, v.integer(0))) as (fresh, again):
            with fresh:
                for tile in range(count):
                    tiles.zero(tile)
            with again:
                for tile, place in enumerate(places):
                    tiles.load(tile, place, pitch=pitch)
        last = builder.sub(depth, v.integer(1))
        panel = builder.add(builder.and_(index, v.integer(-2 * BLOCK)), v.integer(2 * BLOCK))
        fetched = builder.select(builder.icmp_signed("<", panel, columns), start_of(panel), beyond)
        half = builder.mul(builder.and_(builder.lshr(index, v.integer(4)), v.integer(1)), v.times(depth, PAIR // 2))

        def pair(index: Any, carried: list[Any]) -> list[Any]:
            u, inputs, now, then, fetched = carried
            u = v.at(u, PAIR)
            ahead = builder.select(builder.icmp_signed("<", index, last), u, following)
            for part, tile in enumerate(WEIGHTS):
                tiles.load(tile, now, part * TILE)
            for tile in range(count):
                for part in range(3):
                    tiles.load(INPUT, inputs, tile * SPLIT + part * TILE)
                    for weights in WEIGHTS[: 3 - part]:
                        tiles.product(tile, INPUT, weights)
                _split_weights(v, ahead, then, LINES * tile // count, LINES * (tile + 1) // count, fetched)
            return [u, v.at(inputs, GROUP * SPLIT), then, now, v.at(fetched, PAIR // 2)]

        _, _, now, then, _ = v.loop(depth, 1, [start_of(index), parts, *carried, v.at(fetched, half)], pair)
        for tile, place in enumerate(places):
            tiles.store(tile, place, pitch)
        return [now, then]

    # Fetched is the next panel, each line once and in the order of memory; behind the last, the first one's next blocks or the next matrix
    after, matrix = builder.add(first, depth), builder.mul(v.times(pairs, PAIR), builder.lshr(columns, v.integer(5)))
    beyond = v.at(u, builder.select(builder.icmp_signed("<", after, pairs), v.times(after, PAIR), matrix))
    buffers = [v.at(parts, (DEPTH * GROUP + index) * SPLIT) for index in range(2)]
    _split_weights(v, start_of(v.integer(0)), buffers[0], 0, LINES, start_of(v.integer(0)))
    v.loop(columns, BLOCK, buffers, column)


def _split_weights(v: Vectors, u: Any, target: Any, begin: int, end: int, fetched: Any) -> None:
    """Lines of the three tiles of a pair of blocks and 16 of a panel's columns; for each, two lines of memory are fetched."""

    def line(_: Any, carried: list[Any]) -> list[Any]:
        u, target, fetched = carried
        for offset in (0, BYTES):
            v.prefetch(fetched, offset, INTO)
        _split_line(v, u, v.at(u, BLOCK * ROW), target)
        return [v.at(u, ROW), v.at(target, BYTES), v.at(fetched, 2 * BYTES)]

    v.loop(v.integer(end - begin), 1, [v.at(u, begin * ROW), v.at(target, begin * BYTES), v.at(fetched, begin * 2 * BYTES)], line)


product = Micro("amx_product", 10, _emit)


def emit_choice(v: Vectors, a: Any, a_block: Any, blocks: Any, u: Any, m: Any, m_block: Any,
                columns: Any, rows: Any, pitch: Any, parts: Any) -> Any:  # fmt: skip
    """Multiply by AMX if there is scratch for it and the blocks come in pairs, one at least; gives how many columns are left to do."""
    builder, zero = v.builder, v.integer(0)
    even = builder.icmp_signed("==", builder.and_(blocks, v.integer(1)), zero)
    some = builder.and_(builder.icmp_signed("!=", blocks, zero), builder.icmp_signed("!=", parts, zero))
    chosen = builder.and_(even, some)
    with builder.if_then(builder.and_(chosen, builder.icmp_signed(">", columns, zero))):
        v.call(product, a, a_block, blocks, u, m, m_block, columns, rows, pitch, parts)
    return builder.select(chosen, zero, columns)


def scratch(isa: Isa, rows: float, weights: float) -> dict[str, int]:
    """Bytes of the field ``parts`` of a layer whose matrix products have so many rows, and weights each, if AMX is faster."""
    return {"parts": PARTS} if isa.tiles and rows >= ROWS and weights >= SIZE else {}
