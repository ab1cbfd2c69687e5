"""Every op by its definition, in float64, one loop an index: the reference that all kernels are compared with.

Numba compiles the loops for speed; they stay the plain reading of the formula. What comes before and after the network is in
NumPy, whose every operation the kernels repeat in its precision and order: bit for bit.
"""

import numba
import numpy as np

from monet_edge.preprocess import resize
from monet_edge.spec import pair


@numba.njit(cache=True)
def _conv2d(x, weight, bias, stride, dilation, padding, out):
    filters, height, width = out.shape
    _, channels, rows, columns = weight.shape
    for o in range(filters):
        for y in range(height):
            for z in range(width):
                total = bias[o]
                for c in range(channels):
                    for i in range(rows):
                        for j in range(columns):
                            row = y * stride[0] + i * dilation - padding[0]
                            column = z * stride[1] + j * dilation - padding[1]
                            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                                total += x[c, row, column] * weight[o, c, i, j]
                out[o, y, z] = total


@numba.njit(cache=True)
def _deconv2d(x, weight, stride, padding, out):
    channels, filters, rows, columns = weight.shape
    for c in range(channels):
        for y in range(x.shape[1]):
            for z in range(x.shape[2]):
                for o in range(filters):
                    for i in range(rows):
                        for j in range(columns):
                            row, column = y * stride[0] + i - padding[0], z * stride[1] + j - padding[1]
                            if 0 <= row < out.shape[1] and 0 <= column < out.shape[2]:
                                out[o, row, column] += x[c, y, z] * weight[c, o, i, j]


def conv2d(x, weight, bias=None, stride=1, dilation=1, padding=0):
    """(C, H, W) and (out, in, k, k) to (out, H', W')."""
    stride, padding = pair(stride), pair(padding)
    size = [(x.shape[1 + i] + 2 * padding[i] - dilation * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    out = np.zeros((len(weight), *size))
    bias = np.zeros(len(weight)) if bias is None else bias
    _conv2d(x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64), stride, dilation, padding, out)
    return out


def deconv2d(x, weight, bias=None, stride=1, padding=0):
    """(C, H, W) and (in, out, k, k) to (out, H', W')."""
    stride, padding = pair(stride), pair(padding)
    size = [(x.shape[1 + i] - 1) * stride[i] - 2 * padding[i] + weight.shape[2 + i] for i in range(2)]
    out = np.zeros((weight.shape[1], *size))
    _deconv2d(x.astype(np.float64), weight.astype(np.float64), stride, padding, out)
    return out if bias is None else out + bias.astype(np.float64)[:, None, None]


def windows(x, kernel):
    """(C, H', k, W', k): what fills no window is left out."""
    rows, columns = pair(kernel)
    height, width = x.shape[1] // rows, x.shape[2] // columns
    return x[:, : height * rows, : width * columns].reshape(len(x), height, rows, width, columns)


def maxpool(x, kernel):
    return windows(x, kernel).max((2, 4))


def avgpool(x, kernel):
    return windows(x, kernel).mean((2, 4))


def instance_norm(x, weight, bias, eps):
    """By the mean and the biased variance of each channel."""
    centred = x - x.mean((1, 2), keepdims=True)
    scale = weight[:, None, None] / np.sqrt((centred**2).mean((1, 2), keepdims=True) + eps)
    return centred * scale + bias[:, None, None]


def activate(x, activation, slope=None):
    with np.errstate(over="ignore"):
        return {
            "none": lambda: x,
            "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
            "relu": lambda: np.maximum(x, 0),
            "sigmoid": lambda: 1 / (1 + np.exp(-x)),
            "leaky_relu": lambda: np.where(x > 0, x, slope * x),
        }[activation]()


def softmax(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def values(spec, tensors, image):
    """Every value of a folded network by op name, (C, H, W) float64."""
    known = {"image": image.astype(np.float64)}
    for op in spec.ops:
        inputs = [known[value] for value in op.inputs]
        weight, bias = tensors.get(f"{op.name}.weight"), tensors.get(f"{op.name}.bias")
        if op.kind == "conv":
            made = conv2d(inputs[0], weight, bias, op["stride"], op["dilation"], op["padding"])
        elif op.kind == "deconv":
            made = deconv2d(inputs[0], weight, bias, op["stride"], op["padding"])
        elif op.kind == "maxpool":
            made = maxpool(inputs[0], op["kernel"])
        elif op.kind == "avgpool":
            made = avgpool(inputs[0], op["kernel"])
        elif op.kind == "instance_norm":
            made = instance_norm(inputs[0], weight, bias, op["eps"])
        elif op.kind == "affine":
            made = inputs[0] * tensors[f"{op.name}.scale"][:, None, None] + tensors[f"{op.name}.shift"][:, None, None]
        else:
            made = {"add": lambda x, *y: x + y[0], "mul": lambda x, *y: x * y[0], "softmax": softmax,
                    "concat": lambda *x: np.concatenate(x)}[op.kind](*inputs)  # fmt: skip
        known[op.name] = activate(made, op.attrs.get("activation", "none"), op.attrs.get("slope"))
    return known


def normalise(raw, low, high, floor, slope=1.0, inter=0.0):
    """One slice (H, W) as stored to float32 in [0, 1]; background, NaN and infinities are 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        x = raw.astype(np.float64) * slope + inter
        y = np.clip((x - low) * (1 / (high - low)), 0, 1)
        y[~((x > floor) & np.isfinite(x))] = 0
    return np.ascontiguousarray(y, np.float32)


def network_slice(raw, shape, low, high, floor, slope=1.0, inter=0.0):
    """The same, then at the network's size."""
    return resize(normalise(raw, low, high, floor, slope, inter), *shape)


def to_mask(probability, threshold, shape):
    """Probabilities (C, H, W), resized, and the labels that they make."""
    probability = resize(probability, *shape)
    if len(probability) == 1:
        return probability, (probability[0] > threshold).astype(np.uint8)
    return probability, probability.argmax(axis=0).astype(np.uint8)
