"""From layers to kernels: choose the algorithm of each layer and pack its weights for it. Depends on the network alone.

Each choice is a predicate, ``suits_...``, that says why; `program` adds the size of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..kernels import filters, finish, gemm, planes
from ..kernels.layout import aligned, blocks
from ..kernels.simd import BLOCK, BYTES, Isa
from ..spec import INPUT, Op, Spec, infer_channels
from .fuse import Layer, fuse


def suits_winograd(op: Op) -> bool:
    """3x3, stride 1, "same" padding, any dilation: Winograd was never slower than GEMM, from 16 channels at 256x256 to 1024 at 16x16.

    OpenVINO's direct convolution takes 2.0 to 3.3 times as long on all of these (Zen 5, one thread, single layers).
    """
    return op.kind == "conv" and op["kernel"] == 3 and op["stride"] == 1 and op["padding"] == op["dilation"]


def suits_transposed_winograd(op: Op) -> bool:
    """4x4, stride 2, padding 1: four 2x2 convolutions on one input transform, 2.56 times fewer multiplications than GEMM."""
    return op.kind == "deconv" and op["kernel"] == 4 and op["stride"] == 2 and op["padding"] == 1


def suits_strided_winograd(op: Op) -> bool:
    """4x4, stride 2, padding 1: four 2x2 convolutions that share their sums, 2.56 times fewer multiplications than GEMM."""
    return op.kind == "conv" and op["kernel"] == 4 and op["stride"] == 2 and op["padding"] == op["dilation"] == 1


def suits_planes(layer: Layer, channels: int) -> bool:
    """A first convolution with stride 1 and at most 36 taps: beyond that, Winograd over channels padded to 16 is cheaper.

    For 16 pixels and outputs it takes 8 cycles a tap, Winograd 360 (AVX-512: 72 for the transform, 288 for the products).
    """
    op = layer.op
    alone = layer.inputs == (INPUT,) and layer.other is None
    return alone and op.kind == "conv" and op["stride"] == 1 and channels * op["kernel"] ** 2 <= 36


def suits_dot(layer: Layer, output: str) -> bool:
    """The head of a binary network: a 1x1 convolution to one channel would waste 15 of 16 lanes as a matrix product."""
    op = layer.op
    single = op.kind == "conv" and op["kernel"] == 1 and op["filters"] == 1 and op["stride"] == 1 and op["padding"] == 0
    return single and layer.name == output and layer.mode == finish.PLAIN and len(layer.inputs) == 1 and layer.inputs != (INPUT,)


def strip_of_tiles(inputs: int, outputs: int) -> int:
    """How many tiles Winograd works on at a time, for blocks of input and output channels.

    48 fill whole GEMM tiles of every CPU. 24 where the transformed tiles would not stay in the second cache (more than 600 KB)
    but the weights do (up to 1.5 MB): 64 channels at 64x64 take 0.99 instead of 1.09 ms; 96 to 32 at 128x128, 3.1 instead of
    3.4. Deeper layers stream their weights once a strip: 512 channels at 32x32 take 15 ms with 48, 35 with 24 (Emerald Rapids).
    """
    tiles, weights = 36 * (inputs + outputs) * 48 * BYTES, 36 * inputs * outputs * BLOCK * BYTES
    return 24 if tiles > 600_000 and weights <= 1_500_000 else STRIP


STRIP = 48  # pixels of a convolution as GEMM, and tiles of Winograd, unless `strip_of_tiles` says otherwise


@dataclass(frozen=True)
class Packed:
    """A layer's tensors as its kernel reads them."""

    kernel: str
    parameters: np.ndarray
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    phases: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    phase_count: int = 1
    apart: int = 1  # Winograd with a stride of 2 reads even and odd rows and columns as images of their own
    strip: int = STRIP
    keep: tuple[np.ndarray, ...] = ()  # what `phases` points to


