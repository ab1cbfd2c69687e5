"""What every command starts from where nothing else is said, declared once. It imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from typing import NamedTuple

NET, RECIPE = "monet", "strong"


class Slicing(NamedTuple):
    """How slices are made for the network: `monet_edge.preprocess.Preprocess` without the labels, which the data set names."""

    size: int = 256
    slicing: str = "axial"
    context: int = 0
    intensity: str = "zscore"
    low: float = -3.0
    high: float = 6.0
    threshold: float = 0.5
    spacing: float = 0.0
    thickness: float = 0.0
    neighbours: str = "nearest"
    lone: bool = True


SLICES = Slicing()
