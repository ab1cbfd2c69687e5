"""The head of a network, a 1x1 convolution to few channels, as dot products of 16 pixels at a time; it writes the output's planes."""

from __future__ import annotations

from typing import Any

from ...spec import INPUT
from ..arena import Fields, Memory
from ..codegen import epilogue
from ..codegen.epilogue import ACTIVATIONS, activate
from ..codegen.jit import Kernel
from ..codegen.layout import aligned, place_lanes
from ..codegen.memory import copy, scatter
from ..codegen.simd import BLOCK, BYTES, Micro, Vectors
from ..codegen.step import SOURCES, source_base, source_pixel, source_row, step
from ..fuse import Layer
from .contract import Algorithm, Network, Packed

STEP = step(
    *SOURCES,
    "width", "channels",
    "weights", "bias", "activation",  # the last an index into `codegen.epilogue.ACTIVATIONS`
    "output", "output_row", "output_plane",  # the planes, and bytes to the next row, to the next plane
    "V", "M",  # scratch: a copy of a row's last pixels, and what is made of them
)  # fmt: skip


MOST = 4  # channels


def suits(layer: Layer, network: Network) -> bool:
    """To few channels, as the last layer, where a matrix product wastes most of 16 lanes.

    16 to 1 channels at 256x256 take 0.2 ms, not 0.7; 32 to 4 take 0.5, and a product with what follows it 1.3 (AVX2 0.7 and 1.8).
    """
    op = layer.op
    single = op.kind == "conv" and op["kernel"] == 1 and op["filters"] <= MOST and op["stride"] == 1 and op["padding"] == 0
    last = network.fused and layer.name == network.spec.output and layer.mode == epilogue.PLAIN
    return single and last and len(layer.inputs) == 1 and layer.inputs != (INPUT,)


def pack(layer: Layer, network: Network) -> Packed:
    """Weights (out, in, 1, 1) as a vector for each channel (out, lanes of the inputs' blocks), and the biases."""
    channels = network.channels[layer.name]
    weights = place_lanes(network.weight(layer)[:, :, 0, 0].T, network.lanes(layer.inputs))[:, :channels].T
    bias = network.epilogue(layer)["parameters"]
    fields = {"channels": channels, "weights": aligned(weights), "bias": bias, "activation": ACTIVATIONS.index(layer.activation)}
    return Packed(fields, {"V": network.blocks(*layer.inputs) * BLOCK * BYTES, "M": BYTES})


def locate(layer: Layer, memory: Memory) -> Fields:
    """The planes (C, H, W) that it writes."""
    plane, row, _ = memory.output.strides
    fields = {"width": memory.output.shape[2], "output": memory.output, "output_row": row, "output_plane": plane}
    return fields | memory.sources(layer.inputs)


def _emit_dot(v: Vectors, source: Any, pixel: Any, blocks: Any, weights: Any, bias: Any, activation: Any, target: Any, count: Any) -> None:
    """target[x] = act(pixel x . weights + bias) for the ``count`` pixels of a row, a multiple of the lanes."""
    builder, lanes = v.builder, v.isa.lanes
    source, weights, target = v.pointer(source), v.pointer(weights), v.pointer(target)
    constant = v.load_splat(v.pointer(bias))

    def pixels(x: Any, _: list[Any]) -> list[Any]:
        begin = v.at(source, builder.mul(x, pixel))

        def vector(i: Any, totals: list[Any]) -> list[Any]:
            offset = v.times(i, lanes * 4)
            factor = v.load(weights, offset)
            lines = [v.at(v.at(begin, v.times(pixel, row)), offset) for row in range(lanes)]
            return [v.fma(v.load(line), factor, total) for line, total in zip(lines, totals, strict=True)]

        totals = v.loop(v.times(blocks, v.parts), 1, [v.constant(0.0)] * lanes, vector)
        while len(totals) > 1:  # sum the lanes of all vectors: neighbours, then neighbours of sums, which ends in order
            totals = [v.add_neighbours(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
        logits = v.add(totals[0], constant)
        at = v.at(target, v.times(x, 4))
        for name in v.cases(activation, ACTIVATIONS):
            v.store(activate(v, name, logits), at)
        return []

    v.loop(count, lanes, [], pixels)


dot = Micro("dot", 8, _emit_dot)


def head1x1(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1); the last pixels of a row from a copy: 16 of them would reach beyond it."""
    pixel, whole = source_pixel(s.sources, 0), s.width // BLOCK * BLOCK
    for y in range(s.y0, s.y1):
        line = source_base(s.sources, 0) + y * source_row(s.sources, 0)
        if whole < s.width:
            copy(line + whole * pixel, BYTES, s.V, BYTES, (s.width - whole) * s.source_blocks)
        for channel in range(s.channels):
            weights, bias = s.weights + channel * s.source_blocks * BYTES, s.bias + channel * 4
            output = s.output + channel * s.output_plane + y * s.output_row
            dot(line, pixel, s.source_blocks, weights, bias, s.activation, output, whole)
            if whole < s.width:
                dot(s.V, pixel, s.source_blocks, weights, bias, s.activation, s.M, BLOCK)
                scatter(s.M, 4, output + whole * 4, 4, s.width - whole)


ALGORITHM = Algorithm(Kernel(head1x1, STEP), suits, pack, locate, unit=lambda op: 4, writes_planes=True, family="monet")
