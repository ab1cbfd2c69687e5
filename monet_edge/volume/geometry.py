"""Lengths and volumes of a grid of voxels: the one way to a mm and to a ml, from the whole affine, shear included.

A scan taken with a tilted gantry has axes that are not at right angles: the product of its voxel sizes is then too large a
volume, and the root of summed squares along its axes no distance. Steps are (3, 3): a column for every axis of an array, the
way in world coordinates (mm) that one voxel along that axis takes. Depends on NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from .orientation import Orientation

APART = 0.02  # voxels; an origin off by 0.002 mm is an exporter's rounding, a rotation that moves a corner by 0.055 voxels is not


def spacing(steps: np.ndarray) -> tuple[float, ...]:
    """Distance in mm between neighbours along every axis, of steps (3, 3) or an affine (4, 4)."""
    return tuple(float(length) for length in np.linalg.norm(steps[:3, :3], axis=0))


def voxel_ml(steps: np.ndarray) -> float:
    """Volume of a voxel in ml, of steps (3, 3) or an affine (4, 4)."""
    return float(abs(np.linalg.det(steps[:3, :3])) / 1000)


def canonical_steps(affine: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Steps (3, 3) along Z, H, W of an array that `to_canonical` turned, from the affine (4, 4) of the stored one."""
    return affine[:3, list(orientation.axes)] * np.where(orientation.flips, -1.0, 1.0)


def displacement(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far two affines (4, 4) put a corner of one volume (X, Y, Z) apart: the largest distance, in voxels of the first."""
    corners = np.array([[*corner, 1] for corner in product(*((-0.5, side - 0.5) for side in shape))])
    apart = (corners @ (other - one).T)[:, :3] @ np.linalg.inv(one[:3, :3]).T
    return float(np.linalg.norm(apart, axis=1).max())


def diagonal(steps: np.ndarray, shape: Sequence[int]) -> float:
    """The longest way through an array of so many voxels: steps (d, d) in any unit, d axes."""
    return max(float(np.linalg.norm(steps @ np.multiply(shape, signs))) for signs in product((1, -1), repeat=len(shape)))
