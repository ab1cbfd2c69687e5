"""A scan as it is held in memory: its voxels as stored, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import geometry

ENDINGS = (".nii.gz", ".nii")  # of what is written
SCANS = (*ENDINGS, ".img.gz", ".img")  # of what is read, in folders; the other half of an .img is its .hdr
OURS = "monet-edge "  # how `descrip` begins in what we write


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
    header : nibabel header
        The scan's; results take qform, sform, their codes and units from it.
    warnings : tuple of str
    """

    path: Path | None
    voxels: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z)."""
        return self.voxels.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along X, Y, Z in mm."""
        return geometry.spacing(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return geometry.voxel_ml(self.affine)


def written_by_us(header: Any) -> bool:
    """True for the header of a mask or probability that monet-edge wrote."""
    return bytes(header["descrip"]).startswith(OURS.encode())
