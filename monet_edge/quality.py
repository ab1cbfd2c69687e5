"""How good a mask is likely to be: a Dice for every label, with an interval, from how sure the network was.

Where it is sure, what is likely at all and what is nearly certain are the same voxels: the Dice of the two is the label's agreement,
and takes two counts a slice. In log odds the true Dice lies below it by about as much in one scan as in the next: networks are
overconfident, but evenly so. Validation says by how much, and how far single scans lie from that, see docs/quality.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np

from .errors import ModelError

LAX, STRICT = 0.05, 0.95  # probabilities of what is likely at all, and of what is nearly certain
SHARE = 0.9  # of scans like those of the validation: their Dice lies in the interval
_LEAST = 1e-3  # Dice and agreement are kept so far from 0 and 1, where log odds have no end
_KEYS = {"shift", "spread", "cases"}


@dataclass(frozen=True)
class Expected:
    """The Dice that a label's mask would have with a human's, as far as the network knows.

    Attributes
    ----------
    dice : float
    low, high : float
        Between them lies the Dice of `SHARE` of the scans that are like those of the validation.
    """

    dice: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.dice:.2f}, {self.low:.2f}–{self.high:.2f}"


class Agreement:
    """How far what is likely and what is certain agree, of every label of a scan; slices come in any order, from several threads.

    Parameters
    ----------
    labels : int
    """

    def __init__(self, labels: int) -> None:
        self._likely, self._certain = [0] * labels, [0] * labels
        self._lock = threading.Lock()

    def add(self, probability: np.ndarray) -> None:
        """Count a slice (C, H, W) float32: a channel for every label, before them one for the background or none."""
        for label, channel in enumerate(probability[-len(self._likely) :]):
            likely = int(np.count_nonzero(channel > LAX))
            if not likely:  # most structures are not in most slices
                continue
            certain = int(np.count_nonzero(channel > STRICT))
            with self._lock:
                self._likely[label] += likely
                self._certain[label] += certain

    @property
    def dice(self) -> tuple[float, ...]:
        """Of the two masks of every label; 0 where nothing is likely."""
        return tuple(2 * certain / max(likely + certain, 1) for likely, certain in zip(self._likely, self._certain, strict=True))


def log_odds(dice: float) -> float:
    """Of a Dice, or an agreement, from 0 to 1."""
    kept = min(max(dice, _LEAST), 1 - _LEAST)
    return log(kept / (1 - kept))


def expect(
    calibration: Mapping[str, Mapping[str, float]], labels: Sequence[str], agreement: Iterable[float], familiar: bool
) -> tuple[Expected | None, ...]:
    """What Dice every label can be expected to have.

    Parameters
    ----------
    calibration : mapping
        As `check` returns it.
    labels : sequence of str
        The model's.
    agreement : iterable of float
        Of every label, see `Agreement`.
    familiar : bool
        False for a scan unlike those of the training: then nobody knows how low it may be, and the interval begins at 0.

    Returns
    -------
    tuple of Expected or None
        None for a label that was never calibrated.
    """
    return tuple(_expected(calibration.get(label), share, familiar) for label, share in zip(labels, agreement, strict=True))


def _expected(known: Mapping[str, float] | None, agreement: float, familiar: bool) -> Expected | None:
    if known is None:
        return None
    middle, spread = log_odds(agreement) + known["shift"], known["spread"]
    low, dice, high = (1 / (1 + exp(-odds)) for odds in (middle - spread, middle, middle + spread))
    return Expected(dice, low if familiar else 0.0, high)


def check(record: Any, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """A calibration by label, as it was given, or why it is none.

    Parameters
    ----------
    record : Any
        From JSON: for labels, a dict of "shift" and "spread", the mean distance from agreement to Dice in log odds and half the width
        of the interval, and of "cases", the number of scans that they are from.
    labels : sequence of str
        Of the model; each may be left out.

    Raises
    ------
    ModelError
        Saying what is wrong.
    """
    if not isinstance(record, Mapping) or not record.keys() <= {*labels}:
        raise ModelError(f"expected Dice: there must be a JSON object, for some of the labels {', '.join(labels)} their calibration")
    for label, known in record.items():
        numbers = known.values() if isinstance(known, Mapping) and known.keys() == _KEYS else ()
        if not numbers or not all(type(value) in (int, float) and -100 < value < 100_000 for value in numbers) or known["spread"] < 0:
            raise ModelError(f"expected Dice of {label!r}: there must be finite numbers as shift, spread and cases, found {known!r:.120}")
    return {label: dict(known) for label, known in record.items()}
