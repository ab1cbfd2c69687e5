"""Between planes, (C, H, W), and NHWC16: the image where a layer needs it so, the output where its layer makes it so.

Both are stages of their own, which a plan adds where they are needed: layers of the kinds `FROM_PLANES` and `TO_PLANES`.
"""

from __future__ import annotations

from ...spec import INPUT, Op
from ..arena import Fields, Memory
from ..codegen.jit import Kernel
from ..codegen.memory import scatter, zero
from ..codegen.simd import BYTES
from ..codegen.step import SOURCES, TARGET, source_base, source_pixel, source_row, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed, of_kind

FROM_PLANES, TO_PLANES = "from_planes", "to_planes"  # kinds of ops that no Spec has
OUTPUT = ""  # the value that `TO_PLANES` makes: the output as planes; no op of a Spec can be called so

FROM_STEP = step(*TARGET, "channels", "image", "image_plane", "image_row")
TO_STEP = step(*SOURCES, "channels", "width", "output", "output_plane", "output_row")


def way_in() -> Layer:
    """The image to NHWC16."""
    return Layer(INPUT, Op(INPUT, FROM_PLANES, (), {}), ())


def way_out(value: str) -> Layer:
    """``value`` to planes."""
    return Layer(OUTPUT, Op(OUTPUT, TO_PLANES, (value,), {}), (value,))


def pack(layer: Layer, network: Network) -> Packed:
    """How many channels (C, H, W) has."""
    return Packed({"channels": network.channels[layer.name or network.spec.output]})


def locate_from(layer: Layer, memory: Memory) -> Fields:
    """The image (C, H, W), and bytes to its next plane and row."""
    plane, row, _ = memory.image.strides
    return {"image": memory.image, "image_plane": plane, "image_row": row} | memory.target(layer.name)


def locate_to(layer: Layer, memory: Memory) -> Fields:
    """The output (C, H, W), and bytes to its next plane and row."""
    plane, row, _ = memory.output.strides
    width = memory.output.shape[2]
    return {"output": memory.output, "output_plane": plane, "output_row": row, "width": width} | memory.sources(layer.inputs)


def from_planes(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Rows [y0, y1) of the image; the padding is zero."""
    for y in range(s.y0, s.y1):
        target = s.target + y * s.target_row
        zero(target, BYTES, s.width * s.target_blocks)
        for channel in range(s.channels):
            scatter(s.image + channel * s.image_plane + y * s.image_row, 4, target + channel * 4, s.target_pixel, s.width)


def to_planes(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Rows [y0, y1) of a value."""
    for y in range(s.y0, s.y1):
        line = source_base(s.sources, 0) + y * source_row(s.sources, 0)
        for channel in range(s.channels):
            output = s.output + channel * s.output_plane + y * s.output_row
            scatter(line + channel * 4, source_pixel(s.sources, 0), output, 4, s.width)


ALGORITHMS = (
    Algorithm(Kernel(from_planes, FROM_STEP), of_kind(FROM_PLANES), pack, locate_from, reads_planes=True),
    Algorithm(Kernel(to_planes, TO_STEP), of_kind(TO_PLANES), pack, locate_to, writes_planes=True),
)
