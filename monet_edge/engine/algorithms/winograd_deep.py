"""Winograd for the 3x3 convolutions of deep layers, which take the time in which their weights are read: a position's tiles lie together.

F(4x4, 3x3) as in `winograd`, or F(2x2, 3x3) for few pixels: 2.25 times fewer products than a direct convolution, where F(4x4) has 4, but
16 matrices of weights instead of 36.
"""

from __future__ import annotations

from ...spec import Op
from ..arena import Fields, Memory
from ..codegen import amx
from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.gemm import gemm
from ..codegen.jit import Kernel
from ..codegen.memory import min64
from ..codegen.simd import BLOCK, BYTES
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..codegen.transforms import (
    deep_input, deep_output, pack_filters, small_input, small_output, small_patch, transform_filters, transform_small_filters, winograd_patch,
)  # fmt: skip
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, nhwc16
from .winograd import left_to_tiles, place_columns, place_height, place_rows, place_width, place_x, place_y, tile_places

STRIP = 96  # tiles worked on at a time: whole GEMM tiles of every CPU, more than a layer of 16x16 has, so that its weights are read once
ROWS = (STRIP + 1) * BYTES  # of a position and a channel block: one line more than a strip, as multiples of 2 KB would share cache sets
PIXELS = 256  # of a layer, at most, for F(2x2)
WEIGHTS = 4 << 20  # bytes of F(4x4), at least: fewer stay in the second cache

STEP = step(
    *TARGET, *SOURCES, *EPILOGUE, "weights", "places", "tiles", "V", "M", "tile", "parts",  # all as in `winograd`
    "side",  # of a tile's output
)  # fmt: skip


def suits(layer: Layer, network: Network) -> bool:
    """512 channels at 16x16 and 8x8: see the figures below; at 4x4 im2col takes less, with AMX at 8x8 too."""
    op = layer.op
    if op.kind != "conv" or (op["kernel"], op["stride"], op["dilation"], op["padding"]) != (3, 1, 1, 1) or left_to_tiles(layer, network):
        return False
    weights = 36 * BLOCK * BYTES * network.blocks(*layer.inputs) * network.blocks(layer.name)
    return 16 < network.pixels(layer) and weights >= WEIGHTS_FOUR


import os
WEIGHTS_FOUR = int(os.environ.get('W4', 2 << 20))
SIDES={}


def side(layer: Layer, network: Network) -> int:
    """Of a tile's output: 2 where the weights of 4 are read for few tiles."""
    weights = 36 * BLOCK * BYTES * network.blocks(*layer.inputs) * network.blocks(layer.name)
    return 2 if network.pixels(layer) <= PIXELS and weights >= WEIGHTS else 4


def pack(layer: Layer, network: Network) -> Packed:
    """Weights (out, in, 3, 3) transformed to 4x4 or 6x6 positions and packed; scratch for a strip of tiles."""
    tile = side(layer, network)
    SIDES[layer.name] = tile
    positions = (tile + 2) ** 2
    transform = transform_small_filters if tile == 2 else transform_filters
    weights = pack_filters(network.weight(layer), transform, network.lanes(layer.inputs), network.isa)
    inputs, outputs = network.blocks(*layer.inputs), network.blocks(layer.name)
    areas = {"V": positions * apart(inputs), "M": positions * apart(outputs), "tile": positions * BYTES}
    areas |= amx.scratch(network.isa, network.pixels(layer) / tile**2, weights.size / positions)
    return Packed({"weights": weights, "side": tile} | network.epilogue(layer), areas)


def apart(blocks: int) -> int:
    """Bytes from a position to the next: an odd number of lines."""
    return blocks * ROWS | BYTES


def band(layer: Layer, memory: Memory, y0: int, y1: int) -> Fields:
    """Where the tiles (tiles,) are that make rows [y0, y1)."""
    _, height, width = memory.shapes[layer.inputs[0]]
    places, _ = memory.once(tile_places, height, width, width, 1, 1, y0, y1, SIDES[layer.name])
    return {"places": places, "tiles": len(places)}


def unit(op: Op) -> int:
    """As many rows as F(4x4)'s tiles have: more cuts would read the weights more often."""
    return 4


def rows(op: Op, y0: int, y1: int) -> tuple[int, int]:
    """See `contract.Algorithm`: 3x3 reaches a row further on both sides."""
    return y0 - 1, y1 + 2


def winograd_deep(s):  # type: ignore[no-untyped-def]  # Numba infers
    """The tiles of ``places``."""
    blocks, out_blocks, side = s.source_blocks, s.target_blocks, s.side
    in_apart, out_apart = blocks * ROWS | BYTES, out_blocks * ROWS | BYTES
    for start in range(0, s.tiles, STRIP):
        count = min64(STRIP, s.tiles - start)
        for t in range(count):
            y, x = place_y(s.places, start + t), place_x(s.places, start + t)
            edge_rows, edge_columns = place_rows(s.places, start + t), place_columns(s.places, start + t)
            for block in range(blocks):
                base, row, pixel = source_base(s.sources, block), source_row(s.sources, block), source_pixel(s.sources, block)
                v, corner = s.V + block * ROWS + t * BYTES, base + (y - 1) * row + (x - 1) * pixel
                if side == 2:
                    if edge_rows == 0:
                        small_input(corner, row, pixel, v, in_apart)
                    else:
                        small_patch(base, row, pixel, edge_rows, edge_columns, s.tile)
                        small_input(s.tile, 4 * BYTES, BYTES, v, in_apart)
                elif edge_rows == 0:
                    deep_input(corner, row, pixel, v, in_apart)
                else:
                    winograd_patch(base, row, pixel, edge_rows, edge_columns, s.tile)
                    deep_input(s.tile, 6 * BYTES, BYTES, v, in_apart)
        weights = s.weights
        for position in range((side + 2) * (side + 2)):
            v, m = s.V + position * in_apart, s.M + position * out_apart
            gemm(v, ROWS, blocks, weights, m, ROWS, out_blocks * BLOCK, count, s.parts)
            weights += blocks * out_blocks * BLOCK * BYTES
        for t in range(count):
            y, x = place_y(s.places, start + t), place_x(s.places, start + t)
            target, other = s.target + y * s.target_row + x * s.target_pixel, s.other + y * s.other_row + x * s.other_pixel
            for block in range(out_blocks):
                m = s.M + block * ROWS + t * BYTES
                if side == 2:
                    small_output(m, s.tile, out_apart)
                else:
                    deep_output(-1, m, s.tile, out_apart)
                epilogue(s.epilogue, s.tile, side * BYTES, BYTES, target, s.target_row, s.target_pixel,
                         other, s.other_row, s.other_pixel, s.parameters + block * PARAMETERS,
                         place_height(s.places, start + t), place_width(s.places, start + t))  # fmt: skip
                target += BYTES
                other += BYTES


ALGORITHM = Algorithm(Kernel(winograd_deep, STEP), suits, pack, nhwc16, band, unit, rows, family="nnunet")
