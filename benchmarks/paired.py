"""Differences between two models over the same patients. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interval(differences: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean of paired differences and the ends of its 95 % interval: percentile bootstrap over patients, always the same draws."""
    found = np.asarray(differences, np.float64)
    means = np.random.default_rng(0).choice(found, (10_000, len(found))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(found.mean()), float(low), float(high)


def told(differences: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """The same in words: mean (low to high)."""
    mean, low, high = (f"{value:+.{digits}f}" for value in interval(differences))
    return f"{mean} ({low} to {high})"
