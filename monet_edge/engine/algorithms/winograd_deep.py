"""Winograd for deep 3x3 convolutions, whose time is that of their weights: all tiles of a position lie together, as its product reads them.

The products of a position are written where the transformed inputs of the one before it were.

F(4x4, 3x3) as in `winograd`, or F(2x2, 3x3), whose four tiles take the place of one: 2.25 times fewer products than a direct
convolution, where F(4x4) has 4, but 16 matrices of weights instead of 36.
"""

from __future__ import annotations

import numpy as np

from ...spec import Op
from ..arena import Fields, Memory
from ..codegen import amx
from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.gemm import WHOLE, gemm, room
from ..codegen.jit import Kernel
from ..codegen.memory import max64, min64
from ..codegen.simd import BLOCK, BYTES
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..codegen.transforms import (
    LINE,
    deep_input,
    deep_output,
    pack_filters,
    small_input,
    small_output,
    small_patch,
    transform_filters,
    transform_small_filters,
    winograd_patch,
)
from ..fuse import Layer
from . import winograd
from .contract import Algorithm, Network, Packed, Scratch, nhwc16
from .winograd import place_columns, place_height, place_rows, place_width, place_x, place_y

STRIP = 128  # tiles worked on at a time: as many as two slices of 16x16 have, so that weights are read once for both
# Pixels of a layer that F(2x2) is for, at most, and bytes of its weights as F(4x4) has them, at least: fewer stay in the second cache;
# and the same where it is no faster, but takes much less memory
PIXELS, WEIGHTS = 256, 4 << 20
MORE_PIXELS, MORE_WEIGHTS = 1024, 32 << 20
LINE_BYTES = LINE.itemsize

STEP = step(
    *TARGET, *SOURCES, *EPILOGUE,
    "weights", "places", "tiles", "tile", "parts",  # as in `winograd`
    "V",  # scratch: position by position, transformed inputs, and before them, over those of the last position, products with the weights
    "side",  # of a tile's output: 4, or 2 where each place is that of four tiles
    "next",  # bytes from the weights of a position to those of the next: they are all of the layer's, whose share a step may make
)  # fmt: skip


def suits(layer: Layer, network: Network) -> bool:
    """Where F(2x2) is faster, see `side`, or AMX multiplies.

    256 channels at 32x32 take 1.85 ms in place of 2.0, 512 to 256 3.8 in place of 4.1; on AVX-512 128 channels at 64x64 take 2.8 in
    place of 2.5. At 4x4 im2col takes less, with AMX at 8x8 too.
    """
    if winograd.form(layer.op) is not winograd.pack_3x3 or layer.op["dilation"] != 1:
        return False
    if network.pixels(layer) <= 16 or winograd.left_to_tiles(layer, network):
        return False
    return side(layer, network) == 2 or bool(_parts(layer, network, 4))


def side(layer: Layer, network: Network) -> int:
    """Of a tile's output: 2 for 512 channels at 16x16 and 8x8, where F(4x4) takes the time in which its weights are read.

    At 32x32, too, where F(4x4) has 36 numbers for 16: of nnU-Net's default network at 512x512 a layer has 33 MB of weights in place of 75,
    and two threads take 296 MB in place of 338. A case takes 1 % longer on AMX (a Xeon), 6 % on AVX2 and AVX-512 (Zen 5).
    """
    weights = 36 * BLOCK * BYTES * network.blocks(*layer.inputs) * network.blocks(layer.name)
    pixels = network.pixels(layer)
    small = (pixels <= PIXELS and weights >= WEIGHTS) or (pixels <= MORE_PIXELS and weights >= MORE_WEIGHTS)
    return 2 if small else 4


def _parts(layer: Layer, network: Network, side: int) -> dict[str, int]:
    weights = BLOCK**2 * network.blocks(*layer.inputs) * network.blocks(layer.name)
    return amx.scratch(network.isa, network.pixels(layer) / side**2, weights)


