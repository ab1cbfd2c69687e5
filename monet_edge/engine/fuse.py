"""From a Spec to layers: ops that run together become one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..spec import INPUT, Op, Spec
from .codegen import epilogue

CONVOLUTIONS = ("conv", "deconv")  # the latter is a Spec's word for a transposed one, conv_transpose here
LEAKY = "leaky_relu"  # the activation that no convolution's epilogue has
ACTIVATION, STATISTICS = "activation", "statistics"  # kinds of ops that no Spec has: LeakyReLU alone; means and squares of rows
MOMENTS = 3  # of a row: its mean, what is left of that beyond float32, its sum of squared deviations
BEFORE = "\0"  # after an op's name: the value that its layer makes first; no op's name can hold it, as names are printable


@dataclass(frozen=True)
class Layer:
    """One or more ops that run as one kernel.

    Attributes
    ----------
    name : str
        The value it makes: that of the last op fused into it.
    op : Op
        The op that does the work.
    inputs : tuple of str
        Values read side by side: a concat that is not materialised is spelled out here.
    activation : str
    mode : int
        What follows the sums, see `codegen.epilogue`.
    other : str or None
        The residual, the summand or the factor.
    affine : str or None
        The affine op fused into it.
    statistics : str or None
        The value that says by what mean and variance it normalises.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    activation: str = "none"
    mode: int = epilogue.PLAIN
    other: str | None = None
    affine: str | None = None
    statistics: str | None = None
    slope: float = 0.0  # of LeakyReLU

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs + tuple(value for value in (self.other, self.statistics) if value)


def fuse(spec: Spec, fused: bool = True) -> list[Layer]:
    """The layers of a network in order of execution.

    An add, or an affine, joins the convolution before it when nothing else reads that convolution's value and the other
    summand is there already, and an add joins an instance normalisation so; a concat that only convolutions read is never made.
    Without ``fused`` every op is a layer.

    Two things take one layer more, which makes a value ``name + BEFORE``: an instance normalisation, its statistics; a
    convolution with LeakyReLU, what it activates.
    """
    readers: dict[str, list[Op]] = {}
    for op in spec.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)
    layers: dict[str, Layer] = {}  # by the value they make
    concats: dict[str, tuple[str, ...]] = {}
    order = {INPUT: 0}  # of the layer that makes a value
    for op in spec.ops:
        inputs = op.inputs
        if op.kind in CONVOLUTIONS:
            inputs = tuple(part for value in inputs for part in concats.get(value, (value,)))
        layer = Layer(op.name, op, inputs, op.attrs.get("activation", "none"), slope=op.attrs.get("slope", 0.0))
        if op.kind in ("add", "mul"):
            layer = replace(layer, inputs=op.inputs[:1], other=op.inputs[1])
        if op.kind == "add":
            layer = replace(layer, mode=epilogue.SUM)
        if op.kind == "affine":
            layer = replace(layer, mode=epilogue.AFFINE, affine=op.name)
        if fused and op.kind == "concat" and all(reader.kind in CONVOLUTIONS for reader in readers.get(op.name, [op])):
            concats[op.name] = op.inputs
            continue
        if op.kind == "instance_norm":
            layers[op.name + BEFORE] = Layer(op.name + BEFORE, replace(op, kind=STATISTICS), inputs)
            layer = replace(layer, statistics=op.name + BEFORE)
        if op.kind in CONVOLUTIONS and layer.activation == LEAKY:
            layers[op.name + BEFORE] = replace(layer, name=op.name + BEFORE, activation="none")
            layer = replace(layer, op=replace(op, kind=ACTIVATION), inputs=(op.name + BEFORE,))
        if fused:
            layer = _join(layer, layers, readers, order)
        layers[op.name] = layer
        order[op.name] = order.get(layer.op.name, len(order))
    return list(layers.values())


def _join(layer: Layer, layers: dict[str, Layer], readers: dict[str, list[Op]], order: dict[str, int]) -> Layer:
    """``layer`` fused into the one that makes its input, which is then taken out of ``layers``; or as it is."""
    if layer.op.kind not in ("add", "affine"):
        return layer
    for value in layer.reads[::-1]:  # the later operand first
        base = layers.get(value)
        if base is None or base.mode != epilogue.PLAIN or len(readers[value]) != 1:
            continue
        joined = _joined(base, layer, next((other for other in layer.reads if other != value), value), order)
        if joined:
            del layers[value]
            return joined
    return layer


def _joined(base: Layer, layer: Layer, other: str, order: dict[str, int]) -> Layer | None:
    """The layer that is ``base`` and then the affine ``layer``, or the sum of it and ``other``; None if there is none."""
    convolution = base.op.kind in CONVOLUTIONS
    if layer.op.kind == "affine":
        return replace(base, name=layer.name, mode=epilogue.AFFINE, affine=layer.name) if convolution else None
    if order[other] >= order[base.name]:
        return None
    if convolution and layer.activation == "none":
        return replace(base, name=layer.name, mode=epilogue.RESIDUAL, other=other)
    if base.activation == "none" and (layer.activation != LEAKY if convolution else base.op.kind == "instance_norm"):
        return replace(base, name=layer.name, mode=epilogue.SUM, other=other, activation=layer.activation, slope=layer.slope)
    return None
