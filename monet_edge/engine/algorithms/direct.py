"""A first convolution of few channels, tap by tap from the image's planes: its channels need not be padded to 16.

The planes have a border of zeros as wide as the padding, which spares every test for edges. A tap is one number of each of
neighbouring pixels, times the vector of its weights: 0.5 ms where Winograd takes 1.3 (one channel to 16 at 256x256).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...spec import INPUT
from ..arena import Fields, Memory
from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.gemm import pack_matrix
from ..codegen.jit import Kernel
from ..codegen.layout import aligned, pad_blocks
from ..codegen.memory import min64
from ..codegen.simd import BLOCK, BYTES, Micro, Vectors
from ..codegen.step import TARGET, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed

STRIP = 48  # pixels of a row worked on at a time
M_BLOCK = STRIP * BYTES  # bytes of a channel block in M

STEP = step(
    *TARGET, *EPILOGUE,
    "image", "image_row",  # the first tap of pixel (0, 0), and bytes to the next row
    "taps", "tap_count",  # bytes from a pixel's first tap to each, in the order of the weights
    "weights",
    "M",  # scratch: the sums of a strip
)  # fmt: skip


def suits(layer: Layer, network: Network) -> bool:
    """A first convolution with stride 1 and at most 36 taps: beyond that, Winograd over channels padded to 16 is cheaper.

    For 16 pixels and outputs it takes 8 cycles a tap, Winograd 360 (AVX-512: 72 for the transform, 288 for the products). All
    that read the image must suit: where one needs it in NHWC16, the others get it so too.
    """
    first = [each for each in network.layers if INPUT in each.reads]
    return network.fused and layer in first and all(_is_small(each, network.spec.in_channels) for each in first)


def _is_small(layer: Layer, channels: int) -> bool:
    op = layer.op
    alone = layer.inputs == (INPUT,) and layer.other is None
    square = op.kind == "conv" and not any(isinstance(op[key], tuple) for key in ("kernel", "stride", "padding"))
    return alone and square and op["stride"] == 1 and channels * op["kernel"] ** 2 <= 36


def pack(layer: Layer, network: Network) -> Packed:
    """Weights (out, in, k, k) in panels of rows (in * k * k) and the columns of a narrow tile; scratch for a strip's sums."""
    weight = network.weight(layer)  # (out, in, k, k), to panels of the narrow tile's columns, in each (in * k * k, columns)
    matrix = pad_blocks(weight.reshape(len(weight), -1).T, 1)
    packed = pack_matrix(matrix, replace(network.isa, wide=network.isa.narrow, pairs=False))
    fields = {"weights": aligned(packed)} | network.epilogue(layer)
    return Packed(fields, {"M": network.blocks(layer.name) * M_BLOCK}, border=layer.op["padding"])


def locate(layer: Layer, memory: Memory) -> Fields:
    """Where the first tap of pixel (0, 0) is, in the border, and bytes from it to each of (in * k * k) taps."""
    op, (plane, row, pixel) = layer.op, memory.image.strides
    taps = tap_offsets(len(memory.image), op["kernel"], op["dilation"], plane, row)
    corner = memory.image.ctypes.data - op["padding"] * (row + pixel)
    return {"image": corner, "image_row": row, "taps": taps, "tap_count": len(taps)} | memory.target(layer.name)


def tap_offsets(channels: int, kernel: int, dilation: int, plane: int, row: int) -> np.ndarray:
    """Bytes from a pixel's first tap, in the bordered image, to each: in the order of the weights."""
    c, y, x = np.meshgrid(np.arange(channels), np.arange(kernel), np.arange(kernel), indexing="ij")
    return (c * plane + y * dilation * row + x * dilation * 4).ravel().astype(np.int64)


def _emit_taps(v: Vectors, source: Any, offsets: Any, taps: Any, weights: Any, m: Any, m_block: Any, columns: Any, count: Any) -> None:
    """M (columns / 16, count, 16) of ``count`` pixels in a row; tap k of pixel x is the float at source + offsets[k] + 4 x.

    Works on whole tiles: reads and writes up to a tile beyond ``count``.
    """
    builder, lanes = v.builder, v.isa.lanes
    rows, width = v.isa.narrow
    vectors = width // lanes
    source, offsets, weights, m = (v.pointer(a) for a in (source, offsets, weights, m))

    def panel(column: Any, _: list[Any]) -> list[Any]:
        part = v.at(weights, builder.mul(column, v.times(taps, 4)))
        out = v.at(m, builder.mul(builder.sdiv(column, v.integer(BLOCK)), m_block))
        out = v.at(out, v.times(builder.srem(column, v.integer(BLOCK)), 4))

        def tile(x: Any, _: list[Any]) -> list[Any]:
            begin = v.at(source, v.times(x, 4))

            def tap(k: Any, totals: list[Any]) -> list[Any]:
                at = v.at(begin, v.load_integer(offsets, v.times(k, 8)))
                factors = [v.load(part, builder.add(v.times(k, width * 4), v.integer(i * lanes * 4))) for i in range(vectors)]
                totals = list(totals)
                for row in range(rows):
                    value = v.load_splat(at, row * 4)
                    for i in range(vectors):
                        totals[row * vectors + i] = v.fma(value, factors[i], totals[row * vectors + i])
                    if vectors > 1 and (row % 3 == 2 or row == rows - 1):
                        some = slice((row - row % 3) * vectors, (row + 1) * vectors)
                        totals[some] = v.pin(totals[some])
                return totals

            for index, total in enumerate(v.loop(taps, 1, [v.constant(0.0)] * (rows * vectors), tap)):
                row, i = divmod(index, vectors)
                v.store(total, v.at(out, v.times(x, BYTES)), row * BYTES + i * lanes * 4)
            return []

        v.loop(count, rows, [], tile)
        return []

    v.loop(columns, width, [], panel)


multiply_taps = Micro("multiply_taps", 8, _emit_taps)


def direct(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1)."""
    for y in range(s.y0, s.y1):
        for x in range(0, s.width, STRIP):
            count = min64(STRIP, s.width - x)
            taps = s.image + y * s.image_row + x * 4
            multiply_taps(taps, s.taps, s.tap_count, s.weights, s.M, M_BLOCK, s.target_blocks * BLOCK, count)
            target = s.target + y * s.target_row + x * s.target_pixel
            for block in range(s.target_blocks):
                epilogue(s.epilogue, s.M + block * M_BLOCK, 0, BYTES, target + block * BYTES, 0, s.target_pixel,
                         target, 0, 0, s.parameters + block * PARAMETERS, 1, count)  # fmt: skip


ALGORITHM = Algorithm(Kernel(direct, STEP), suits, pack, locate, unit=lambda op: 4 * op["dilation"], reads_planes=True, family="monet")
