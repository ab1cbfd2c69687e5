"""A scan as it is held in memory: its voxels as stored, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import geometry
from .orientation import Orientation, orient
from .voxels import Voxels


@dataclass(frozen=True)
class Scan:
    """One 3-D volume as stored.

    Attributes
    ----------
    path : Path or None
        None for an image that lives in memory.
    voxels : (X, Y, Z) array
        In the file's own dtype, native byte order, Fortran order, read-only.
    slope, inter : float
        Scaled intensity = voxels * slope + inter.
    affine : (4, 4) float64
        Voxel to world, mm.
    header : Any
        What its format keeps for a writer of the same format, such as the fields of NIfTI's header; None where there is none.
    warnings : tuple of str
    oriented : bool
        False if the scan does not say how the patient lies: left and right are a guess.
    spacing_known : bool
        False if what a voxel measures is known to be false: distances are then in voxels.
    files : tuple of Path
        That it was read from, where ``path`` is not the only one.
    counts : (65536,) int64 array, optional
        Of its voxels, see `Voxels`.
    """

    path: Path | None
    voxels: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...]
    oriented: bool = True
    spacing_known: bool = True
    files: tuple[Path, ...] = ()
    counts: np.ndarray | None = None

    def canonical(self, axes: str) -> Voxels:
        """Its intensities (Z, H, W), the axes pointing as `orient` says: a view."""
        return self.turned(orient(self.affine, axes))

    def turned(self, orientation: Orientation) -> Voxels:
        """Its intensities, turned: a view."""
        return Voxels(orientation.turn(self.voxels), self.slope, self.inter, self.counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z)."""
        return self.voxels.shape

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return self.voxels.dtype

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along X, Y, Z in mm."""
        return geometry.spacing(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return geometry.voxel_ml(self.affine)
