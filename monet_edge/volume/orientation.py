"""Turn a volume to one canonical order, and back.

Index arithmetic on views: no voxel is interpolated or copied, so going there and back is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """How a canonical array was made of a stored one: ``stored.transpose(axes)``, then every axis in ``flips`` reversed."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]


def to_canonical(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, Orientation]:
    """Turn a stored volume so that its axes point where wanted, to the nearest 90 degrees.

    Parameters
    ----------
    array : (X, Y, Z, ...) array
    affine : (4, 4) float
        Voxel to world (right, anterior, superior).
    axes : str
        Where (Z, H, W) shall point: three of L or R, P or A, I or S, such as "SPL".

    Returns
    -------
    (Z, H, W, ...) view of ``array``, Orientation
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # world[i] is the voxel axis that runs most nearly along world axis i; the best of all, so that no order is preferred
    world = max(permutations(range(3)), key=lambda order: sum(abs(cosines[i, order[i]]) for i in range(3)))
    wanted = ["LRPAIS".index(code) // 2 for code in axes]
    flips = tuple(bool((cosines[i, world[i]] > 0) != (code in "RAS")) for i, code in zip(wanted, axes, strict=True))
    orientation = Orientation(tuple(world[i] for i in wanted), flips)
    return array.transpose(*orientation.axes, *range(3, array.ndim))[_reversal(orientation)], orientation


def from_canonical(array: np.ndarray, orientation: Orientation) -> np.ndarray:
    """The inverse of `to_canonical`: (Z, H, W, ...) to a view (X, Y, Z, ...)."""
    return array[_reversal(orientation)].transpose(*np.argsort(orientation.axes), *range(3, array.ndim))


def _reversal(orientation: Orientation) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1 if flip else 1) for flip in orientation.flips)
