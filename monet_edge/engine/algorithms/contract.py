"""What an algorithm is made of, and what it may ask about the network; README.md of the engine says how to write one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...spec import Op, Shape, Spec
from ..arena import Fields, Memory
from ..codegen import epilogue, layout
from ..codegen.jit import Kernel
from ..codegen.simd import BLOCK, Isa
from ..fuse import Layer


@dataclass(frozen=True)
class Network:
    """What an algorithm may ask about the network around its layer.

    Attributes
    ----------
    spec : Spec
    layers : sequence of Layer
    channels : mapping of str to int
        Of every value.
    tensors : mapping of str to float32 array
    isa : Isa
        The instruction set that weights are packed for.
    fused : bool
        False where every op, and every conversion to NHWC16 or back, is a step of its own.
    shapes : mapping of str to (C, H, W), or None
        Of every value, for an image of the size that most will have, where that is known.
    """

    spec: Spec
    layers: Sequence[Layer]
    channels: Mapping[str, int]
    tensors: Mapping[str, np.ndarray]
    isa: Isa
    fused: bool
    shapes: Mapping[str, Shape] | None = None

    def pixels(self, layer: Layer) -> float:
        """How many pixels a layer makes, of an image of the usual size; infinitely many where nobody says."""
        return float(np.prod(self.shapes[layer.op.name][1:])) if self.shapes else np.inf

    def weight(self, layer: Layer) -> np.ndarray:
        """The weight of the layer's op, as `spec.tensor_shapes` says: (out, in, k, k), transposed (in, out, k, k), of a norm (C,)."""
        return self.tensors[f"{layer.op.name}.weight"]

    def blocks(self, *values: str) -> int:
        """Channel blocks of ``values``, together."""
        return sum(layout.blocks(self.channels[value]) for value in values)

    def lanes(self, values: Sequence[str]) -> np.ndarray:
        """Where each channel of ``values``, side by side, sits among their blocks' lanes."""
        lanes, start = [], 0
        for value in values:
            lanes.append(start + np.arange(self.channels[value]))
            start += self.blocks(value) * BLOCK
        return np.concatenate(lanes)

    def epilogue(self, layer: Layer) -> Fields:
        """``epilogue`` and ``parameters``, of `codegen.epilogue.EPILOGUE`."""
        affine = [self.tensors[f"{layer.affine}.{part}"] for part in ("scale", "shift")] if layer.affine else []
        packed = epilogue.pack_parameters(self.channels[layer.name], self.tensors.get(f"{layer.op.name}.bias"), *affine)
        return {"epilogue": epilogue.code(layer.activation, layer.mode), "parameters": layout.aligned(packed)}


Scratch = Mapping[str, int | Callable[[int, int, int], int]]  # see `Packed`


@dataclass(frozen=True)
class Packed:
    """A layer as its algorithm wants it, whatever the size of the image.

    Attributes
    ----------
    fields : mapping
        Of the layer's steps: packed weights and whatever else depends on the network alone.
    scratch : mapping of str to int, or to a function
        Bytes of workspace that a thread needs, by the field that gets its address; or how many it needs for a step, given the slices,
        rows and columns that it makes at most.
    border : int
        Zeros that it needs around the image, if it reads the image's planes.
    column : int
        Bytes of ``weights`` from what one channel block of the output is made with to what the next is; 0 where every step makes all of
        the channels.
    """

    fields: Fields
    scratch: Scratch = field(default_factory=dict)
    border: int = 0
    column: int = 0

    def areas(self, slices: int, rows: int, width: int) -> dict[str, int]:
        """Bytes of the scratch for steps of so many slices, rows and columns at most."""
        return {area: size(slices, rows, width) if callable(size) else size for area, size in self.scratch.items()}


def of_kind(*kinds: str) -> Callable[[Layer, Network], bool]:
    """For an algorithm that suits all ops of some kinds."""
    return lambda layer, network: layer.op.kind in kinds


def nhwc16(layer: Layer, memory: Memory) -> Fields:
    """Where a layer's values are, for one that reads and writes NHWC16."""
    return memory.target(layer.name) | memory.sources(layer.inputs) | memory.other(layer)


@dataclass(frozen=True)
class Algorithm:
    """One way to run some layers.

    Attributes
    ----------
    kernel : Kernel
        The loop, and the record of its steps. Its name is the algorithm's.
    suits : callable
        ``suits(layer, network)``: whether it can run the layer and is faster than all that come after it.
    pack : callable
        ``pack(layer, network)``: what depends on the network alone.
    locate : callable
        ``locate(layer, memory)``: the fields that depend on the size of the image and on where its values are.
    band : callable
        ``band(layer, memory, y0, y1)``: the fields that depend on the output rows [y0, y1) of one step.
    unit : callable
        ``unit(op)``: rows may be cut into bands at multiples of this number.
    rows : callable
        ``rows(op, y0, y1)``: the rows [first, end) of the inputs, which may lie outside them, that output rows [y0, y1) are made from.
    several : bool
        Whether a step can make all rows of ``memory.slices`` slices whose values lie below one another.
    in_place : bool
        Whether it may write its value over its first input, if nobody reads that afterwards: of one shape, pixel by pixel.
    reads_planes, writes_planes : bool
        Whether it reads the image, or writes the network's output, as planes (C, H, W) instead of values in NHWC16.
    family : str
        The object file that it is compiled into: ``monet`` for all that a MoNet with one label needs, ``nnunet`` for what only
        nnU-Net's networks need.
    """

    kernel: Kernel
    suits: Callable[[Layer, Network], bool]
    pack: Callable[[Layer, Network], Packed]
    locate: Callable[[Layer, Memory], Fields] = nhwc16
    band: Callable[[Layer, Memory, int, int], Fields] = lambda layer, memory, y0, y1: {}
    unit: Callable[[Op], int] = lambda op: 1
    rows: Callable[[Op, int, int], tuple[int, int]] = lambda op, y0, y1: (y0, y1)
    several: bool = False
    in_place: bool = False
    reads_planes: bool = False
    writes_planes: bool = False
    family: str = "others"

    @property
    def name(self) -> str:
        """The kernel's, as plans and tables show it."""
        return self.kernel.name
