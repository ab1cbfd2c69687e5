"""Winograd F(2x2, 3x3) for deep layers of few pixels: 2.25 times fewer products than a direct convolution, where F(4x4) has 4.

Such a layer takes the time in which its weights are read, of which these are 16 for every filter where F(4x4) has 36.
"""

from __future__ import annotations

from ...spec import Op
from ..arena import Fields, Memory
from ..codegen import amx
from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.jit import Kernel
from ..codegen.memory import min64
from ..codegen.simd import BLOCK, BYTES
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..codegen.transforms import SMALL_TILE, gemm_small_tiles, pack_filters, small_input, small_output, small_patch, transform_small_filters
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, nhwc16
from .winograd import left_to_tiles, place_columns, place_height, place_rows, place_width, place_x, place_y, tile_places

SIDE = 2  # of a tile's output
POSITIONS = 16
STRIP = 96  # tiles worked on at a time: whole GEMM tiles of every CPU, more than a layer of 16x16 has, so that its weights are read once
PIXELS = 256  # of a layer, at most
WEIGHTS = 4 << 20  # bytes of F(4x4), at least: fewer stay in the second cache

STEP = step(*TARGET, *SOURCES, *EPILOGUE, "weights", "places", "tiles", "V", "M", "tile", "parts")  # all as in `winograd`


def suits(layer: Layer, network: Network) -> bool:
    """512 channels at 16x16 and 8x8: see the figures below; at 4x4 im2col takes less, with AMX at 8x8 too."""
    op = layer.op
    if op.kind != "conv" or (op["kernel"], op["stride"], op["dilation"], op["padding"]) != (3, 1, 1, 1) or left_to_tiles(layer, network):
        return False
    weights = 36 * BLOCK * BYTES * network.blocks(*layer.inputs) * network.blocks(layer.name)
    return 16 < network.pixels(layer) <= PIXELS and weights >= WEIGHTS


def pack(layer: Layer, network: Network) -> Packed:
    """Weights (out, in, 3, 3) transformed to 4x4 positions and packed; scratch for a strip of tiles."""
    weights = pack_filters(network.weight(layer), transform_small_filters, network.lanes(layer.inputs), network.isa)
    inputs, outputs = network.blocks(*layer.inputs), network.blocks(layer.name)
    areas = {"V": SMALL_TILE * inputs * STRIP, "M": SMALL_TILE * outputs * STRIP, "tile": SMALL_TILE}
    areas |= amx.scratch(network.isa, network.pixels(layer) / SIDE**2, weights.size / POSITIONS)
    return Packed({"weights": weights} | network.epilogue(layer), areas)


def band(layer: Layer, memory: Memory, y0: int, y1: int) -> Fields:
    """Where the tiles (tiles,) are that make rows [y0, y1)."""
    _, height, width = memory.shapes[layer.inputs[0]]
    places, _ = memory.once(tile_places, height, width, width, 1, 1, y0, y1, SIDE)
    return {"places": places, "tiles": len(places)}


def unit(op: Op) -> int:
    """As many rows as F(4x4)'s tiles have: more cuts would read the weights more often."""
    return 4


def rows(op: Op, y0: int, y1: int) -> tuple[int, int]:
    """See `contract.Algorithm`: 3x3 reaches a row further on both sides."""
    return y0 - 1, y1 + 2


def winograd_small(s):  # type: ignore[no-untyped-def]  # Numba infers
    """The tiles of ``places``."""
    blocks, out_blocks = s.source_blocks, s.target_blocks
    for start in range(0, s.tiles, STRIP):
        count = min64(STRIP, s.tiles - start)
        for t in range(count):
            y, x = place_y(s.places, start + t), place_x(s.places, start + t)
            edge_rows, edge_columns = place_rows(s.places, start + t), place_columns(s.places, start + t)
            for block in range(blocks):
                base, row, pixel = source_base(s.sources, block), source_row(s.sources, block), source_pixel(s.sources, block)
                v = s.V + (block * STRIP + t) * SMALL_TILE
                if edge_rows == 0:
                    small_input(base + (y - 1) * row + (x - 1) * pixel, row, pixel, v)
                else:
                    small_patch(base, row, pixel, edge_rows, edge_columns, s.tile)
                    small_input(s.tile, 4 * BYTES, BYTES, v)
        weights = s.weights
        for position in range(POSITIONS):
            v, m = s.V + position * BYTES, s.M + position * BYTES
            gemm_small_tiles(v, STRIP * SMALL_TILE, blocks, weights, m, STRIP * SMALL_TILE, out_blocks * BLOCK, count, s.parts)
            weights += blocks * out_blocks * BLOCK * BYTES
        for t in range(count):
            y, x = place_y(s.places, start + t), place_x(s.places, start + t)
            target, other = s.target + y * s.target_row + x * s.target_pixel, s.other + y * s.other_row + x * s.other_pixel
            for block in range(out_blocks):
                small_output(s.M + (block * STRIP + t) * SMALL_TILE, s.tile)
                epilogue(s.epilogue, s.tile, SIDE * BYTES, BYTES, target, s.target_row, s.target_pixel,
                         other, s.other_row, s.other_pixel, s.parameters + block * PARAMETERS,
                         place_height(s.places, start + t), place_width(s.places, start + t))  # fmt: skip
                target += BYTES
                other += BYTES


ALGORITHM = Algorithm(Kernel(winograd_small, STEP), suits, pack, nhwc16, band, unit, rows, family="nnunet")
