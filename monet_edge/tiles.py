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
from math import ceil, prod

import numpy as np

STEP = 0.5  # from one tile to the next, at most: a share of the tile's side
SIGMA = 1 / 8  # of the Gaussian, likewise
UNIT = 1 << 55  # of weighted sums: a corner's exp(-16) has 32 bits, and 256 tiles that overlap fit into an int64

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
        """What every pixel of a tile counts in `UNIT`s: (H, W) float64, whole numbers."""
        return np.floor(gaussian(self.tile) * UNIT)

    @cached_property
    def total(self) -> np.ndarray:
        """What the weights of all tiles add up to in every pixel of the padded image: (H, W) float64."""
        total = np.zeros(self.padded)
        for window in self.windows:
            total[window] += self.weights
        return total


class Merging:
    """``merging(i, result)`` takes results of tiles (C, h, w), those of all images counted on, and stores whole images (C, H, W).

    Several threads may call it; whoever brings an image's last tile stores it. What is added up are whole numbers, so that the
    result does not depend, bit for bit, on the order in which tiles come, and none has to wait for another.

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

    @staticmethod
    def room(tiling: Tiling, classes: int, threads: int) -> int:
        """Bytes that it takes at most while so many threads bring tiles: a sum each and, of several, that of the last image."""
        if len(tiling.windows) == 1:
            return 0
        pixels, tile, images = prod(tiling.padded), prod(tiling.tile), threads + (threads > 1)
        return 8 * (pixels + tile) + images * (8 * classes * pixels + 4 * classes * pixels + 16 * max(pixels, tile))

    def __call__(self, i: int, result: np.ndarray) -> None:
        """Add a tile's result, which must lie within [0, 1] as probabilities do."""
        tiling = self._tiling
        image, tile = divmod(i, len(tiling.windows))
        if len(tiling.windows) == 1:
            self._store(image, result[:, *tiling.inside])
            return
        with self._lock:
            found = self._sums.get(image)
            if found is None:
                found = self._sums[image] = _Sum(tiling, len(result))
        if found.add(tile, result):
            with self._lock:
                del self._sums[image]
            self._store(image, found.mean())


class _Sum:
    """Of one image's tiles."""

    def __init__(self, tiling: Tiling, classes: int) -> None:
        self._tiling, self._missing = tiling, len(tiling.windows)
        self._total = np.zeros((classes, *tiling.padded), np.int64)
        self._lock = threading.Lock()

    def add(self, tile: int, result: np.ndarray) -> bool:
        """True if it was the last one that was missing."""
        window = self._tiling.windows[tile]
        for total, channel in zip(self._total, result, strict=True):  # one by one: they stay in the cache
            weighted = (channel * self._tiling.weights).astype(np.int64)
            with self._lock:
                total[window] += weighted
        with self._lock:
            self._missing -= 1
            return not self._missing

    def mean(self) -> np.ndarray:
        """The weighted mean of all tiles, (C, H, W) float32 without the padding."""
        rows, columns = self._tiling.inside
        mean = np.empty((len(self._total), *self._tiling.shape), np.float32)
        for channel, total in zip(mean, self._total, strict=True):
            channel[:] = total[rows, columns] / self._tiling.total[rows, columns]
        return mean