def pack(layer: Layer, network: Network) -> Packed:
    """Weights (out, in, 3, 3) transformed to 4x4 or 6x6 positions and packed; scratch for a strip of tiles."""
    tile = side(layer, network)
    positions = (tile + 2) ** 2
    transform = transform_small_filters if tile == 2 else transform_filters
    weights = pack_filters(network.weight(layer), transform, network.lanes(layer.inputs), network.isa)
    most = max(network.blocks(*layer.inputs), network.blocks(layer.name))

    def transformed(slices: int, rows: int, width: int) -> int:
        tiles = slices * -(-rows // 4) * -(-width // 4) * (4 // tile) ** 2
        return (positions + 1) * (most * (room(min(tiles, STRIP)) + 1) * BYTES | BYTES)

    scratch: Scratch = {"V": transformed, "tile": positions * BYTES}
    fields = {"weights": weights, "side": tile, "next": weights[0].nbytes} | network.epilogue(layer)
    return Packed(fields, {**scratch, **_parts(layer, network, tile)}, column=weights[0].nbytes // network.blocks(layer.name))


def rows(op: Op, y0: int, y1: int) -> tuple[int, int]:
    """See `contract.Algorithm`: 3x3 reaches a row further on both sides."""
    return y0 - 1, y1 + 2


def band(layer: Layer, memory: Memory, y0: int, y1: int) -> Fields:
    """Where the tiles (tiles,) are that make rows [y0, y1) of every slice."""
    _, height, width = memory.shapes[layer.name]
    tops = [number * height for number in range(memory.slices)]
    places = np.concatenate([memory.once(winograd.tile_places, height, width, width, 1, 1, y0, y1, top)[0] for top in tops])
    return {"places": places, "tiles": len(places)}


def winograd_deep(s):  # type: ignore[no-untyped-def]  # Numba infers
    """The tiles of ``places``."""
    blocks, out_blocks, side = s.source_blocks, s.target_blocks, s.side
    across = 4 // side  # tiles in a place
    tiles = s.tiles * across * across
    # from a channel block to the next: `room`, and a line more, as blocks at multiples of 2 KB would share cache sets
    pitch = ((min64(tiles, STRIP) + WHOLE - 1) // WHOLE * WHOLE + 1) * BYTES
    apart = max64(blocks, out_blocks) * pitch | BYTES  # from a position to the next: an odd number of lines
    for start in range(0, tiles, STRIP):
        count = min64(STRIP, tiles - start)
        for t in range(count):
            place, i, j = (start + t) // (across * across), (start + t) // across % across * side, (start + t) % across * side
            y, x = place_y(s.places, place) + i, place_x(s.places, place) + j
            edge_rows, edge_columns = place_rows(s.places, place), place_columns(s.places, place)
            at_edge = edge_rows != 0
            edge_rows, edge_columns = edge_rows + i * LINE_BYTES, edge_columns + j * LINE_BYTES
            for block in range(blocks):
                base, row, pixel = source_base(s.sources, block), source_row(s.sources, block), source_pixel(s.sources, block)
                v, corner = s.V + apart + block * pitch + t * BYTES, base + (y - 1) * row + (x - 1) * pixel
                if side == 4:
                    if at_edge:
                        winograd_patch(base, row, pixel, edge_rows, edge_columns, s.tile)
                        deep_input(s.tile, 6 * BYTES, BYTES, v, apart)
                    else:
                        deep_input(corner, row, pixel, v, apart)
                elif at_edge:
                    small_patch(base, row, pixel, edge_rows, edge_columns, s.tile)
                    small_input(s.tile, 4 * BYTES, BYTES, v, apart)
                else:
                    small_input(corner, row, pixel, v, apart)
        weights = s.weights
        for position in range((side + 2) * (side + 2)):
            m = s.V + position * apart
            v = m + apart
            gemm(v, pitch, blocks, weights, m, pitch, out_blocks * BLOCK, count, s.parts)
            weights += s.next
        for t in range(count):
            place, i, j = (start + t) // (across * across), (start + t) // across % across * side, (start + t) % across * side
            y, x = place_y(s.places, place) + i, place_x(s.places, place) + j
            height, width = min64(side, place_height(s.places, place) - i), min64(side, place_width(s.places, place) - j)
            target, other = s.target + y * s.target_row + x * s.target_pixel, s.other + y * s.other_row + x * s.other_pixel
            for block in range(out_blocks):
                m = s.V + block * pitch + t * BYTES
                if side == 4:
                    deep_output(-1, m, s.tile, apart)
                else:
                    small_output(m, s.tile, apart)
                epilogue(s.epilogue, s.tile, side * BYTES, BYTES, target, s.target_row, s.target_pixel,
                         other, s.other_row, s.other_pixel, s.parameters + block * PARAMETERS, height, width)  # fmt: skip
                target += BYTES
                other += BYTES


ALGORITHM = Algorithm(Kernel(winograd_deep, STEP), suits, pack, nhwc16, band, winograd.unit, rows, several=True, family="nnunet")
