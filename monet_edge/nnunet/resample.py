"""Splines as nnU-Net resamples by them, slice by slice: what scikit-image's `resize` and SciPy's `zoom` give, to the last digits.

A spline in three dimensions is one along each axis in turn, and leaves a grid's own points as they are. In configuration ``2d`` the
number of slices never changes, so what is a 3-D spline in nnU-Net is a 2-D one of every slice here, and no volume is held.
Depends on NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .record import Resampling

ANISOTROPY = 3  # beyond it the axis of the largest spacing is resampled on its own
PAD = 12  # pixels of the edge repeated before a cubic spline, as SciPy does: 0.27**12 is 1e-7, and that of what lies inside
_POLE = np.sqrt(3) - 2

Axis = int | None


def new_length(length: int, spacing: float, target: float) -> int:
    """How many points an axis has at another spacing: to the nearest, of two the even one, in nnU-Net's order of operations."""
    return round(spacing / target * length)


def separate_axis(how: Resampling, current: Sequence[float], new: Sequence[float]) -> Axis:
    """The axis that is resampled on its own, None if there is none: where two have the largest spacing neither is."""
    for spacings in (current, new) if how.separate is None else (current,):
        if how.separate or (how.separate is None and max(spacings) / min(spacings) > ANISOTROPY):
            largest = [axis for axis, spacing in enumerate(spacings) if max(spacings) / spacing == 1]
            return largest[0] if len(largest) == 1 else None
    return None


@dataclass(frozen=True)
class Change:
    """From a grid to another one with as many slices.

    Attributes
    ----------
    old, new : (rows, columns)
        Of a slice.
    how : Resampling
    axis : int or None
        That is resampled on its own: 0 for the slices.
    """

    old: tuple[int, int]
    new: tuple[int, int]
    how: Resampling
    axis: Axis

    @property
    def clips(self) -> bool:
        """Whether values can leave the range of what they are made from, and are held to it."""
        return self.old != self.new and self.how.order > 1

    def __call__(self, slices: np.ndarray, low: np.ndarray | float = -np.inf, high: np.ndarray | float = np.inf) -> np.ndarray:
        """Slices (C, H, W) on the new grid, in their own dtype; the very same array if it is the old one.

        ``low`` and ``high`` are the range to hold values to, of anything that broadcasts to (C, H, W).
        """
        if self.old == self.new:
            return slices
        values = slices.astype(np.float64)
        for axis in (1, 2):
            if axis != self.axis:
                values = along(values, axis, self.new[axis - 1], self.how.order)
        if self.clips:
            values = np.clip(values, low, high)
        if self.axis:
            values = along(values, self.axis, self.new[self.axis - 1], self.how.order_z)
        return values.astype(slices.dtype)


def along(values: np.ndarray, axis: int, length: int, order: int) -> np.ndarray:
    """An array of float64 resampled along one axis: pixel centres at half-integers, the edges repeated.

    Parameters
    ----------
    values : float64 array
    axis, length : int
    order : {0, 1, 3}
        Of the spline: nearest, linear, cubic.
    """
    count = values.shape[axis]
    if count == length:
        return values
    values = np.moveaxis(values, axis, 0)
    places = (np.arange(length) + 0.5) * (count / length) - 0.5
    if order == 0:
        result = values[np.clip(np.floor(places + 0.5).astype(int), 0, count - 1)]
    elif order == 1:
        places = np.clip(places, 0, count - 1)
        lower = np.floor(places).astype(int)
        result = _sum(values, [lower, np.minimum(lower + 1, count - 1)], [1 - (places - lower), places - lower])
    else:
        places = places + PAD
        first = np.floor(places).astype(int)
        result = _sum(coefficients(values), [first + tap for tap in (-1, 0, 1, 2)], _cubic(places - first))
    return np.moveaxis(result, 0, axis)


def _sum(values: np.ndarray, indices: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    shape = (-1, *[1] * (values.ndim - 1))
    total = values[indices[0]] * weights[0].reshape(shape)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total += values[index] * weight.reshape(shape)
    return total


def _cubic(t: np.ndarray) -> list[np.ndarray]:
    """The cubic B-spline at the four points around a place that lies ``t`` behind the second."""
    u = 1 - t
    return [u**3 / 6, (t * t * (t - 2) * 3 + 4) / 6, (u * u * (u - 2) * 3 + 4) / 6, t**3 / 6]


def coefficients(values: np.ndarray) -> np.ndarray:
    """Of the cubic spline through values along the first axis, whose ends are repeated `PAD` times: two recursions (Unser 1999)."""
    padded = 6 * np.concatenate([np.repeat(values[:1], PAD, 0), values, np.repeat(values[-1:], PAD, 0)])
    padded[0] /= 1 - _POLE  # as if it went on for ever
    for i in range(1, len(padded)):
        padded[i] += _POLE * padded[i - 1]
    padded[-1] *= _POLE / (_POLE - 1)
    for i in range(len(padded) - 2, -1, -1):
        padded[i] = _POLE * (padded[i + 1] - padded[i])
    return padded
