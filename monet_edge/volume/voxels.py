"""Intensities as they are stored, with what scales them: they travel together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Voxels:
    """An array of any shape and real dtype; an intensity is ``stored * slope + inter``, in HU or the scan's own units.

    Attributes
    ----------
    stored : array
    slope, inter : float
    counts : (65536,) int64 array, optional
        Of all of it, as `engine.voxels.count` gives them, where it has been counted already.
    """

    stored: np.ndarray
    slope: float = 1.0
    inter: float = 0.0
    counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int | slice | tuple[slice | int, ...] | np.ndarray) -> Voxels:
        """A part, scaled alike: a view where NumPy gives one."""
        return Voxels(self.stored[index], self.slope, self.inter)

    def scaled(self) -> np.ndarray:
        """The intensities in float64."""
        return self.stored.astype(np.float64) * self.slope + self.inter
