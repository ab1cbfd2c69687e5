"""The networks of the paper, each written once, as a Spec (Knolle et al. 2021, "Network architecture" and "Performance assessment")."""

from __future__ import annotations

from typing import Any

from .spec import INPUT, Op, Spec, validate

# Keras's BatchNorm defaults, as the authors trained; PyTorch's momentum is one minus Keras's 0.99.
BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class _Builder:
    """Appends ops; every method returns the name of the value it made."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def op(self, name: str, kind: str, inputs: tuple[str, ...], **attrs: Any) -> str:
        self.ops.append(Op(name, kind, inputs, attrs))
        return name

    def conv(self, name: str, x: str, filters: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1, bias: bool = False,
             activation: str = "none", **training: Any) -> str:  # fmt: skip
        # "same" in whole numbers: the dilation for 3x3, 1 for 4x4 stride 2, 0 for 1x1
        padding = (dilation * (kernel - 1) + 1 - stride + 1) // 2
        return self.op(name, "conv", (x,), filters=filters, kernel=kernel, stride=stride, dilation=dilation, padding=padding,
                       bias=bias, activation=activation, **training)  # fmt: skip

    def head(self, x: str, classes: int, **attrs: Any) -> None:
        """1x1 convolution to the classes; sigmoid for one, softmax for more."""
        logits = self.conv("head", x, classes, kernel=1, activation="sigmoid" if classes == 1 else "none", **attrs)
        if classes > 1:
            self.op("softmax", "softmax", (logits,))


def monet(in_channels: int = 1, classes: int = 1, filters: int = 16, depth: int = 2, dropout: float = 0.2) -> Spec:
    """MoNet, for training: 403,556 parameters by Keras's count with the defaults.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    classes : int
        1 for a binary mask (sigmoid), else background and labels (softmax).
    filters : int
        Channels of the first level; every level down doubles them.
    depth : int
        How often the image is halved.
    dropout : float
        Spatial dropout after the first three convolutions of an RDDC block.
    """
    net = _Builder()

    def block(name: str, x: str, channels: int, **attrs: Any) -> str:
        return net.conv(name, x, channels, activation="elu", bn=BATCH_NORM, **attrs)

    def rddc(name: str, x: str, channels: int) -> str:
        """Repeated decreasingly dilated convolutions (Fig 3); the sums come after the ELU."""
        c1 = block(f"{name}.f1", x, channels, dilation=4, dropout=dropout)
        s1 = net.op(f"{name}.s1", "add", (x, c1), activation="none")
        c2 = block(f"{name}.f2", s1, channels, dilation=3, dropout=dropout)
        c3 = block(f"{name}.f3", c2, channels, dilation=2, dropout=dropout)
        s2 = net.op(f"{name}.s2", "add", (c2, c3), activation="none")
        return block(f"{name}.f4", s2, channels)

    x, skips = INPUT, []
    for level in range(depth):
        channels = filters << level
        x = block(f"enc{level}.conv", x, channels)
        x = rddc(f"enc{level}", x, channels)
        skips.append(x)
        x = block(f"enc{level}.down", x, channels, kernel=4, stride=2)
    x = block("mid.conv", x, filters << depth)
    x = rddc("mid", x, filters << depth)
    for level in reversed(range(depth)):
        channels = filters << level
        # the upsampling keeps its input's channels: 4x4 and this width are what yields 403,556
        x = net.op(f"dec{level}.up", "deconv", (x,), filters=2 * channels, kernel=4, stride=2, padding=1, bias=False,
                   activation="elu", bn=BATCH_NORM)  # fmt: skip
        x = net.op(f"dec{level}.concat", "concat", (skips[level], x))
        x = block(f"dec{level}.conv", x, channels)
        x = rddc(f"dec{level}", x, channels)
    net.head(x, classes, bn=BATCH_NORM)
    return validate(Spec("monet", in_channels, tuple(net.ops)))


def unet(filters: int = 64, in_channels: int = 1, classes: int = 1, depth: int = 4, dropout: float = 0.3) -> Spec:
    """U-Net with ``filters`` base filters (the paper's U-Net-16 and U-Net-64), for training."""
    return _unet(f"unet-{filters}", filters, in_channels, classes, depth, dropout, gated=False)


def attention_unet(filters: int = 64, in_channels: int = 1, classes: int = 1, depth: int = 4, dropout: float = 0.3) -> Spec:
    """U-Net with an attention gate on every skip (the paper's Attention U-Net), for training."""
    name = "attention-unet" if filters == 64 else f"attention-unet-{filters}"
    return _unet(name, filters, in_channels, classes, depth, dropout, gated=True)


def _unet(name: str, filters: int, in_channels: int, classes: int, depth: int, dropout: float, *, gated: bool) -> Spec:
    net = _Builder()

    def conv(name: str, x: str, channels: int, **training: Any) -> str:
        """Convolution with bias, ReLU, and BatchNorm **after** the ReLU: it does not fold, and stays an affine."""
        x = net.conv(name, x, channels, bias=True, activation="relu")
        return net.op(f"{name}.norm", "affine", (x,), bn=BATCH_NORM, **training)

    def block(name: str, x: str, channels: int, **training: Any) -> str:
        return conv(f"{name}.conv2", conv(f"{name}.conv1", x, channels, **training), channels)

    def gate(name: str, skip: str, up: str, channels: int) -> str:
        """Attention gate: one map per pixel, from skip and upsampled tensor, weighs the skip."""
        s = net.conv(f"{name}.skip", skip, channels, kernel=1, bias=True)
        u = net.conv(f"{name}.gate", up, channels, kernel=1, bias=True)
        both = net.op(f"{name}.sum", "add", (s, u), activation="relu")
        weight = net.conv(f"{name}.map", both, 1, kernel=1, bias=True, activation="sigmoid")
        return net.op(f"{name}.gated", "mul", (skip, weight))

    x, skips = INPUT, []
    for level in range(depth):
        x = block(f"enc{level}", x, filters << level, dropout=dropout)
        skips.append(x)
        x = net.op(f"enc{level}.pool", "maxpool", (x,), kernel=2)
    x = block("mid", x, filters << depth, dropout=dropout)
    for level in reversed(range(depth)):
        channels, skip = filters << level, skips[level]
        x = net.op(f"dec{level}.up", "deconv", (x,), filters=channels, kernel=2, stride=2, padding=0, bias=True, activation="none")
        if gated:
            skip = gate(f"dec{level}.attention", skip, x, channels)
        x = net.op(f"dec{level}.concat", "concat", (x, skip))
        x = block(f"dec{level}", x, channels)
    net.head(x, classes, bias=True)
    return validate(Spec(name, in_channels, tuple(net.ops)))


ARCHITECTURES = {
    "monet": monet,
    "unet-16": lambda in_channels=1, classes=1: unet(16, in_channels, classes),
    "unet-64": lambda in_channels=1, classes=1: unet(64, in_channels, classes),
    "attention-unet": lambda in_channels=1, classes=1: attention_unet(64, in_channels, classes),
}
