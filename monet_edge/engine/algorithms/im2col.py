"""Every convolution, any kernel, stride, dilation and padding, transposed or not, as a matrix product over pixels gathered tap by tap.

A convolution is a list of *phases*. Each phase makes the output pixels ``(q * out_stride + y, j * out_stride_x + x)`` from the
input pixels ``(q * in_stride + dy, j * in_stride_x + dx)``, one (dy, dx) a tap. A convolution is one phase, and its stride is
that of the input; a transposed one with stride (s, t) is s * t phases, and its stride is that of the output: each has its share
of the taps. Where that is one tap, of the same pixel, they are one phase that makes s x t output pixels, side by side in the
product's columns.
"""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from ...spec import Op, Pair, pair
from ..arena import Fields, Memory
from ..codegen import amx
from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.gemm import WHOLE, gemm, pack_matrix, room
from ..codegen.jit import Kernel
from ..codegen.layout import aligned, place_lanes
from ..codegen.memory import copy, max64, min64, zero
from ..codegen.simd import BLOCK, BYTES, Isa
from ..codegen.step import SOURCES, TARGET, readers, source_base, source_pixel, source_row, step, table
from ..fuse import CONVOLUTIONS, Layer
from .contract import Algorithm, Network, Packed, Scratch, nhwc16, of_kind

STRIP = 48  # pixels worked on at a time: they fill whole GEMM tiles of every CPU
# Where weights are read from memory once a strip: 512 channels at 8x8, 64 pixels, take 2.9 ms instead of 3.5 (Emerald Rapids)
LONG_STRIP, DEEP = 128, 4_000_000  # pixels, as many as two such slices have; bytes of weights

STEP = step(
    *TARGET, *SOURCES, *EPILOGUE,
    "slices", "out_height",  # how many, and the output rows of each
    "in_height", "in_width", "in_stride", "in_stride_x", "out_stride", "out_stride_x",
    "weights", "phases", "phase_count", "shifts",  # the tables `PHASE` and `SHIFT`
    "strip",  # pixels worked on at a time
    "V", "M", "parts",  # scratch: the inputs of a strip, tap by tap, their products with the weights, and what `gemm` needs
)  # fmt: skip

# First output row and column; rows and columns of output pixels that the product's columns hold; its taps among all; bytes to its weights
PHASE = table("y", "x", "rows", "columns", "taps", "first_tap", "weights")
phase_y, phase_x, phase_rows, phase_columns, phase_taps, phase_first_tap, phase_weights = readers("phase", PHASE)
SHIFT = table("dy", "dx")  # of a tap
shift_dy, shift_dx = readers("shift", SHIFT)

Phase = tuple[int, int, Pair, list[tuple[int, int]], np.ndarray]  # y, x, rows and columns, taps, packed weights


