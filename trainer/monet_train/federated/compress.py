"""What travels in fewer bytes: float16, or 8 bits with the error fed back. NumPy only.

The server sends the network itself, so it is never rounded to 8 bits: ``int8`` sends it down in float16. Sites send what their
training changed; what rounding takes from one update is added to the next one (Seide et al. 2014, "1-bit stochastic gradient
descent"; Karimireddy et al. 2019 show that so it converges as without).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Tensors = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], str]]  # shape and dtype of every array that travels

SCALES = "scales"  # no tensor of a network is called so: theirs have a dot


def layout(shapes: Mapping[str, tuple[int, ...]], compression: str, *, down: bool) -> Layout:
    """Names, shapes and dtypes of what a message must hold.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The network's.
    compression : {"none", "float16", "int8"}
    down : bool
        From the server to a site.
    """
    if compression == "int8" and not down:
        return {**{name: (shape, "<i1") for name, shape in shapes.items()}, SCALES: ((len(shapes),), "<f4")}
    dtype = "<f4" if compression == "none" else "<f2"
    return {name: (shape, dtype) for name, shape in shapes.items()}


def encode(tensors: Mapping[str, np.ndarray], expected: Layout) -> Tensors:
    """Float32 tensors as the arrays of a layout; what float16 cannot hold becomes infinite, and whoever receives it refuses it."""
    if SCALES not in expected:
        with np.errstate(over="ignore"):
            return {name: tensors[name].astype(dtype) for name, (_, dtype) in expected.items()}
    scales = np.array([np.abs(tensor).max(initial=0) / 127 for tensor in tensors.values()], "<f4")
    steps = np.where(scales > 0, scales, 1)
    with np.errstate(invalid="ignore"):  # NaN has no code; its tensor's scale is NaN too
        codes = {name: np.rint(tensor / step).astype("<i1") for (name, tensor), step in zip(tensors.items(), steps, strict=True)}
    return {**codes, SCALES: scales}


def decode(arrays: Mapping[str, np.ndarray]) -> Tensors:
    """The float32 tensors of what `encode` made, rounded."""
    names = [name for name in arrays if name != SCALES]
    scales = arrays[SCALES] if SCALES in arrays else np.ones(len(names), np.float32)
    with np.errstate(invalid="ignore"):
        return {name: arrays[name].astype(np.float32) * scale for name, scale in zip(names, scales, strict=True)}
