"""Sums and affines that stand alone, pixel by pixel: the epilogue of no convolution."""

from __future__ import annotations

from ..codegen.epilogue import EPILOGUE, PARAMETERS, epilogue
from ..codegen.jit import Kernel
from ..codegen.simd import BYTES
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..fuse import LEAKY, Layer
from .contract import Algorithm, Network, Packed

STEP = step(*TARGET, *SOURCES, *EPILOGUE)


def suits(layer: Layer, network: Network) -> bool:
    """Sums of two values, and affines; what LeakyReLU follows is `normalise`'s."""
    return layer.op.kind in ("add", "affine") and layer.activation != LEAKY


def pack(layer: Layer, network: Network) -> Packed:
    """The epilogue alone: scale, shift and activation of every channel."""
    return Packed(network.epilogue(layer))


def elementwise(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1)."""
    for y in range(s.y0, s.y1):
        for block in range(s.target_blocks):
            line = source_base(s.sources, block) + y * source_row(s.sources, block)
            target, other = s.target + y * s.target_row + block * BYTES, s.other + y * s.other_row + block * BYTES
            epilogue(s.epilogue, line, 0, source_pixel(s.sources, block), target, 0, s.target_pixel, other, 0, s.other_pixel,
                     s.parameters + block * PARAMETERS, 1, s.width)  # fmt: skip


ALGORITHM = Algorithm(Kernel(elementwise, STEP), suits, pack)
