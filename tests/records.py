"""Preprocessing records for tests, of which most need slices of 32x32 and nothing special."""

from monet_edge.preprocess import Preprocess


def make_record(*labels, **changes):
    """A `Preprocess` with these labels."""
    usual = {"size": 32, "slicing": "axial", "context": 0, "intensity": "zscore", "low": -3.0, "high": 5.0, "threshold": 0.5}
    return Preprocess(**{**usual, **changes}, labels=labels)
