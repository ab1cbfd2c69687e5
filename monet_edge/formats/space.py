"""Affines of formats that count a patient's axes otherwise than NIfTI, and whether an affine is one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ScanError

LPS = (-1.0, -1.0, 1.0)  # left, posterior, superior: signs that make it right, anterior, superior, and back; ITK's and DICOM's axes
MOST = 1e9  # mm of a voxel and of its place, and a voxel's part of a mm; a microscope's is 1e-4 mm, float32 ends at 3e38


def affine_of(steps: Sequence[np.ndarray], origin: np.ndarray, signs: Sequence[float], what: str) -> np.ndarray:
    """Voxel to world (right, anterior, superior).

    Parameters
    ----------
    steps : three or two of (3,)
        The way of one voxel along each axis, mm. Where there are two, the third axis, of one voxel, is 1 mm across the plane.
    origin : (3,)
        Centre of the first voxel, mm.
    signs : three of 1 or -1
        That turn the file's world into right, anterior, superior.
    what : str
        What the header calls it.

    Returns
    -------
    (4, 4) float64

    Raises
    ------
    ScanError
        If it is singular, not finite, or of voxels or places that nothing in a scanner has.
    """
    columns = list(steps)
    with np.errstate(all="ignore"):  # what is not finite is refused below
        if len(columns) == 2:
            across = np.cross(columns[0], columns[1])
            columns.append(across / np.linalg.norm(across))
        affine = np.eye(4)
        affine[:3] = np.column_stack([*columns, origin]) * np.array(signs)[:, None]
        affine += 0.0  # no -0
        affine = usable(affine, what)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if max(*lengths, *1 / lengths, *np.abs(affine[:3, 3])) > MOST:
        sizes, place = (", ".join(f"{size:g}" for size in part) for part in (lengths, affine[:3, 3]))
        raise ScanError(f"the header's {what} gives voxels of {sizes} mm that begin at {place} mm; expected those of a patient")
    return affine


def usable(affine: np.ndarray, what: str) -> np.ndarray:
    """The affine (4, 4) itself.

    Raises
    ------
    ScanError
        If it is singular or not finite.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3] / lengths))  # 1 for a box, 0 for a plane, NaN for nonsense
    if not np.isfinite(affine).all() or not volume > 1e-6:
        raise ScanError(f"the header's {what} is singular or not finite; expected a usable affine")
    return affine
