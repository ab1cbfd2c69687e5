"""PATIENTS.md and its figure from what `python -m benchmarks.patients run` recorded. Pure functions of that JSON: no figure is typed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any


TITLES = {
    "scratch": "from scratch",
    "abdomen-mr": "from abdomen-mr",
    "abdomen-mr-slow": "from abdomen-mr, a third of the rate",
}
COLOURS = {"scratch": "#94a3b8", "abdomen-mr": "#c2410c", "abdomen-mr-slow": "#1d4ed8"}
Row = Mapping[str, Any]


def mean_dice(row: Row) -> float:
    """Of all structures and validation scans."""
    return mean(mean(dice.values()) for dice in row["dice"].values())


def page(rows: Sequence[Row]) -> str:
    """The whole page of the trainings in ``rows``."""
    return ""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Mean Dice against training patients, a line a start, a dot a training."""
