"""From a Spec to layers: ops that run together become one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..spec import INPUT, Op, Spec
from .codegen import epilogue

CONVOLUTIONS = ("conv", "deconv")  # the latter is a Spec's word for a transposed one, conv_transpose here


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
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    activation: str = "none"
    mode: int = epilogue.PLAIN
    other: str | None = None
    affine: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs + ((self.other,) if self.other else ())


def fuse(spec: Spec, fused: bool = True) -> list[Layer]:
    """The layers of a network in order of execution.

    An add, or an affine, joins the convolution before it when nothing else reads that convolution's value and the other
    summand is there already; a concat that only convolutions read is never made. Without ``fused`` every op is a layer.
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
        layer = Layer(op.name, op, inputs, op.attrs.get("activation", "none"))
        if op.kind in ("add", "mul"):
            layer = replace(layer, inputs=op.inputs[:1], other=op.inputs[1])
        if op.kind == "add":
            layer = replace(layer, mode=epilogue.SUM)
        if op.kind == "affine":
            layer = replace(layer, mode=epilogue.AFFINE, affine=op.name)
        if fused and op.kind == "concat" and all(reader.kind in CONVOLUTIONS for reader in readers.get(op.name, [op])):
            concats[op.name] = op.inputs
            continue
        if fused:
            layer = _join(layer, layers, readers, order)
        layers[op.name] = layer
        order[op.name] = order.get(layer.op.name, len(order))
    return list(layers.values())


def _join(layer: Layer, layers: dict[str, Layer], readers: dict[str, list[Op]], order: dict[str, int]) -> Layer:
    """``layer`` fused into the convolution that makes its input, which is then taken out of ``layers``; or as it is."""
    if layer.op.kind not in ("add", "affine"):
        return layer
    for value in layer.reads[::-1]:  # the later operand first
        base = layers.get(value)
        if base is None or base.op.kind not in CONVOLUTIONS or base.mode != epilogue.PLAIN or len(readers[value]) != 1:
            continue
        if layer.op.kind == "affine":
            del layers[value]
            return replace(base, name=layer.name, mode=epilogue.AFFINE, affine=layer.name)
        other = layer.reads[0] if value == layer.reads[1] else layer.reads[1]
        if order[other] >= order[value]:
            continue
        if layer.activation == "none":
            del layers[value]
            return replace(base, name=layer.name, mode=epilogue.RESIDUAL, other=other)
        if base.activation == "none":
            del layers[value]
            return replace(base, name=layer.name, mode=epilogue.SUM, other=other, activation=layer.activation)
    return layer
