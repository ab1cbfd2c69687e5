"""The ways of a case from scans to a mask: which one is decided by the record that the weights carry."""

from typing import Any

from . import nnunet, slices
from .contract import Grid, Segmentation, Turn, Way, check_case

__all__ = ["WAYS", "Grid", "Segmentation", "Turn", "Way", "check_case", "way_of"]

WAYS = (slices.WAY, nnunet.WAY)


def way_of(record: Any) -> Way:
    """The one that takes a record of this kind."""
    return next(way for way in WAYS if isinstance(record, way.record))
