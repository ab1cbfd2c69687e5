"""Does a scan look like those that a model was trained on? A few numbers of its intensities, and how far they lie from the usual.

Computed by the trainer over the training scans and by the runtime for every scan, by the same function; NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .preprocess import Preprocess, Statistics, normalise

KEY = "fingerprint"  # in the provenance of a weights file
_SLICES = 16  # looked at, spread over the volume
_PERCENT = (50, 99)
_NOTHING = 10.0  # for every feature of a scan without neighbouring foreground pixels: far from anything
# On the largest distance of a training scan. Brain model: its own kind lies at most at 1.21 of that (other hospitals, skull-stripped
# heads), 97 % of abdominal CTs beyond 1.27.
_MARGIN = 1.25


def features(volume: np.ndarray, record: Preprocess, statistics: Statistics, slope: float = 1.0, inter: float = 0.0) -> np.ndarray:
    """What is typical of one scan: numbers of order 1, none of them dependent on the scanner's units where the model's are not.

    Parameters
    ----------
    volume : (Z, H, W) array
        Canonical, as stored.
    record : Preprocess
    statistics : Statistics
        Of ``volume``.

    Returns
    -------
    (F,) float64
        Median and 99th percentile of the normalised foreground; the logarithms of how much neighbouring pixels differ,
        relative to the spread, and of the foreground's height over its width (a head is long, an abdomen wide).
    """
    chosen = np.unique(np.linspace(0, len(volume) - 1, _SLICES).round().astype(int))
    slices = np.stack([normalise(volume[z], record, statistics, slope, inter) for z in chosen])
    inside = slices > 0
    values = slices[inside].astype(np.float64)
    steps = [np.abs(np.diff(slices, axis=axis))[_both(inside, axis)] for axis in (1, 2)]
    if min(step.size for step in steps) == 0:
        return np.full(len(_PERCENT) + 2, _NOTHING)
    roughness = float(np.concatenate(steps).mean()) / max(float(values.std()), 1e-3)
    aspect = _spread(inside.sum(axis=(0, 2))) / _spread(inside.sum(axis=(0, 1)))
    return np.array([*np.percentile(values, _PERCENT), *np.log([roughness + 1e-3, aspect])])


def _spread(profile: np.ndarray) -> float:
    """SD of the position, weighted by ``profile``."""
    position = np.arange(len(profile))
    mean = np.average(position, weights=profile)
    return float(np.sqrt(np.average(np.square(position - mean), weights=profile))) + 1e-3


def _both(inside: np.ndarray, axis: int) -> np.ndarray:
    """Where a pixel and its neighbour along ``axis`` are both inside."""
    return inside[:, :-1] & inside[:, 1:] if axis == 1 else inside[..., :-1] & inside[..., 1:]


def learn(rows: Sequence[np.ndarray]) -> dict[str, Any]:
    """The usual features and their spread over the training scans, JSON-able."""
    table = np.stack(rows)
    mean = table.mean(axis=0)
    # shrunk towards its diagonal: some sets have few scans
    covariance = np.cov(table.T)
    covariance = 0.7 * covariance + 0.3 * np.diag(np.diag(covariance)) + 1e-4 * np.eye(len(mean))
    inverse = np.linalg.inv(covariance)
    known: dict[str, Any] = {"mean": mean.tolist(), "inverse": inverse.tolist(), "limit": 0.0}
    return {**known, "limit": _MARGIN * max(distance(row, known) for row in rows)}


def distance(row: np.ndarray, known: Mapping[str, Any]) -> float:
    """Mahalanobis distance of a scan's features from those of the training scans."""
    away = row - np.asarray(known["mean"])
    return float(np.sqrt(away @ np.asarray(known["inverse"]) @ away))


def is_foreign(row: np.ndarray, known: Mapping[str, Any]) -> bool:
    """True when a scan lies further from the training scans than any of them, with a margin."""
    return distance(row, known) > known["limit"]
