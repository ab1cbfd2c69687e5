"""What follows the sums of a convolution: bias, activation, and an affine or a residual, in one pass.

The same micro-kernel is the elementwise ops (add, affine), whose "sums" are a value.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
from llvmlite import ir

from .layout import blocks
from .simd import BLOCK, BYTES, Micro, Vectors

ACTIVATIONS = ("none", "elu", "relu", "sigmoid")
PLAIN, RESIDUAL, AFFINE, SUM = range(4)  # act(x + b); act(x + b) + r; act(x + b) * s + t; act(x + b + r)

EPILOGUE = ("epilogue", "parameters", "other", "other_row", "other_pixel")  # of a step; ``other`` is the residual or the summand
PARAMETERS = 3 * BYTES  # of a channel block: bias, scale, shift


def code(activation: str, mode: int) -> int:
    """The number that tells `epilogue` what to do."""
    return ACTIVATIONS.index(activation) * 4 + mode


@cache
def _exp_coefficients() -> list[float]:
    """Of exp(r) on |r| <= ln(2) / 2: least squares at Chebyshev nodes, absolute error 1.1e-7 in float32."""
    nodes = 0.5 * np.log(2) * 1.01 * np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
    return [1.0, 1.0, *(float(c) for c in np.polynomial.polynomial.polyfit(nodes, (np.exp(nodes) - 1 - nodes) / nodes**2, 3))]


def exp(v: Vectors, x: Any, plus: float | None = None) -> Any:
    """exp(x), or exp(x) + plus, for x <= 0.

    x = n ln 2 + r; a polynomial gives exp(r), and 2^n is built in the bits of a float: adding 1.5 * 2^23 + 127 to n leaves
    n + 127, the exponent's field, in the lowest bits.
    """
    x = v.maximum(x, v.constant(-80.0))  # 2^n stays a normal number
    magic = v.constant(1.5 * 2**23 + 127)
    shifted = v.fma(x, v.constant(1 / np.log(2)), magic)
    r = v.fma(v.sub(shifted, magic), v.constant(-np.log(2)), x)
    *lower, highest = _exp_coefficients()
    p = v.constant(highest)
    for coefficient in reversed(lower):
        p = v.fma(p, r, v.constant(coefficient))
    bits = v.builder.shl(v.builder.bitcast(shifted, v.integers), ir.Constant(v.integers, [23] * v.isa.lanes))
    power = v.builder.bitcast(bits, v.type)
    return v.mul(power, p) if plus is None else v.fma(power, p, v.constant(plus))


def activate(v: Vectors, activation: str, x: Any) -> Any:
    """Emit an activation of the Spec (none, elu, relu, sigmoid) on one vector."""
    zero, one = v.constant(0.0), v.constant(1.0)
    negative = v.builder.fcmp_ordered("<", x, zero)
    if activation == "elu":
        return v.builder.select(negative, exp(v, x, plus=-1.0), x)
    if activation == "relu":
        return v.maximum(x, zero)
    if activation == "sigmoid":  # by exp(-|x|), which cannot overflow
        e = exp(v, v.builder.select(negative, x, v.builder.fneg(x)))
        return v.builder.fdiv(v.builder.select(negative, e, one), v.add(e, one))
    return x


def _emit_epilogue(v: Vectors, code: Any, source: Any, source_row: Any, source_pixel: Any, target: Any, row: Any, pixel: Any,
                 other: Any, other_row: Any, other_pixel: Any, parameters: Any, height: Any, width: Any) -> None:  # fmt: skip
    """A ``height`` x ``width`` patch of one channel block, from ``source`` and ``other`` to ``target``; steps in bytes."""
    source, target, other, parameters = (v.pointer(a) for a in (source, target, other, parameters))
    offsets = [part * v.isa.lanes * 4 for part in range(v.parts)]
    bias, scale, shift = ([v.load(parameters, row * BYTES + offset) for offset in offsets] for row in range(3))

    def patch(activation: str, mode: int) -> None:
        def line(_: Any, lines: list[Any]) -> list[Any]:
            def point(_: Any, pointers: list[Any]) -> list[Any]:
                at, out, second = pointers
                results = []
                for part, offset in enumerate(offsets):
                    x = v.add(v.load(at, offset), bias[part])
                    if mode == SUM:
                        x = v.add(x, v.load(second, offset))
                    x = activate(v, activation, x)
                    if mode == RESIDUAL:
                        x = v.add(x, v.load(second, offset))
                    if mode == AFFINE:
                        x = v.fma(x, scale[part], shift[part])
                    results.append(x)
                for x, offset in zip(results, offsets, strict=True):
                    v.store(x, out, offset)
                return [v.at(at, source_pixel), v.at(out, pixel), v.at(second, other_pixel)]

            v.loop(width, 1, lines, point)
            return [v.at(pointer, step) for pointer, step in zip(lines, (source_row, row, other_row), strict=True)]

        v.loop(height, 1, [source, target, other], line)

    for activation, mode in v.cases(code, product(ACTIVATIONS, range(4))):
        patch(activation, mode)


epilogue = Micro("epilogue", 13, _emit_epilogue)


def pack_parameters(channels: int, bias: np.ndarray | None, scale: np.ndarray | None = None, shift: np.ndarray | None = None) -> np.ndarray:
    """(blocks, 3, 16) float32: bias, scale and shift of every channel; the padding does nothing."""
    packed = np.zeros((3, blocks(channels) * BLOCK), np.float32)
    packed[1] = 1.0
    for row, vector in enumerate((bias, scale, shift)):
        if vector is not None:
            packed[row, :channels] = vector
    return np.ascontiguousarray(packed.reshape(3, -1, BLOCK).transpose(1, 0, 2))