def pack(layer: Layer, network: Network) -> Packed:
    """Weights (out, in, k, k) or (in, out, k, k), phase by phase as matrices (taps * in, out), with the tables of phases and taps."""
    op, weight, lanes = layer.op, network.weight(layer), network.lanes(layer.inputs)
    stride, padding = pair(op["stride"]), pair(op["padding"])
    if op.kind == "conv":
        phases, in_stride, out_stride = conv_phases(weight, op["dilation"], padding, lanes, network.isa), stride, (1, 1)
    else:
        phases, in_stride, out_stride = conv_transpose_phases(weight, stride, padding, lanes, network.isa), (1, 1), stride
    _, _, sides, taps, packed = zip(*phases, strict=True)
    counts, sizes = [len(each) for each in taps], [each.nbytes for each in packed]
    first, offsets = np.cumsum([0, *counts[:-1]]), np.cumsum([0, *sizes[:-1]])
    rows = [(y, x, *side, len(own), *starts) for (y, x, side, own, _), *starts in zip(phases, first, offsets, strict=True)]
    weights = aligned(np.concatenate([each.ravel() for each in packed]))
    strip = LONG_STRIP if weights.nbytes > DEEP else STRIP
    fields = {
        "weights": weights,
        "phases": np.array(rows, PHASE),
        "phase_count": len(phases),
        "shifts": np.array([tap for each in taps for tap in each], SHIFT),
        "in_stride": in_stride[0],
        "in_stride_x": in_stride[1],
        "out_stride": out_stride[0],
        "out_stride_x": out_stride[1],
        "strip": strip,
    }
    inputs, outputs = network.blocks(*layer.inputs), network.blocks(layer.name)

    def lines(many: int, slices: int, rows: int, width: int) -> int:
        pixels = slices * -(-rows // out_stride[0]) * -(-width // out_stride[1])
        return (many * (room(min(pixels, strip)) + 1) - 1) * BYTES

    scratch: Scratch = {
        "V": partial(lines, max(counts) * inputs),
        "M": partial(lines, max(rows * columns for rows, columns in sides) * outputs),
        **amx.scratch(network.isa, network.pixels(layer) / prod(out_stride), weights.size / len(phases)),
    }
    column = weights.nbytes // outputs if sides == ((1, 1),) else 0
    return Packed(fields | network.epilogue(layer), scratch, column=column)


def conv_phases(weight: np.ndarray, dilation: int, padding: Pair, lanes: np.ndarray, isa: Isa) -> list[Phase]:
    """The one phase of a convolution with ``weight`` (out, in, k, k)."""
    taps = list(np.ndindex(weight.shape[2:]))
    offsets = [(ky * dilation - padding[0], kx * dilation - padding[1]) for ky, kx in taps]
    return [(0, 0, (1, 1), offsets, _pack_taps([weight[:, :, ky, kx].T for ky, kx in taps], lanes, isa))]


def conv_transpose_phases(weight: np.ndarray, stride: Pair, padding: Pair, lanes: np.ndarray, isa: Isa) -> list[Phase]:
    """The phases of a transposed convolution with ``weight`` (in, out, k, k), or the one that stands for all.

    Output row o gets input row i through tap k = o + padding - stride * i.
    """
    kernel: Pair = weight.shape[2:]
    if kernel == stride and padding == (0, 0):
        matrices = [place_lanes(weight[:, :, ky, kx], lanes) for ky, kx in np.ndindex(kernel)]
        return [(0, 0, stride, [(0, 0)], pack_matrix(np.concatenate(matrices, axis=1), isa))]
    phases: list[Phase] = []
    for fy, fx in np.ndindex(stride):
        ys = range((fy + padding[0]) % stride[0], kernel[0], stride[0])
        xs = range((fx + padding[1]) % stride[1], kernel[1], stride[1])
        taps = [(ky, kx) for ky in ys for kx in xs]
        offsets = [((fy + padding[0] - ky) // stride[0], (fx + padding[1] - kx) // stride[1]) for ky, kx in taps]
        packed = _pack_taps([weight[:, :, ky, kx] for ky, kx in taps], lanes, isa) if taps else np.zeros(0, np.float32)
        phases.append((fy, fx, (1, 1), offsets, packed))
    return phases


def _pack_taps(matrices: list[np.ndarray], lanes: np.ndarray, isa: Isa) -> np.ndarray:
    """Each tap's (in, out) matrix, its rows at the input's padded lanes, below each other and packed."""
    return pack_matrix(np.concatenate([place_lanes(matrix, lanes) for matrix in matrices]), isa)


def locate(layer: Layer, memory: Memory) -> Fields:
    """The input's height and width, which taps may not leave."""
    _, in_height, in_width = memory.shapes[layer.inputs[0]]
    sides = {"out_height": memory.shapes[layer.name][1], "in_height": in_height, "in_width": in_width}
    return sides | {"slices": memory.slices} | nhwc16(layer, memory)


def unit(op: Op) -> int:
    """As many rows as Winograd's tiles have: more cuts would make more strips that are not full."""
    return 4 * (op["dilation"] if op.kind == "conv" else pair(op["stride"])[0])


def rows(op: Op, y0: int, y1: int) -> tuple[int, int]:
    """See `contract.Algorithm`: a kernel reaches over the rows around it."""
    kernel, stride, padding = (pair(op[key])[0] for key in ("kernel", "stride", "padding"))
    if op.kind == "conv":
        return y0 * stride - padding, (y1 - 1) * stride - padding + op["dilation"] * (kernel - 1) + 1
    return (y0 + padding - kernel + 1) // stride, (y1 - 1 + padding) // stride + 1


def im2col(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1) of every slice: gather a strip of pixels tap by tap, multiply, and the epilogue."""
    blocks, out_blocks, strip = s.source_blocks, s.target_blocks, s.strip
    out_stride, in_stride_x, out_stride_x = s.out_stride, s.in_stride_x, s.out_stride_x
    for phase in range(s.phase_count):
        fy, fx, across = phase_y(s.phases, phase), phase_x(s.phases, phase), phase_columns(s.phases, phase)
        parts = phase_rows(s.phases, phase) * across * out_blocks
        taps, first_tap, weights = phase_taps(s.phases, phase), phase_first_tap(s.phases, phase), phase_weights(s.phases, phase)
        first = (s.y0 - fy + out_stride - 1) // out_stride
        rows = (s.y1 - fy + out_stride - 1) // out_stride - first
        columns = (s.width - fx + out_stride_x - 1) // out_stride_x
        pixels = s.slices * rows * columns
        # from a channel block to the next in V and M: `room`, and a line more, as positions at multiples of 4 KB would share cache sets
        pitch = ((min64(pixels, strip) + WHOLE - 1) // WHOLE * WHOLE + 1) * BYTES
        for start in range(0, pixels, strip):
            count = min64(strip, pixels - start)
            done = 0
            while done < count:  # one row's share of the strip
                q, j = (start + done) // columns, (start + done) % columns
                some = min64(count - done, columns - j)
                top, q = q // rows * s.in_height, q % rows
                for tap in range(taps):
                    y, dx = (first + q) * s.in_stride + shift_dy(s.shifts, first_tap + tap), shift_dx(s.shifts, first_tap + tap)
                    left = min64(max64((-dx + in_stride_x - 1) // in_stride_x - j, 0), some)  # pixels before the first column
                    inside = min64(max64((s.in_width - dx + in_stride_x - 1) // in_stride_x - j, left), some)  # and before the end
                    for block in range(blocks):
                        v = s.V + (tap * blocks + block) * pitch + done * BYTES
                        if y < 0 or y >= s.in_height:
                            zero(v, BYTES, some)
                        else:
                            pixel = source_pixel(s.sources, block)
                            line = source_base(s.sources, block) + (top + y) * source_row(s.sources, block)
                            zero(v, BYTES, left)
                            start_x = (j + left) * in_stride_x + dx
                            copy(line + start_x * pixel, pixel * in_stride_x, v + left * BYTES, BYTES, inside - left)
                            zero(v + inside * BYTES, BYTES, some - inside)
                done += some
            gemm(s.V, pitch, taps * blocks, s.weights + weights, s.M, pitch, parts * BLOCK, count, s.parts)
            done = 0
            while done < count:
                q, j = (start + done) // columns, (start + done) % columns
                some = min64(count - done, columns - j)
                top, q = q // rows * s.out_height, q % rows
                for n in range(parts):
                    block, pixel = n % out_blocks, n // out_blocks
                    y, x = top + (first + q) * out_stride + fy + pixel // across, j * out_stride_x + fx + pixel % across
                    epilogue(s.epilogue, s.M + n * pitch + done * BYTES, 0, BYTES,
                             s.target + y * s.target_row + x * s.target_pixel + block * BYTES, 0, s.target_pixel * out_stride_x,
                             s.other + y * s.other_row + x * s.other_pixel + block * BYTES, 0, s.other_pixel * out_stride_x,
                             s.parameters + block * PARAMETERS, 1, some)  # fmt: skip
                done += some


ALGORITHM = Algorithm(Kernel(im2col, STEP), of_kind(*CONVOLUTIONS), pack, locate, unit=unit, rows=rows, several=True)
