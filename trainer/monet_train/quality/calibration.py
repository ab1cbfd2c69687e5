"""What validation says of how sure a network is: the calibration that `monet_edge.quality` applies, and how well it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from monet_edge.quality import SHARE, expect, log_odds

from ..scores import Score

ENOUGH = 0.5  # Pearson's correlation elsewhere: below it the expected Dice is not worth showing
FEWEST = 3  # scans of a label: with two of them the interval would be wider than all there is


@dataclass(frozen=True)
class Pair:
    """One label of one scan in which the network found it: how far it agrees with itself, and with a human."""

    case: str
    label: str
    agreement: float
    dice: float


def pairs_of(scores: Iterable[Score]) -> list[Pair]:
    """The pairs among scores; of labels that count as one, each is held against the Dice of all. What was not found is left out."""
    return [
        Pair(score.case, label, agreement, score.dice)
        for score in scores
        if score.predicted
        for label, agreement in score.agreement.items()
    ]


def calibrate(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """The calibration of every label that has pairs enough, as `monet_edge.quality.check` wants it.

    The interval is Student's for one new scan: the fewer there were, the wider it is.
    """
    found = {}
    for label in dict.fromkeys(pair.label for pair in pairs):
        away = np.array([log_odds(pair.dice) - log_odds(pair.agreement) for pair in pairs if pair.label == label])
        if len(away) >= FEWEST:
            reach = stats.t.ppf((1 + SHARE) / 2, len(away) - 1) * sqrt(1 + 1 / len(away))
            found[label] = {"shift": round(away.mean(), 4), "spread": round(reach * away.std(ddof=1), 4), "cases": len(away)}
    return found


def tell(validation: Sequence[Pair], elsewhere: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """What a weights file's provenance says of it.

    Parameters
    ----------
    validation : sequence of Pair
        What calibrates.
    elsewhere : mapping of str to sequence of Pair
        What it is held against, by the name of the data.

    Returns
    -------
    dict
        "quality": the calibration, left out if it does not hold elsewhere, or scans are so few that it cannot be tried on any.
        "quality_measured": by data, what `summary` says.
    """
    calibration, own = calibrate(validation), held_out(validation)
    if not own["pairs"]:
        return {"quality_measured": {}}
    measured = {"validation": own} | {data: hold(pairs, calibration) for data, pairs in elsewhere.items()}
    pearson = hold([pair for pairs in elsewhere.values() for pair in pairs], calibration)["pearson"]
    holds = pearson is None or pearson >= ENOUGH
    return {**({"quality": calibration} if holds else {}), "quality_measured": measured}


def held_out(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How well a calibration holds where it was made, as `summary` says it: every scan by that of the others."""
    rows: list[Row] = []
    for case in dict.fromkeys(pair.case for pair in pairs):
        others = calibrate([pair for pair in pairs if pair.case != case])
        rows += expected_of([pair for pair in pairs if pair.case == case], others)
    return summary(rows)


def hold(pairs: Sequence[Pair], calibration: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """How well a calibration holds elsewhere, as `summary` says it."""
    return summary(expected_of(pairs, calibration))


class Row(NamedTuple):
    """One label of one scan: what Dice was expected, what it is, and whether that lies within the interval."""

    label: str
    expected: float
    dice: float
    inside: bool


def expected_of(pairs: Sequence[Pair], calibration: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """The rows of those pairs whose label is calibrated."""
    rows = []
    for pair in pairs:
        (found,) = expect(calibration, (pair.label,), (pair.agreement,), familiar=True)
        if found is not None:
            rows.append(Row(pair.label, found.dice, pair.dice, found.low <= pair.dice <= found.high))
    return rows


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How well what was expected is what is.

    Returns
    -------
    dict
        Number of "pairs"; mean "expected" and true "dice"; "pearson" of the two over all pairs, and "between" scans of one label, whose
        means are taken away before; mean absolute "error"; share of pairs "inside" of the interval. None where there is nothing to tell.
    """
    expected, dice = (np.array([getattr(row, key) for row in rows], np.float64) for key in ("expected", "dice"))
    labels = np.array([row.label for row in rows])
    apart = [values - _means(values, labels) for values in (expected, dice)]
    return {
        "pairs": len(rows),
        "expected": _three(expected),
        "dice": _three(dice),
        "pearson": _pearson(expected, dice),
        "between": _pearson(*apart),
        "error": _three(np.abs(expected - dice)),
        "inside": _three(np.array([row.inside for row in rows], np.float64)),
    }


def _means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    means = np.zeros(len(values))
    for label in set(labels):
        means[labels == label] = values[labels == label].mean()
    return means


def _pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    varied = len(one) > 2 and min(one.std(), other.std()) > 1e-9
    return round(float(np.corrcoef(one, other)[0, 1]), 3) if varied else None


def _three(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 3) if len(values) else None
