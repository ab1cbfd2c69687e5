"""A network is data: a list of Op records that PyTorch trains, the exporter folds and the runtime plans and runs.

Standard library only. Shape letters used in the whole project: N slices, C channels, H rows, W columns, Z slices of a
volume. Tensors follow PyTorch: convolution weights are (out, in, k, k), transposed ones (in, out, k, k). A kernel, stride
or padding is one number, or where rows and columns differ a pair (rows, columns).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import Any

from .errors import SpecError

VERSION = 1
INPUT = "image"
ACTIVATIONS = ("none", "elu", "relu", "sigmoid", "leaky_relu")  # the last has an attribute ``slope`` beside it: x < 0 becomes slope * x
MAX_OPS = 3000  # a U-Net has about 60, five folds of nnU-Net's residual encoder 1,181; more is a bomb, not a network
MAX_CHANNELS = 8192  # U-Net-64 concatenates to 2048
MAX_KERNEL = 64
MAX_SIDE = 1 << 20  # pixels of any value; beyond, sizes multiplied by a bomb of transposed convolutions leave what a float can hold

Pair = tuple[int, int]  # (rows, columns)
# Every kind with the attributes it must have, all of them, and nothing else.
_KINDS: dict[str, dict[str, Any]] = {
    "conv": {"filters": int, "kernel": Pair, "stride": Pair, "dilation": int, "padding": Pair, "bias": bool, "activation": str},
    "deconv": {"filters": int, "kernel": Pair, "stride": Pair, "padding": Pair, "bias": bool, "activation": str},
    "maxpool": {"kernel": int},
    "avgpool": {"kernel": Pair},  # windows that do not overlap; rows and columns that fill none are left out
    "add": {"activation": str},
    "mul": {},
    "concat": {},
    "affine": {},
    "instance_norm": {"eps": float, "activation": str},  # each channel of each slice by its own mean and variance; with weight and bias
    "softmax": {},
}
# What only training knows; gone after `fold_batchnorm`. A BatchNorm sits between convolution and activation; on an affine it is the op.
_TRAINING: dict[str, tuple[str, ...]] = {"conv": ("bn", "dropout"), "deconv": ("bn", "dropout"), "affine": ("bn", "dropout")}
_INPUTS = {"add": (2, 2), "mul": (2, 2), "concat": (2, 16)}  # least and most; every other kind takes one
_LIMITS = {"filters": (1, MAX_CHANNELS), "kernel": (1, MAX_KERNEL), "stride": (1, MAX_KERNEL), "dilation": (1, MAX_KERNEL),
           "padding": (0, MAX_KERNEL * MAX_KERNEL), "eps": (1e-12, 1), "slope": (0, 1)}  # fmt: skip

Shape = tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class Op:
    """One layer. Its name is also its output value's name and the prefix of its tensors (``enc0.conv.weight``)."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Any]

    def __getitem__(self, attribute: str) -> Any:
        return self.attrs[attribute]


@dataclass(frozen=True)
class Spec:
    """A network: ``ops`` in the order of execution, from the value ``image`` to the value of the last op.

    Attributes
    ----------
    name : str
        Which architecture this is, for people.
    in_channels : int
        Channels of the input value ``image``.
    ops : tuple of Op
        The last op's value is the output: probabilities; of nnU-Net's networks the logits, which it resamples before the softmax.
    """

    name: str
    in_channels: int
    ops: tuple[Op, ...]

    @property
    def output(self) -> str:
        """Name of the output value."""
        return self.ops[-1].name

    @property
    def classes(self) -> int:
        """Channels of the output: 1 for a binary network (sigmoid), else background and labels (softmax)."""
        return infer_channels(self)[self.output]

    @property
    def folded(self) -> bool:
        """True for a network for inference: no BatchNorm, no dropout."""
        return not any(key in op.attrs for op in self.ops for key in ("bn", "dropout"))


def validate(spec: Spec) -> Spec:
    """Check every rule of the language and return the Spec unchanged.

    Raises
    ------
    SpecError
        Naming the op and what is wrong with it.
    """
    if not 1 <= len(spec.ops) <= MAX_OPS:
        raise SpecError(f"a network has 1 to {MAX_OPS} ops, this one has {len(spec.ops)}")
    if type(spec.in_channels) is not int or not 1 <= spec.in_channels <= MAX_CHANNELS:
        raise SpecError(f"in_channels must be 1 to {MAX_CHANNELS}, found {spec.in_channels!r}")
    known = {INPUT}
    for op in spec.ops:
        _validate_op(op)
        for value in op.inputs:
            if value not in known:
                raise SpecError(f"op {op.name!r} reads {value!r}, which no earlier op makes")
        if op.name in known:
            raise SpecError(f"two ops are called {op.name!r}")
        known.add(op.name)
    infer_channels(spec)
    return spec


