"""An image in tiles, and the tiles' results as one image again. Depends on NumPy only.

Tiles overlap by half or more, and count less towards their edges, where a network sees only one side: steps, padding and the
Gaussian are nnU-Net's (Isensee et al. 2021, "nnU-Net: a self-configuring method ..."), whose networks run here too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil

import numpy as np

STEP = 0.5  # from one tile to the next, at most: a share of the tile's side
SIGMA = 1 / 8  # of the Gaussian, likewise

Sides = tuple[int, int]  # height and width


def positions(side: int, tile: int) -> tuple[int, ...]:
    """Where tiles begin along one side of an image: evenly, no further apart than `STEP` tiles, the last one at the end.

    Parameters
    ----------
    side, tile : int
        Pixels; of a side that is not longer than a tile there is one, at 0.
    """
    rest = max(side - tile, 0)
    steps = ceil(rest / (tile * STEP))
    return tuple(int(np.round(rest / steps * i)) for i in range(steps + 1)) if steps else (0,)


def gaussian(tile: Sides) -> np.ndarray:
    """How much every pixel of a tile counts: 1 in its middle, exp(-16) in the corner before it.

    Parameters
    ----------
    tile : (H, W)

    Returns
    -------
    (H, W) float64
    """
    rows, columns = (np.exp(-0.5 * np.square((np.arange(side) - side // 2) / (side * SIGMA))) for side in tile)
    return np.outer(rows, columns)


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of an image lie. Along a side that is shorter than the tile, the image lies in the middle of zeros.

    Attributes
    ----------
    shape : (H, W)
        The image's.
    tile : (H, W)
    """

    shape: Sides
    tile: Sides

    @cached_property
    def padded(self) -> Sides:
        """(H, W) with the zeros around it."""
        height, width = map(max, self.shape, self.tile)
        return height, width

    @cached_property
    def inside(self) -> tuple[slice, slice]:
        """Where the image lies in the padded one; the odd pixel of padding comes after it."""
        top, left = ((padded - side) // 2 for padded, side in zip(self.padded, self.shape, strict=True))
        return slice(top, top + self.shape[0]), slice(left, left + self.shape[1])

    @cached_property
    def windows(self) -> tuple[tuple[slice, slice], ...]:
        """Every tile's part of the padded image, row by row."""
        corners = product(*map(positions, self.padded, self.tile))
        return tuple((slice(y, y + self.tile[0]), slice(x, x + self.tile[1])) for y, x in corners)

    @cached_property
    def weights(self) -> np.ndarray:
        """What every pixel of a tile counts: (H, W) float32."""
        return gaussian(self.tile).astype(np.float32)

    @cached_property
    def total(self) -> np.ndarray:
        """What the weights of all tiles add up to in every pixel of the padded image: (H, W) float32."""
        total = np.zeros(self.padded)
        for window in self.windows:
            total[window] += self.weights
        return total.astype(np.float32)


class Merging:
    """``merging(i, result)`` takes results of tiles (C, h, w), those of all images counted on, and stores whole images (C, H, W).

    Several threads may call it. Whoever brings an image's last tile stores it. The tiles of an image are added up in their order,
    and wait for those before them: the result does not depend, bit for bit, on the order in which they come.

    Parameters
    ----------
    tiling : Tiling
    store : callable
        ``store(image, result)``, float32; of a single tile what lies inside is passed on as it is.
    """

    def __init__(self, tiling: Tiling, store: Callable[[int, np.ndarray], None]) -> None:
        self._tiling, self._store = tiling, store
        self._sums: dict[int, _Sum] = {}
        self._lock = threading.Lock()

    def __call__(self, i: int, result: np.ndarray) -> None:
        tiling = self._tiling
        image, tile = divmod(i, len(tiling.windows))
        if len(tiling.windows) == 1:
            self._store(image, result[:, *tiling.inside])
            return
        with self._lock:
            found = self._sums.setdefault(image, _Sum(tiling))
        if found.add(tile, result):
            with self._lock:
                del self._sums[image]
            self._store(image, found.mean()[:, *tiling.inside])


class _Sum:
    """Of one image's tiles."""

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._total: np.ndarray | None = None
        self._waiting: dict[int, np.ndarray] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, tile: int, result: np.ndarray) -> bool:
        """Add what can be added by now; true if that was all."""
        windows = self._tiling.windows
        with self._lock:
            self._waiting[tile] = result * self._tiling.weights
            if self._total is None:
                self._total = np.zeros((len(result), *self._tiling.padded), np.float32)
            while (weighted := self._waiting.pop(self._next, None)) is not None:
                self._total[:, *windows[self._next]] += weighted
                self._next += 1
            return self._next == len(windows)

    def mean(self) -> np.ndarray:
        """The weighted mean of all tiles, (C, H, W) with the padding."""
        assert self._total is not None
        self._total /= self._tiling.total
        return self._total
