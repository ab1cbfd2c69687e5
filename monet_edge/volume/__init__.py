"""Scans in, results out: NIfTI read without believing it, turned to one canonical order and back, written on the scan's grid."""

from .image import from_image, to_image
from .orientation import Orientation, from_canonical, to_canonical
from .reader import halves, is_ours, peek, read
from .scan import ENDINGS, SCANS, Scan
from .writer import write

__all__ = [
    "ENDINGS",
    "SCANS",
    "Orientation",
    "Scan",
    "from_canonical",
    "from_image",
    "halves",
    "is_ours",
    "peek",
    "read",
    "to_canonical",
    "to_image",
    "write",
]
