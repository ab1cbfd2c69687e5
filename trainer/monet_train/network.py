"""A Spec as a PyTorch module: the same record that the runtime runs, trained. Depends on torch and `monet_edge.spec` only.

Tensor names are the Spec's own (`spec.tensor_shapes`): the state dict of a `Network` is what `export` folds, and a `Network`
of a folded Spec loads what a weights file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monet_edge.spec import INPUT, Op, Spec, infer_channels

_ACTIVATIONS = {"none": lambda x: x, "elu": F.elu, "relu": F.relu, "sigmoid": torch.sigmoid}


class BatchNorm(nn.Module):
    """Batch normalisation with exactly the Spec's four tensors (PyTorch's own carries a counter that nothing here reads)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.frozen = False  # see `transfer.freeze`
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        batch = self.training and not self.frozen
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, batch, self.momentum, self.eps)


class Affine(nn.Module):
    """What is left of a BatchNorm after folding where no convolution can take it: a scale and a shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class InstanceNorm(nn.Module):
    """Instance normalisation: mean and biased variance are those of each channel of each image, also in evaluation mode."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class Network(nn.Module):
    """The network of a Spec, training or folded; modules are registered in op order.

    Parameters
    ----------
    spec : Spec
        Validated.

    Notes
    -----
    Weights start He-uniform and biases at zero, as the paper's (Keras counts the fan-in of a transposed convolution over its
    outputs, and so does PyTorch). Probabilities leave in float32, whatever autocast makes of the layers before.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        channels = infer_channels(spec)
        for op in spec.ops:
            module = _module(op, channels[op.inputs[0]], channels[op.name])
            if module is not None:
                _register(self, op.name, module)
        # a value is let go after its last reader: U-Net-64's would fill 25 GB for a batch of 32
        readers = {value: i for i, op in enumerate(spec.ops) for value in op.inputs}
        self._finished = [[value for value, last in readers.items() if last == i] for i in range(len(spec.ops))]

    def values(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every op's value by name, in op order, for images (N, C, H, W)."""
        known = {INPUT: x}
        for op, finished in zip(self.spec.ops, self._finished, strict=True):
            known[op.name] = self._apply_op(op, [known[value] for value in op.inputs])
            yield op.name, known[op.name]
            for value in finished:
                del known[value]

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (N, classes, H, W) float32 of images (N, C, H, W)."""
        for _, value in self.values(x):
            x = value
        return x

    def _apply_op(self, op: Op, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        if op.kind in ("conv", "deconv", "affine", "instance_norm"):
            module = self.get_submodule(op.name)
            if op.kind != "affine" or "bn" not in op.attrs:  # an affine in training is its BatchNorm
                x = module(x)
            if "bn" in op.attrs:
                x = module.get_submodule("bn")(x)
            x = _activate(op, x)
            # whole channels, as the paper's spatial dropout
            return F.dropout2d(x, op["dropout"], self.training) if "dropout" in op.attrs else x
        if op.kind == "add":
            return _activate(op, inputs[0] + inputs[1])
        if op.kind == "mul":
            return inputs[0] * inputs[1]
        if op.kind == "concat":
            return torch.cat(inputs, dim=1)
        if op.kind == "maxpool":
            return F.max_pool2d(x, op["kernel"])
        if op.kind == "avgpool":
            return F.avg_pool2d(x, op["kernel"])
        assert op.kind == "softmax", op.kind
        return torch.softmax(x.float(), dim=1)


def _activate(op: Op, x: Tensor) -> Tensor:
    activation = op.attrs.get("activation", "none")
    if activation == "leaky_relu":
        return F.leaky_relu(x, op["slope"])
    return _ACTIVATIONS[activation](x.float() if activation == "sigmoid" else x)


def _module(op: Op, inputs: int, outputs: int) -> nn.Module | None:
    """The module that holds an op's tensors; None for an op without."""
    if op.kind in ("conv", "deconv"):
        shared: dict[str, Any] = {"stride": op["stride"], "padding": op["padding"], "bias": op["bias"]}
        if op.kind == "conv":
            module: nn.Module = nn.Conv2d(inputs, outputs, op["kernel"], dilation=op["dilation"], **shared)
        else:
            module = nn.ConvTranspose2d(inputs, outputs, op["kernel"], **shared)
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")  # type: ignore[arg-type]
        if op["bias"]:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif op.kind == "instance_norm":
        module = InstanceNorm(outputs, op["eps"])
    elif op.kind == "affine":
        module = nn.Module() if "bn" in op.attrs else Affine(outputs)
    else:
        return None
    if "bn" in op.attrs:
        module.add_module("bn", BatchNorm(outputs, **op["bn"]))
    return module


def _register(network: nn.Module, name: str, module: nn.Module) -> None:
    """Place a module under its dotted name; ``enc0.conv1.norm`` may sit inside the convolution ``enc0.conv1``."""
    *path, last = name.split(".")
    for part in path:
        if part not in network._modules:
            network.add_module(part, nn.Module())
        network = network.get_submodule(part)
    network.add_module(last, module)
