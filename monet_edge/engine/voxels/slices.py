"""A slice as stored to the network's input, and the network's output to labels: what the kernels `feed` and `label` are given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .halves import share, weigh
from .kernels import KEPT, feed, label, run
from .lines import TAP
from .stored import form_of, known


def fill(target: np.ndarray, raw: np.ndarray, *, slope: float, inter: float, low: float, high: float, floor: float) -> None:
    """Normalise and resize slices.

    Parameters
    ----------
    target : (N, H', W') float32
        C order.
    raw : (N, H, W)
        As stored: any real dtype of at most 64 bits in either byte order, any strides.
    slope, inter : float
        Scaled intensity = raw * slope + inter.
    low, high : float
        The intensities that become 0 and 1.
    floor : float
        What is not above it, is NaN or infinite, becomes 0.
    """
    raw = known(raw)
    count, height, width = raw.shape
    plane, row, step = raw.strides
    start, columns = raw.ctypes.data, taps(width, target.shape[2])
    if step < 0:  # rows are read as they lie in memory, and turned when they are resized
        step, start, columns = -step, start + (width - 1) * step, _turned(columns, width)
    parameters = np.array([slope, inter, low, 1 / float(high - low), floor])
    run(
        feed, form_of(raw.dtype), count, start, plane, row, step, width, parameters, taps(height, target.shape[1]), columns,
        np.empty(width), np.empty(3 * width, np.float32), target, *target.strides[:2], *target.shape[1:],
    )  # fmt: skip


def assign(target: np.ndarray, probability: np.ndarray, threshold: float, kept: Sequence[np.ndarray] = ()) -> None:
    """Resize probabilities and label every pixel.

    Parameters
    ----------
    target : (H', W') uint8
        Any strides. Gets 1 above the threshold where there is one class, else the likeliest class, the first of several.
    probability : (C, H, W) float32
    threshold : float
    kept : sequence of (H', W') float32 arrays
        Any strides; one for each class gets its resized probabilities, none if nobody wants them.
    """
    probability = np.ascontiguousarray(probability, np.float32)
    classes, height, width = probability.shape
    places = np.array([(one.ctypes.data, *one.strides) for one in kept], KEPT)
    run(
        label, probability, *probability.strides[:2], width, classes, taps(height, target.shape[0]), taps(width, target.shape[1]),
        np.empty(width, np.float32), np.empty((classes, target.shape[1]), np.float32), int(np.float32(threshold).view(np.uint32)),
        target, *target.strides, *target.shape, places if kept else 0,
    )  # fmt: skip


def add_halves(sums: np.ndarray, values: np.ndarray, weights: np.ndarray) -> None:
    """``sums += values * weights``, every sum rounded as float16 would hold it: (H, W) float32, ``sums`` with any step between rows."""
    values, weights = (np.ascontiguousarray(each, np.float32) for each in (values, weights))
    run(weigh, values, weights, sums, sums.strides[0], *sums.shape)


def divide_halves(sums: np.ndarray, weights: np.ndarray) -> None:
    """``sums /= weights``, rounded as float16 would hold it: (H, W) float32, both with the same step between rows."""
    run(share, sums, weights, sums.strides[0], *sums.shape)


@lru_cache(16)
def taps(source: int, target: int) -> np.ndarray:
    """Bilinear resize of one axis, pixel centres at half-integers, edges repeated: the table `TAP`, a row for each pixel wanted."""
    found = np.zeros(target, TAP)
    if source == target:
        found["lower"] = found["upper"] = np.arange(target)
        return found
    centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    found["lower"] = np.minimum(centre.astype(np.intp), max(source - 2, 0))
    found["upper"] = np.minimum(found["lower"] + 1, source - 1)
    found["weight"] = (centre - found["lower"]).astype(np.float32).view(np.uint32)
    return found


def _turned(columns: np.ndarray, width: int) -> np.ndarray:
    """The same of a row that lies the other way round."""
    turned = columns.copy()
    for name in ("lower", "upper"):
        turned[name] = width - 1 - columns[name]
    return turned
