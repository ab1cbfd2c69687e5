"""Preprocessing records for tests, of which most need slices of 32x32 and nothing special, and what a network sees by one."""

from monet_edge.inputs import Inputs
from monet_edge.preprocess import Preprocess


def make_record(*labels, **changes):
    """A `Preprocess` with these labels."""
    usual = {"size": 32, "slicing": "axial", "context": 0, "intensity": "zscore", "low": -3.0, "high": 5.0, "threshold": 0.5}
    return Preprocess(**{**usual, **changes}, labels=labels)


def network_input(volume, i, record, statistics):
    """What the network sees of one slice of a case that is one image, made for that slice alone."""
    return Inputs([volume], record, [statistics])(i)
