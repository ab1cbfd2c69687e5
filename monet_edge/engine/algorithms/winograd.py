"""Winograd F(4x4, 3x3) for four convolutions: 3x3 with stride 1, 3x3 and 4x4 with stride 2, and the transpose of the last.

A strip of tiles is transformed, multiplied position by position, and transformed back. All go by the same 36 positions of
6x6 tiles. 3x3 is taken as it is; a dilation of n is n * n convolutions without one on the grids ``x[i::n, j::n]``: only the
tile's steps change. The others are made of 2x2 convolutions, padded to 3x3 with zeros first or last; a filter that starts with
a zero has a zero at the point 0, one that ends with one has it at infinity, and those products are left out: 25 of 36 remain.

- The transposed one: each of the four *phases* of its output is a 2x2 convolution of its input.
- Those with stride 2: their output is the sum of four 2x2 convolutions of the input's even and odd rows and columns, which
  are read as images of their own (*polyphase*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...spec import Op
from ..arena import Fields, Memory
from ..codegen import amx
from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.gemm import pack_matrix
from ..codegen.jit import Kernel
from ..codegen.layout import aligned, blocks, place_lanes
from ..codegen.memory import min64
from ..codegen.simd import BLOCK, BYTES, Isa
from ..codegen.step import SOURCES, TARGET, readers, source_base, source_pixel, source_row, step, table
from ..codegen.transforms import LINE, TILE, gemm_tiles, pack_filters, transform_filters, winograd_input, winograd_output, winograd_patch
from ..fuse import Layer
from .contract import Algorithm, Network, Packed

STEP = step(
    *TARGET, *SOURCES, *EPILOGUE,
    "weights", "products",  # one after the other; the table `PRODUCT` that says with what they are multiplied
    "in_stride", "out_stride", "dilation",  # of a convolution, of a transposed one
    "places", "tiles",  # the table `PLACE` of the tiles to make, and how many
    "strip",  # tiles worked on at a time
    "V", "M", "tile",  # scratch: transformed inputs, their products with the weights, one tile at an edge or before its epilogue
    "parts",  # scratch of `gemm` where AMX multiplies
)  # fmt: skip

STRIDED = 16 << 20  # bytes of the weights of 3x3 with stride 2, at most
FEW = 64  # pixels
TAKEN = 1 << 16  # weights of a convolution that im2col takes over, at least: 32 to 64 channels take 3.7 ms so, and 2.7

PRODUCT = table("position", "first", "stride", "blocks")  # a matrix product: of which of the 36 positions, with which input blocks
product_position, product_first, product_stride, product_blocks = readers("product", PRODUCT)

# A tile: its first output pixel; how many of its 4x4 are wanted; of one that hangs over an edge, addresses of six `LINE` each
PLACE = table("y", "x", "height", "width", "rows", "columns")
place_y, place_x, place_height, place_width, place_rows, place_columns = readers("place", PLACE)
LINES = 6 * LINE.itemsize  # from a tile's lines in one polyphase image to those in the next


def suits(layer: Layer, network: Network) -> bool:
    """Never slower than im2col, from 16 channels at 256x256 to 1024 at 16x16; the 4x4 ones take 2.56 times fewer products.

    OpenVINO's direct convolution takes 2.0 to 3.3 times as long on all 3x3 of these (Zen 5, one thread, single layers). One tile
    is not worth its weights, which are four times as many: 512 channels at 4x4 take 3.5 ms, with im2col 1.3 (Emerald Rapids).
    3x3 with stride 2 has 81 products for im2col's 144: 32 to 64 channels, 512x512 to 256x256, take 15 ms instead of 26, 128 to 256 at
    a quarter of that 14 instead of 19, but 256 to 512 17 instead of 19, with nine times the weights (a Xeon held to AVX-512).
    """
    packer = form(layer.op)
    if packer is None or network.pixels(layer) <= 16 or left_to_tiles(layer, network):
        return False
    if packer is pack_strided and layer.op["kernel"] == 3:
        return 81 * BLOCK * BYTES * network.blocks(*layer.inputs) * network.blocks(layer.name) <= STRIDED
    return True


def left_to_tiles(layer: Layer, network: Network) -> bool:
    """Whether im2col multiplies a 3x3 convolution on AMX, and takes less so: with stride 2, and few pixels.

    64 to 128 channels, 128x128 to 64x64, take 2.6 ms instead of 3.7, 128 to 256 a quarter of that 2.5 instead of 3.7; 512 channels at
    8x8 2.0 in place of F(2x2)'s 2.0, with 9 numbers a filter in memory instead of 16.
    """
    weights = 9 * BLOCK**2 * network.blocks(*layer.inputs) * network.blocks(layer.name)
    pixels = network.pixels(layer)
    fits = layer.op["kernel"] == 3 and (layer.op["stride"] == 2 or pixels <= FEW)
    return fits and weights >= TAKEN and bool(amx.scratch(network.isa, pixels, weights))


Packer = Callable[[np.ndarray, np.ndarray, Isa], tuple[np.ndarray, np.ndarray]]  # weight, lanes, isa -> products, packed weights


def form(op: Op) -> Packer | None:
    """How the weights of a convolution are packed, None if it is not one of the four."""
    if op.kind == "conv" and op["kernel"] == 3 and op["stride"] == 1 and op["padding"] == op["dilation"]:
        return pack_3x3
    if op.kind == "conv" and op["kernel"] in (3, 4) and op["stride"] == 2 and op["padding"] == op["dilation"] == 1:
        return pack_strided
    if op.kind == "deconv" and op["kernel"] == 4 and op["stride"] == 2 and op["padding"] == 1:
        return pack_transposed
    return None


def strides(op: Op) -> tuple[int, int, int]:
    """Of the input, of the output, and the dilation."""
    return (op["stride"], 1, op["dilation"]) if op.kind == "conv" else (1, op["stride"], 1)


def strip_of_tiles(inputs: int, outputs: int, weights: int) -> int:
    """How many tiles are worked on at a time, for blocks of input and output channels and bytes of weights.

    48 fill whole GEMM tiles of every CPU. 24 where the transformed tiles would take more than half of a second cache of 512 KB, a
    laptop's, but the weights do not come from memory (up to 1.7 MB). With the 2 MB of a Xeon with AMX, held to AVX2, all of MoNet takes
    38.3 ms with 24 everywhere and 39.3 with 48; 96 to 32 channels at 128x128 2.63 and 2.92, 48 to 16 at 256x256 3.34 and 3.49. Deeper
    layers stream their weights once a strip: 512 channels at 32x32 take 15 ms with 48, 35 with 24. 96 where a strip reads more of
    weights than of tiles: 256 channels at 32x32, 64 tiles, 2.9 ms instead of 3.5, 512 channels there 10.7 instead of 13.3 (AVX-512);
    3.9 instead of 4.4 (AVX2).
    """
    tiles = TILE * (inputs + outputs) * 48
    if tiles > 256_000 and weights <= 1_700_000:
        return 24
    return 96 if weights > tiles else 48


def pack(layer: Layer, network: Network) -> Packed:
    """Weights transformed to 6x6 positions and packed, the table of products, scratch for a strip of tiles."""
    packer = form(layer.op)
    assert packer is not None
    products, weights = packer(network.weight(layer), network.lanes(layer.inputs), network.isa)
    in_stride, out_stride, dilation = strides(layer.op)
    inputs, outputs = in_stride**2 * network.blocks(*layer.inputs), network.blocks(layer.name)
    strip = strip_of_tiles(inputs, outputs, weights.nbytes)
    fields = {"weights": aligned(weights), "products": products, "in_stride": in_stride, "out_stride": out_stride, "dilation": dilation}
    areas = {"V": TILE * inputs * strip, "M": TILE * outputs * strip, "tile": TILE}
    areas |= amx.scratch(network.isa, network.pixels(layer) / (4 * out_stride) ** 2, weights.size / len(products))
    return Packed(fields | {"strip": strip} | network.epilogue(layer), areas)


def pack_3x3(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> tuple[np.ndarray, np.ndarray]:
    """(out, in, 3, 3), stride 1: 36 products with all blocks."""
    count = blocks(int(lanes[-1]) + 1)
    return _table([(position, 0, 1, count) for position in range(36)]), pack_filters(weight, transform_filters, lanes, isa).ravel()


def pack_transposed(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> tuple[np.ndarray, np.ndarray]:
    """(in, out, 4, 4), stride 2, padding 1: four phases of 25 products.

    Output row 2 i + fy is a sum over input rows i - 1, i, i + 1: taps (3, 1, -) for fy = 0, (-, 2, 0) for fy = 1.
    """
    grid = np.arange(36).reshape(6, 6)
    products, packed = [], []
    for fy in range(2):
        for fx in range(2):
            filters = _padded(weight.swapaxes(0, 1), ((3, 1), (2, 0))[fy], ((3, 1), (2, 0))[fx], fy, fx)
            positions = grid[fy : fy + 5, fx : fx + 5].ravel()
            matrices = place_lanes(transform_filters(filters)[positions], lanes)
            products += [(position, 0, 1, matrices.shape[1] // BLOCK) for position in positions.tolist()]
            packed.append(pack_matrix(matrices, isa).ravel())
    return _table(products), np.concatenate(packed)


def pack_strided(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> tuple[np.ndarray, np.ndarray]:
    """(out, in, 4, 4), or (out, in, 3, 3), stride 2, padding 1: 36 products with the blocks that count in each.

    Output row i is a sum over rows i, i + 1 of the even ones, taps (-, 1, 3), and rows i - 1, i of the odd ones, taps (0, 2, -).
    Of 3x3 there is no tap 3: nothing is left at infinity, and a product of no blocks is zero.
    The input's blocks come in the order (odd row, block, odd column), see `polyphase`: those of the even or odd rows are side by
    side and those of the even or odd columns two apart, so what has a zero at a position is never read.
    """
    missing = 4 - weight.shape[2]
    weight = np.pad(weight, ((0, 0), (0, 0), (0, missing), (0, missing))) if missing else weight
    halves = [
        transform_filters(_padded(weight, ((1, 3), (0, 2))[py], ((1, 3), (0, 2))[px], 1 - py, 1 - px)) for py in range(2) for px in range(2)
    ]
    placed = np.stack([place_lanes(half, lanes) for half in halves])  # (4, 36, lanes, out)
    blocks, out = placed.shape[2] // BLOCK, placed.shape[3]
    ordered = placed.reshape(2, 2, 6, 6, blocks, BLOCK, out).transpose(2, 3, 0, 4, 1, 5, 6)  # (6, 6, odd row, block, odd column, 16, out)
    count = [slice(1, 2), *[slice(0, 2)] * 4, slice(0, 1 - missing)]  # at the point 0 only the odd ones, at infinity only the even ones
    products, packed = [], []
    for i, rows in enumerate(count):
        for j, columns in enumerate(count):
            chosen = ordered[i, j, rows, :, columns]
            first, stride = rows.start * 2 * blocks + columns.start, 1 if chosen.shape[2] == 2 else 2
            products.append((i * 6 + j, first, stride, chosen[..., 0, 0].size))
            packed.append(pack_matrix(chosen.reshape(-1, out), isa).ravel())
    return _table(products), np.concatenate(packed)


def _table(products: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Rows of `PRODUCT`; by way of integers, which NumPy is 10 times as fast with as with records."""
    return np.array(products, np.int64).view(PRODUCT)[:, 0].copy()


