"""Turn a volume to one canonical order.

Index arithmetic on views: no voxel is interpolated or copied, so what is written into a turned view lands where it belongs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """How a canonical array is made of a stored one: ``stored.transpose(axes)``, then every axis in ``flips`` reversed."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    def turn(self, array: np.ndarray) -> np.ndarray:
        """A stored volume (X, Y, Z, ...) as a view (Z, H, W, ...)."""
        reversal = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(*self.axes, *range(3, array.ndim))[reversal]


def orient(affine: np.ndarray, axes: str) -> Orientation:
    """How to turn a stored volume so that its axes point where wanted, to the nearest 90 degrees.

    Parameters
    ----------
    affine : (4, 4) float
        Voxel to world (right, anterior, superior).
    axes : str
        Where (Z, H, W) shall point: three of L or R, P or A, I or S, such as "SPL".
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # world[i] is the voxel axis that runs most nearly along world axis i; the best of all, so that no order is preferred
    world = max(permutations(range(3)), key=lambda order: sum(abs(cosines[i, order[i]]) for i in range(3)))
    wanted = ["LRPAIS".index(code) // 2 for code in axes]
    flips = tuple(bool((cosines[i, world[i]] > 0) != (code in "RAS")) for i, code in zip(wanted, axes, strict=True))
    return Orientation(tuple(world[i] for i in wanted), flips)


def to_canonical(array: np.ndarray, affine: np.ndarray, axes: str) -> np.ndarray:
    """A stored volume (X, Y, Z, ...) as a view (Z, H, W, ...) whose axes point where `orient` was told."""
    return orient(affine, axes).turn(array)