def _validate_op(op: Op) -> None:
    if type(op.name) is not str or not 0 < len(op.name) <= 100 or not op.name.isprintable():
        raise SpecError(f"an op's name must be 1 to 100 printable characters, found {op.name!r}")
    if type(op.kind) is not str or op.kind not in _KINDS:
        raise SpecError(f"op {op.name!r} is of unknown kind {op.kind!r}; known are {', '.join(sorted(_KINDS))}")
    required, optional = _KINDS[op.kind], _TRAINING.get(op.kind, ())
    if op.attrs.get("activation") == "leaky_relu":
        required = {**required, "slope": float}
    missing = required.keys() - op.attrs.keys()
    unknown = op.attrs.keys() - required.keys() - set(optional)
    if missing or unknown:
        raise SpecError(f"op {op.name!r} ({op.kind}) lacks {sorted(missing)} and has unknown {sorted(unknown)}")
    for key, kind in required.items():
        _validate_attribute(op, key, kind)
    least, most = _INPUTS.get(op.kind, (1, 1))
    if not least <= len(op.inputs) <= most:
        raise SpecError(f"op {op.name!r} ({op.kind}) has {len(op.inputs)} inputs, expected {least} to {most}")
    if op.attrs.get("activation", "none") not in ACTIVATIONS:
        raise SpecError(f"op {op.name!r}: unknown activation {op.attrs['activation']!r}; known are {', '.join(ACTIVATIONS)}")
    bn = op.attrs.get("bn")
    if bn is not None and (not isinstance(bn, Mapping) or bn.keys() != {"eps", "momentum"}):
        raise SpecError(f"op {op.name!r}: bn must have eps and momentum, found {bn!r}")


def _validate_attribute(op: Op, key: str, kind: Any) -> None:
    value = op.attrs[key]
    if kind is Pair and type(value) is tuple:
        if len(value) != 2 or [type(number) for number in value] != [int, int] or value[0] == value[1]:
            raise SpecError(f"op {op.name!r}: {key} must be a whole number, or two that differ, found {value!r}")
    elif type(value) is not (int if kind is Pair else kind):
        raise SpecError(f"op {op.name!r}: {key} must be {'int' if kind is Pair else kind.__name__}, found {value!r}")
    if key in _LIMITS:
        low, high = _LIMITS[key]
        if not all(low <= number <= high for number in (pair(value) if kind is Pair else (value,))):
            raise SpecError(f"op {op.name!r}: {key} must be {low} to {high}, found {value}")


def pair(extent: int | Pair) -> Pair:
    """(rows, columns) of an attribute that may be one number for both."""
    return extent if isinstance(extent, tuple) else (extent, extent)


def unpair(rows: int, columns: int) -> int | Pair:
    """The attribute that says ``rows`` and ``columns``: one number where they are alike."""
    return rows if rows == columns else (rows, columns)


def infer_channels(spec: Spec) -> dict[str, int]:
    """Channels of every value, ``image`` included."""
    channels = {INPUT: spec.in_channels}
    for op in spec.ops:
        inputs = [channels[value] for value in op.inputs]
        if op.kind in ("conv", "deconv"):
            count = op["filters"]
        elif op.kind == "concat":
            count = sum(inputs)
        elif op.kind == "mul" and inputs[1] != 1 and inputs[0] != inputs[1]:
            raise SpecError(f"op {op.name!r} multiplies {inputs[0]} channels by {inputs[1]}; expected 1 or as many")
        elif op.kind == "add" and inputs[0] != inputs[1]:
            raise SpecError(f"op {op.name!r} adds {inputs[0]} channels to {inputs[1]}")
        else:
            count = inputs[0]
        if count > MAX_CHANNELS:
            raise SpecError(f"op {op.name!r} has {count} channels, at most {MAX_CHANNELS} are allowed")
        channels[op.name] = count
    return channels


def infer_shapes(spec: Spec, height: int, width: int) -> dict[str, Shape]:
    """Shape (C, H, W) of every value for an input of ``height`` x ``width``.

    Raises
    ------
    SpecError
        If a value would be empty or beyond all measure, or two values that meet differ in size (the input does not divide).
    """
    channels = infer_channels(spec)
    sizes = {INPUT: (height, width)}
    for op in spec.ops:
        inputs = [sizes[value] for value in op.inputs]
        if any(size != inputs[0] for size in inputs):
            raise SpecError(f"op {op.name!r} joins sizes {inputs}: an input of {height}x{width} does not divide by {multiple_of(spec)}")
        h, w = (_extent(op, extent, axis) for axis, extent in enumerate(inputs[0]))
        if h < 1 or w < 1:
            raise SpecError(f"op {op.name!r} leaves nothing of an input of {height}x{width}")
        if max(h, w) > MAX_SIDE:
            raise SpecError(f"op {op.name!r} makes {h}x{w} of an input of {height}x{width}, at most {MAX_SIDE:,} pixels a side are allowed")
        sizes[op.name] = (h, w)
    return {value: (channels[value], h, w) for value, (h, w) in sizes.items()}


def _extent(op: Op, extent: int, axis: int) -> int:
    kernel, stride, padding = (pair(op.attrs.get(key, 1))[axis] for key in ("kernel", "stride", "padding"))
    if op.kind == "conv":
        return (extent + 2 * padding - op["dilation"] * (kernel - 1) - 1) // stride + 1
    if op.kind == "deconv":
        return (extent - 1) * stride - 2 * padding + kernel
    if op.kind in ("maxpool", "avgpool"):
        return extent // kernel
    return extent