def _padded(weight: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], down: int, right: int) -> np.ndarray:
    """The taps ``rows`` x ``columns`` of (out, in, 4, 4) as 3x3 filters, after ``down`` rows and ``right`` columns of zeros."""
    filters = np.zeros((*weight.shape[:2], 3, 3))
    filters[:, :, down : down + 2, right : right + 2] = weight[:, :, rows][:, :, :, columns]
    return filters


def locate(layer: Layer, memory: Memory) -> Fields:
    """Sources and target; of a stride of 2 even and odd rows and columns are images of their own, see `polyphase`."""
    sources = polyphase(memory.source_table(layer.inputs), strides(layer.op)[0])
    return {"sources": sources, "source_blocks": len(sources)} | memory.target(layer.name) | memory.other(layer)


def polyphase(sources: np.ndarray, stride: int) -> np.ndarray:
    """With a stride of 2, even and odd rows and columns as images of their own: in the order (odd row, block, odd column)."""
    base, row, pixel = (sources[column] for column in ("base", "row", "pixel"))
    images = [(base + i * row + j * pixel, stride * row, stride * pixel) for i in range(stride) for j in range(stride)]
    made = np.empty((stride, len(sources), stride), sources.dtype)
    for number, image in enumerate(images):
        for column, values in zip(("base", "row", "pixel"), image, strict=True):
            made[column][number // stride, :, number % stride] = values
    return made.ravel()


def band(layer: Layer, memory: Memory, y0: int, y1: int) -> Fields:
    """Where the tiles (tiles,) are that make rows [y0, y1)."""
    in_stride, out_stride, dilation = strides(layer.op)
    _, height, width = memory.shapes[layer.inputs[0]]
    columns = memory.shapes[layer.name][2] // out_stride
    places, _ = memory.once(tile_places, height, width, columns, in_stride, dilation, y0 // out_stride, y1 // out_stride)
    return {"places": places, "tiles": len(places)}


def tile_places(
    height: int, width: int, columns: int, stride: int, dilation: int, y0: int, y1: int, top: int = 0
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Where the tiles are that make rows [y0, y1) of an output of so many columns, in order of rows.

    ``y0`` begins a row of tiles, so that the tiles, and with them every bit of the result, do not depend on how the rows are
    shared out.

    Parameters
    ----------
    height, width : int
        Of the input.
    stride : int
        1, or 2 where even and odd rows and columns of the input are images of their own.
    top : int
        Rows above the image, of other slices, and as many above the output.

    Returns
    -------
    places : array of PLACE
    keep : tuple of arrays
        What the addresses in it point to.
    """
    ys, xs = _starts(y0, y1, dilation), _starts(0, columns, dilation)
    down, right = _lines(ys, height, stride, dilation), _lines(xs, width, stride, dilation)
    places = np.zeros((len(ys), len(xs)), PLACE)
    places["y"], places["x"] = top + ys[:, None], xs
    down["index"] += top
    places["height"] = np.minimum(4, -((ys - y1) // dilation))[:, None]
    places["width"] = np.minimum(4, -((xs - columns) // dilation))
    edge = (down["inside"] == 0).any((1, 2))[:, None] | (right["inside"] == 0).any((1, 2))
    places["rows"] = edge * (down.ctypes.data + np.arange(len(ys)) * down.strides[0])[:, None]
    places["columns"] = edge * (right.ctypes.data + np.arange(len(xs)) * right.strides[0])
    return places.ravel(), (down, right)


def _starts(first: int, end: int, dilation: int) -> np.ndarray:
    """First pixels of the tiles along one side: bands of ``4 * dilation``, in each ``dilation`` interleaved tiles."""
    starts = (np.arange(first, end, 4 * dilation)[:, None] + np.arange(dilation)).ravel()
    return starts[starts < end]


def _lines(starts: np.ndarray, size: int, stride: int, dilation: int) -> np.ndarray:
    """(tiles, stride, 6) of LINE: the lines that each tile reads of every polyphase image."""
    index = starts[:, None, None] + (np.arange(6) - 1) * dilation
    sizes = -(-(size - np.arange(stride)) // stride)
    inside = (index >= 0) & (index < sizes[:, None])
    lines = np.empty(inside.shape, LINE)
    lines["index"], lines["inside"] = np.where(inside, index, 0), -inside.astype(np.int64)
    return lines


def unit(op: Op) -> int:
    """Whole rows of tiles."""
    _, out_stride, dilation = strides(op)
    return 4 * out_stride * dilation


def rows(op: Op, y0: int, y1: int) -> tuple[int, int]:
    """With a stride of 2, whole pairs of rows: one more on either side. Transposed, taps reach one row up and one down."""
    in_stride, out_stride, dilation = strides(op)
    if out_stride == 2:
        return (y0 - 2) // 2, y1 // 2 + 1
    if in_stride == 2:
        return y0 * 2 - 2, y1 * 2 + 2
    return y0 - op["padding"], y1 - op["padding"] + dilation * (op["kernel"] - 1)


def winograd(s):  # type: ignore[no-untyped-def]  # Numba infers
    """The tiles of ``places``: one phase, or the four of a transposed convolution."""
    blocks, out_blocks, out_stride, strip = s.source_blocks, s.target_blocks, s.out_stride, s.strip
    half = blocks // s.in_stride  # with stride 2 the blocks of the even rows, then of the odd ones; in each, columns take turns
    down, right = s.dilation * out_stride * s.target_row, s.dilation * out_stride * s.target_pixel
    other_down, other_right = s.dilation * out_stride * s.other_row, s.dilation * out_stride * s.other_pixel
    positions = 36 if out_stride == 1 else 25
    for start in range(0, s.tiles, strip):
        count = min64(strip, s.tiles - start)
        for t in range(count):
            y, x = place_y(s.places, start + t), place_x(s.places, start + t)
            edge_rows, edge_columns = place_rows(s.places, start + t), place_columns(s.places, start + t)
            for block in range(blocks):
                base, row, pixel = source_base(s.sources, block), source_row(s.sources, block), source_pixel(s.sources, block)
                v = s.V + (block * strip + t) * TILE
                if edge_rows == 0:
                    corner = base + (y - s.dilation) * row + (x - s.dilation) * pixel
                    winograd_input(corner, s.dilation * row, s.dilation * pixel, v)
                else:
                    odd_row, odd_column = block // half, block % s.in_stride
                    winograd_patch(base, row, pixel, edge_rows + odd_row * LINES, edge_columns + odd_column * LINES, s.tile)
                    winograd_input(s.tile, 6 * BYTES, BYTES, v)
        weights = s.weights
        for phase in range(out_stride * out_stride):
            for number in range(phase * positions, (phase + 1) * positions):
                position, some = product_position(s.products, number) * BYTES, product_blocks(s.products, number)
                v, stride = s.V + product_first(s.products, number) * strip * TILE + position, product_stride(s.products, number)
                gemm_tiles(v, stride * strip * TILE, some, weights, s.M + position, strip * TILE, out_blocks * BLOCK, count, s.parts)
                weights += some * out_blocks * BLOCK * BYTES
            for t in range(count):
                y, x = place_y(s.places, start + t) * out_stride + phase // 2, place_x(s.places, start + t) * out_stride + phase % 2
                target, other = s.target + y * s.target_row + x * s.target_pixel, s.other + y * s.other_row + x * s.other_pixel
                for block in range(out_blocks):
                    winograd_output(phase if out_stride == 2 else -1, s.M + (block * strip + t) * TILE, s.tile)
                    parameters = s.parameters + block * PARAMETERS
                    epilogue(s.epilogue, s.tile, 4 * BYTES, BYTES, target, down, right, other, other_down, other_right,
                             parameters, place_height(s.places, start + t), place_width(s.places, start + t))  # fmt: skip
                    target += BYTES
                    other += BYTES


ALGORITHM = Algorithm(Kernel(winograd, STEP), suits, pack, locate, band, unit, rows, family="monet")