class Plan:
    """What depends on the network alone: its layers, their kernels and packed weights.

    Parameters
    ----------
    spec : Spec
        A folded, valid network.
    tensors : mapping of str to float32 arrays
        Exactly those of `spec.tensor_shapes`.
    isa : Isa
        The instruction set that the kernels are compiled for.
    fused : bool
        False makes every op a layer of its own, for tests.
    """

    def __init__(self, spec: Spec, tensors: Mapping[str, np.ndarray], isa: Isa, fused: bool = True) -> None:
        self.spec = spec
        self.isa = isa
        self.fused = fused
        self.channels = infer_channels(spec)
        self.layers = fuse(spec, fused)
        first = [layer for layer in self.layers if INPUT in layer.reads]
        # how wide the image's border of zeros is; None where the image has to become pixels
        self.border: int | None = None
        if fused and all(suits_planes(layer, spec.in_channels) for layer in first):
            self.border = max((layer.op["padding"] for layer in first), default=0)
        self.packed = {layer.name: self._pack(layer, tensors) for layer in self.layers}

    @property
    def kernels(self) -> set[str]:
        """Names of all kernels that its programs call."""
        names = {packed.kernel for packed in self.packed.values()}
        way_in = {"from_planes"} if self.border is None else set()
        way_out = {"to_planes"} if self.packed[self.spec.output].kernel != "conv_dot" else set()
        return names | way_in | way_out

    def lanes(self, values: tuple[str, ...]) -> np.ndarray:
        """Where each channel of ``values``, side by side, sits among their blocks' lanes."""
        lanes, start = [], 0
        for value in values:
            lanes.append(start + np.arange(self.channels[value]))
            start += blocks(self.channels[value]) * BLOCK
        return np.concatenate(lanes)

    def _pack(self, layer: Layer, tensors: Mapping[str, np.ndarray]) -> Packed:
        op, channels = layer.op, self.channels[layer.name]
        affine = (tensors[f"{layer.affine}.scale"], tensors[f"{layer.affine}.shift"]) if layer.affine else (None, None)
        parameters = aligned(finish.pack_parameters(channels, tensors.get(f"{op.name}.bias"), *affine))
        if op.kind not in ("conv", "deconv"):
            kernel = {"maxpool": "maxpool", "mul": "product", "concat": "concat", "softmax": "softmax_pixels"}.get(op.kind, "pointwise")
            return Packed(kernel, parameters, self.lanes(layer.inputs) if op.kind == "concat" else np.zeros(0, np.int64))
        weight, lanes = tensors[f"{op.name}.weight"], self.lanes(layer.inputs)
        if self.border is not None and layer.inputs == (INPUT,):
            return Packed("conv_planes", parameters, aligned(planes.pack_planes(weight, self.isa)))
        if self.fused and suits_dot(layer, self.spec.output):
            return Packed("conv_dot", parameters, aligned(gemm.place_lanes(weight[:, :, 0, 0].T, lanes)[:, 0]))
        pack = self._winograd(op)
        if pack:
            products, packed = pack(weight, lanes, self.isa)
            apart = op["stride"] if op.kind == "conv" else 1
            inputs = apart**2 * sum(blocks(self.channels[value]) for value in layer.inputs)
            phase_count = op["stride"] ** 2 if op.kind == "deconv" else 1
            strip = strip_of_tiles(inputs, blocks(channels))
            return Packed("conv_winograd", parameters, aligned(packed), products, phase_count, apart, strip)
        if op.kind == "conv":
            phases = gemm.conv_phases(weight, op["dilation"], op["padding"], lanes, self.isa)
        else:
            phases = gemm.deconv_phases(weight, op["stride"], op["padding"], lanes, self.isa)
        keep: list[np.ndarray] = []
        table = []
        for fy, fx, side, taps, weights in phases:
            keep += [np.ascontiguousarray(taps), aligned(weights)]
            table.append((fy, fx, side, len(taps), keep[-2].ctypes.data, keep[-1].ctypes.data))
        return Packed("conv_gemm", parameters, phases=np.array(table, np.int64), phase_count=len(table), keep=tuple(keep))

    @staticmethod
    def _winograd(op: Op) -> Callable[..., filters.Packed] | None:
        if suits_winograd(op):
            return filters.pack_winograd
        if suits_transposed_winograd(op):
            return filters.pack_transposed
        return filters.pack_strided if suits_strided_winograd(op) else None