def multiple_of(spec: Spec) -> int:
    """The number that both sides of an input must divide by."""
    rows, columns = multiples(spec)
    return min(lcm(rows, columns), MAX_SIDE)


def multiples(spec: Spec) -> Pair:
    """What the rows and the columns of an input must divide by: the product of strides on the deepest way down."""
    return _multiple(spec, 0), _multiple(spec, 1)


def _multiple(spec: Spec, axis: int) -> int:
    down = {INPUT: 1.0}
    for op in spec.ops:
        stride, kernel = (pair(op.attrs.get(key, 1))[axis] for key in ("stride", "kernel"))
        step = {"conv": stride, "deconv": 1 / stride, "maxpool": kernel, "avgpool": kernel}
        down[op.name] = max(down[value] for value in op.inputs) * step.get(op.kind, 1)
    return round(min(max(down.values()), MAX_SIDE))  # a thousand strides of 64 are infinite


def tensor_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name, in op order; those of BatchNorm too while the Spec is a training one."""
    channels = infer_channels(spec)
    shapes: dict[str, tuple[int, ...]] = {}
    for op in spec.ops:
        count = channels[op.name]
        if op.kind in ("conv", "deconv"):
            ends = (count, channels[op.inputs[0]])
            shapes[f"{op.name}.weight"] = (*(ends if op.kind == "conv" else ends[::-1]), *pair(op["kernel"]))
            if op["bias"]:
                shapes[f"{op.name}.bias"] = (count,)
        if "bn" in op.attrs:
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{op.name}.bn.{tensor}"] = (count,)
        elif op.kind == "instance_norm":
            shapes[f"{op.name}.weight"] = shapes[f"{op.name}.bias"] = (count,)
        elif op.kind == "affine":
            shapes[f"{op.name}.scale"] = shapes[f"{op.name}.shift"] = (count,)
    return shapes


def count_floats(spec: Spec) -> int:
    """How many floats the tensors hold; for a training Spec this is Keras's count of parameters."""
    return sum(prod(shape) for shape in tensor_shapes(spec).values())


def count_macs(spec: Spec, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of every convolution; a transposed one counts input positions times weights."""
    shapes, tensors = infer_shapes(spec, height, width), tensor_shapes(spec)
    macs = {}
    for op in spec.ops:
        if op.kind in ("conv", "deconv"):
            _, h, w = shapes[op.name if op.kind == "conv" else op.inputs[0]]
            macs[op.name] = h * w * prod(tensors[f"{op.name}.weight"])
    return macs


def fold_batchnorm(spec: Spec) -> Spec:
    """The Spec of the same network for inference: BatchNorm merged (a convolution gains a bias), dropout gone."""

    def folded(op: Op) -> Op:
        attrs = {key: value for key, value in op.attrs.items() if key not in ("bn", "dropout")}
        if "bias" in attrs:
            attrs["bias"] = attrs["bias"] or "bn" in op.attrs
        return replace(op, attrs=attrs)

    return replace(spec, ops=tuple(folded(op) for op in spec.ops))


def to_json(spec: Spec) -> str:
    """The Spec as canonical JSON: version, every attribute, no defaults."""
    ops = [{"name": op.name, "kind": op.kind, "inputs": list(op.inputs), **op.attrs} for op in spec.ops]
    return json.dumps({"version": VERSION, "name": spec.name, "in_channels": spec.in_channels, "ops": ops}, separators=(",", ":"))


def from_json(text: str) -> Spec:
    """Read a Spec and validate it; unknown versions, kinds and keys are errors, never guesses.

    Raises
    ------
    SpecError
        If the text is not JSON or not a valid network.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the network description is not JSON: {error}") from None
    if not isinstance(data, dict) or data.keys() != {"version", "name", "in_channels", "ops"}:
        raise SpecError("the network description must hold exactly version, name, in_channels and ops")
    if data["version"] != VERSION:
        raise SpecError(f"the network description has version {data['version']!r}, this monet-edge reads {VERSION}; update monet-edge")
    if not isinstance(data["name"], str) or not isinstance(data["ops"], list) or len(data["ops"]) > MAX_OPS:
        raise SpecError(f"the network description needs a name and a list of at most {MAX_OPS} ops")
    ops = []
    for record in data["ops"]:
        if not isinstance(record, dict) or not {"name", "kind", "inputs"} <= record.keys():
            raise SpecError("every op needs a name, a kind and inputs")
        if not isinstance(record["inputs"], list) or not all(isinstance(value, str) for value in record["inputs"]):
            raise SpecError(f"op {record['name']!r}: inputs must be a list of names")
        attrs = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in record.items()
            if key not in ("name", "kind", "inputs")
        }
        ops.append(Op(record["name"], record["kind"], tuple(record["inputs"]), attrs))
    return validate(Spec(data["name"], data["in_channels"], tuple(ops)))
