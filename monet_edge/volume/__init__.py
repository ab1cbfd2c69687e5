"""A scan in memory: its voxels as stored, its grid, and one canonical order to see it in. Files are the business of `formats`."""

from .orientation import Orientation, orient, to_canonical
from .scan import Scan
from .voxels import Voxels

__all__ = ["Orientation", "Scan", "Voxels", "orient", "to_canonical"]
