"""Values side by side, channel by channel: for a concat that something else than a convolution reads."""

from __future__ import annotations

from ..codegen.jit import Kernel
from ..codegen.memory import scatter, zero
from ..codegen.simd import BLOCK, BYTES
from ..codegen.step import SOURCES, TARGET, readers, source_base, source_pixel, source_row, step, table
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, of_kind

STEP = step(*TARGET, *SOURCES, "lanes", "channels")  # channel c is lane ``lanes[c]`` of the sources' blocks

LANE = table("number")
(lane_number,) = readers("lane", LANE)


def pack(layer: Layer, network: Network) -> Packed:
    """Which lane (channels,) of the sources' blocks every channel is."""
    lanes = network.lanes(layer.inputs)
    return Packed({"lanes": lanes.astype(LANE), "channels": len(lanes)})


def concat(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1); the padding is zero."""
    for y in range(s.y0, s.y1):
        target = s.target + y * s.target_row
        zero(target, BYTES, s.width * s.target_blocks)
        for channel in range(s.channels):
            lane = lane_number(s.lanes, channel)
            block = lane // BLOCK
            line = source_base(s.sources, block) + y * source_row(s.sources, block)
            scatter(line + lane % BLOCK * 4, source_pixel(s.sources, block), target + channel * 4, s.target_pixel, s.width)


ALGORITHM = Algorithm(Kernel(concat, STEP), of_kind("concat"), pack)
