"""nnU-Net's 2-D networks as Specs, from the `arch_kwargs` of its plans. Ops are called as nnU-Net calls their tensors.

The output is logits: nnU-Net adds up those of its tiles and resamples them before the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import SpecError
from ..spec import INPUT, MAX_OPS, Op, Pair, Spec, pair, unpair, validate

Sides = int | Sequence[int]  # of a kernel or a stride: one number, or rows and columns


def plain_conv_unet(
    in_channels: int,
    classes: int,
    features_per_stage: Sequence[int],
    kernel_sizes: Sequence[Sides],
    strides: Sequence[Sides],
    n_conv_per_stage: Sequence[int],
    n_conv_per_stage_decoder: Sequence[int],
    conv_bias: bool = True,
    eps: float = 1e-5,
    slope: float = 0.01,
) -> Spec:
    """nnU-Net's default: convolution, instance normalisation and LeakyReLU, down by strides, up by transposed convolutions.

    Parameters
    ----------
    in_channels, classes : int
    features_per_stage : sequence of int
        Channels of each stage, from the image's resolution down.
    kernel_sizes, strides : sequence of int or of (rows, columns)
        Of each stage's convolutions, and of the first of them.
    n_conv_per_stage, n_conv_per_stage_decoder : sequence of int
        Convolutions in a stage; in the decoder from the lowest resolution up.
    conv_bias : bool
        Whether the convolutions before a normalisation, and the transposed ones, have a bias.
    eps, slope : float
        Of the normalisations and of LeakyReLU.

    Raises
    ------
    SpecError
        If a sequence has not as many numbers as there are stages.
    """
    net = _Builder(conv_bias, eps, slope)
    stages = _Stages(features_per_stage, kernel_sizes, strides)
    _check_length("n_conv_per_stage", n_conv_per_stage, len(stages.features))
    x, skips = INPUT, []
    for stage, count in enumerate(n_conv_per_stage):
        x = net.stack(f"encoder.stages.{stage}.0", x, count, *stages[stage])
        skips.append(x)
    net.decode(skips, stages, n_conv_per_stage_decoder, classes)
    return validate(Spec("nnunet-plain", in_channels, tuple(net.ops)))


def residual_encoder_unet(
    in_channels: int,
    classes: int,
    features_per_stage: Sequence[int],
    kernel_sizes: Sequence[Sides],
    strides: Sequence[Sides],
    n_blocks_per_stage: Sequence[int],
    n_conv_per_stage_decoder: Sequence[int],
    conv_bias: bool = True,
    eps: float = 1e-5,
    slope: float = 0.01,
) -> Spec:
    """nnU-Net's residual encoder (ResEnc M, L, XL): blocks of two convolutions and a sum; the decoder is that of `plain_conv_unet`.

    Parameters
    ----------
    n_blocks_per_stage : sequence of int
        Residual blocks in each stage of the encoder; the other parameters are those of `plain_conv_unet`.

    Raises
    ------
    SpecError
        If a sequence has not as many numbers as there are stages.
    """
    net = _Builder(conv_bias, eps, slope)
    stages = _Stages(features_per_stage, kernel_sizes, strides)
    _check_length("n_blocks_per_stage", n_blocks_per_stage, len(stages.features))
    x = net.unit("encoder.stem.convs.0", INPUT, stages.features[0], stages.kernels[0])
    channels, skips = stages.features[0], []
    for stage, count in enumerate(n_blocks_per_stage):
        features, kernel, stride = stages[stage]
        for block in range(count):
            x = net.block(f"encoder.stages.{stage}.blocks.{block}", x, channels, features, kernel, stride if block == 0 else (1, 1))
            channels = features
        skips.append(x)
    net.decode(skips, stages, n_conv_per_stage_decoder, classes)
    return validate(Spec("nnunet-residual", in_channels, tuple(net.ops)))


class _Stages:
    """Features, kernel and stride of every stage."""

    def __init__(self, features: Sequence[int], kernels: Sequence[Sides], strides: Sequence[Sides]) -> None:
        _check_length("kernel_sizes", kernels, len(features))
        _check_length("strides", strides, len(features))
        self.features = features
        self.kernels, self.strides = [_sides(kernel) for kernel in kernels], [_sides(stride) for stride in strides]

    def __getitem__(self, stage: int) -> tuple[int, Pair, Pair]:
        return self.features[stage], self.kernels[stage], self.strides[stage]


def _check_length(name: str, numbers: Sequence[Any], count: int) -> None:
    if len(numbers) != count or not count:
        raise SpecError(f"{name} must have a number for each of {count} stages, found {list(numbers)}")


def _sides(sides: Sides) -> Pair:
    if isinstance(sides, int):
        return pair(sides)
    if len(sides) != 2:
        raise SpecError(f"a 2-D network's kernels and strides have two sides, found {list(sides)}")
    return sides[0], sides[1]


class _Builder:
    """Appends ops; every method returns the name of the value it made."""

    def __init__(self, bias: bool, eps: float, slope: float) -> None:
        self.ops: list[Op] = []
        self.bias, self.eps, self.slope = bias, eps, slope

    def op(self, name: str, kind: str, inputs: tuple[str, ...], **attrs: Any) -> str:
        if len(self.ops) == MAX_OPS:
            raise SpecError(f"a network has at most {MAX_OPS} ops, this one would have more")
        self.ops.append(Op(name, kind, inputs, attrs))
        return name

    def conv(self, name: str, x: str, filters: int, kernel: Pair, stride: Pair, bias: bool) -> str:
        padding = unpair((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        return self.op(name, "conv", (x,), filters=filters, kernel=unpair(*kernel), stride=unpair(*stride), dilation=1,
                       padding=padding, bias=bias, activation="none")  # fmt: skip

    def unit(
        self, name: str, x: str, filters: int, kernel: Pair, stride: Pair = (1, 1), activated: bool = True, bias: bool | None = None
    ) -> str:
        """Convolution, normalisation and, if ``activated``, LeakyReLU."""
        x = self.conv(f"{name}.conv", x, filters, kernel, stride, self.bias if bias is None else bias)
        follows = {"activation": "leaky_relu", "slope": self.slope} if activated else {"activation": "none"}
        return self.op(f"{name}.norm", "instance_norm", (x,), eps=self.eps, **follows)

    def stack(self, name: str, x: str, count: int, filters: int, kernel: Pair, stride: Pair = (1, 1)) -> str:
        """``count`` units, of which the first one strides."""
        for number in range(count):
            x = self.unit(f"{name}.convs.{number}", x, filters, kernel, stride if number == 0 else (1, 1))
        return x

    def block(self, name: str, x: str, channels: int, filters: int, kernel: Pair, stride: Pair) -> str:
        """Two units and a sum with what they were made of: averaged where they stride, projected where channels change."""
        skip, place = x, 0
        if stride != (1, 1):
            skip, place = self.op(f"{name}.skip.0", "avgpool", (skip,), kernel=unpair(*stride)), 1
        if channels != filters:
            skip = self.unit(f"{name}.skip.{place}", skip, filters, (1, 1), activated=False, bias=False)
        x = self.unit(f"{name}.conv1", x, filters, kernel, stride)
        x = self.unit(f"{name}.conv2", x, filters, kernel, activated=False)
        return self.op(name, "add", (x, skip), activation="leaky_relu", slope=self.slope)

    def decode(self, skips: Sequence[str], stages: _Stages, counts: Sequence[int], classes: int) -> None:
        """From the lowest resolution up: a transposed convolution, the skip beside it, units; at the end the logits."""
        _check_length("n_conv_per_stage_decoder", counts, len(skips) - 1)
        x = skips[-1]
        for number, count in enumerate(counts):
            stage = len(skips) - 2 - number
            features, kernel, _ = stages[stage]
            stride = unpair(*stages.strides[stage + 1])
            x = self.op(f"decoder.transpconvs.{number}", "deconv", (x,), filters=features, kernel=stride, stride=stride, padding=0,
                        bias=self.bias, activation="none")  # fmt: skip
            x = self.op(f"decoder.concat.{number}", "concat", (x, skips[stage]))
            x = self.stack(f"decoder.stages.{number}", x, count, features, kernel)
        self.conv(f"decoder.seg_layers.{len(counts) - 1}", x, classes, (1, 1), (1, 1), bias=True)


def side_by_side(specs: Sequence[Spec]) -> Spec:
    """Networks of the same image as one, whose output is all of theirs; an op is called as its own network calls it, after `fold`.

    Raises
    ------
    SpecError
        If they have different inputs, or too many ops together.
    """
    if len(specs) == 1:
        return specs[0]
    ops = []
    for number, spec in enumerate(specs):
        ops += [replace(op, name=fold(number, op.name), inputs=tuple(x if x == INPUT else fold(number, x) for x in op.inputs))
                for op in spec.ops]  # fmt: skip
    ops.append(Op("logits", "concat", tuple(fold(number, spec.output) for number, spec in enumerate(specs)), {}))
    return validate(Spec(specs[0].name, specs[0].in_channels, tuple(ops)))


def fold(number: int, name: str) -> str:
    """What an op, or a tensor, of one of several networks is called."""
    return f"fold{number}.{name}"
