"""From slices to labels through a network of tiles, in nnU-Net's order and precision: its sums of logits are float16.

Logits of a tile times the Gaussian are added up in float16, tile by tile, divided by the sum of the Gaussians, averaged over folds,
and resampled, all rounded to float16; a pixel between two labels falls to the same one only so. Until they are averaged, the numbers
are kept as float32, rounded so: NumPy's float16 took 3.5 ms of a slice of 256x256, 3 % of all, where this takes 0.9.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..engine import voxels
from ..tiles import Tiling, gaussian
from .record import Record

PEAK = 10  # of the Gaussian, as nnU-Net scales it: in float16 its corners are 1e-6
Write = Callable[[int, np.ndarray], None]


class Sums:
    """What float16 makes of the tiles' Gaussians, and of logits that are added up by them."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self._gaussian = (gaussian(tiling.tile) * PEAK).astype(np.float16).astype(np.float32)

    @cached_property
    def _weights(self) -> np.ndarray:
        """(H, W) float32, of the padded image."""
        total = self.begin(1)
        for tile in range(len(self.tiling.windows)):
            self.add(total, tile, np.ones((1, *self.tiling.tile), np.float32))
        return total[0]

    def begin(self, outputs: int) -> np.ndarray:
        """Empty sums of logits: (outputs, H, W) float32, padded."""
        return np.zeros((outputs, *self.tiling.padded), np.float32)

    def add(self, sums: np.ndarray, tile: int, logits: np.ndarray) -> None:
        """Add the logits of a tile, (outputs, H, W) float32."""
        for plane, total in zip(logits, sums[:, *self.tiling.windows[tile]], strict=True):
            voxels.add_halves(total, plane, self._gaussian)

    def mean(self, sums: np.ndarray, folds: int) -> np.ndarray:
        """The logits of a slice without its padding, averaged over folds: (heads, H, W) float32, rounded as float16 holds them.

        Uses up ``sums``.
        """
        inside = self.tiling.inside
        means = sums[:, *inside]
        for plane in means:
            voxels.divide_halves(plane, self._weights[inside])
        if folds == 1:
            return means
        each = means.astype(np.float16).reshape(folds, -1, *means.shape[1:])
        total = each[0]
        for other in each[1:]:
            total = total + other
        return (total / np.float16(folds)).astype(np.float32)


class Prediction:
    """The tiles of all slices as items for the engine: `load` and `store` are what its `map` takes; ``write(z, logits)`` gets slices.

    An item is a tile, or one of its mirror images. Whatever order threads finish them in, logits are added up in the tiles' order.

    Parameters
    ----------
    record : Record
    slices : callable
        ``slices(z)``: (C, H, W) float32, as the network sees it, without padding.
    tiling : Tiling
    mirrored : bool
        Average a tile with its mirror images.
    write : callable
    """

    def __init__(self, record: Record, slices: Callable[[int], np.ndarray], tiling: Tiling, mirrored: bool, write: Write) -> None:
        self._record, self._slices, self._write = record, slices, write
        self._sums = Sums(tiling)
        self._flips = _flips(record.mirror) if mirrored else [()]
        self.per_slice = len(tiling.windows) * len(self._flips)
        self._open: dict[int, _Slice] = {}
        self._lock = threading.Lock()

    def load(self, item: int, target: np.ndarray) -> None:
        """A tile, into (C, H, W) float32."""
        z, place = divmod(item, self.per_slice)
        tile, flip = divmod(place, len(self._flips))
        image = self._image(z)
        with image.lock:  # whoever comes first makes it, for all
            if image.padded is None:
                image.padded = self._pad(self._slices(z))
        target[...] = np.flip(image.padded[:, *self._sums.tiling.windows[tile]], self._flips[flip])

    def store(self, item: int, logits: np.ndarray) -> None:
        """Take the logits of an item; those of a slice's last one are written."""
        z, place = divmod(item, self.per_slice)
        image = self._image(z)
        logits = np.flip(logits, self._flips[place % len(self._flips)])
        with image.lock:
            before = image.done
            image.waiting[place] = logits if place == before else logits.copy()
            while (ready := image.waiting.pop(image.done, None)) is not None:
                self._add(image, ready)
            finished = before < image.done == self.per_slice
        if finished:
            with self._lock:
                del self._open[z]
            self._write(z, self._sums.mean(image.sums, self._record.folds))

    def _image(self, z: int) -> _Slice:
        with self._lock:
            return self._open.setdefault(z, _Slice(self._sums.begin(self._record.outputs)))

    def _pad(self, image: np.ndarray) -> np.ndarray:
        tiling = self._sums.tiling
        padded = np.zeros((len(image), *tiling.padded), np.float32)
        padded[:, *tiling.inside] = image
        return padded

    def _add(self, image: _Slice, logits: np.ndarray) -> None:
        """Of the next item: mirror images are added up first, and averaged with the last of them."""
        tile, flip = divmod(image.done, len(self._flips))
        if len(self._flips) == 1:
            self._sums.add(image.sums, tile, logits)
        else:
            image.mirrored = logits.copy() if image.mirrored is None else image.mirrored + logits
            if flip + 1 == len(self._flips):
                self._sums.add(image.sums, tile, image.mirrored / np.float32(len(self._flips)))
                image.mirrored = None
        image.done += 1


class _Slice:
    """One that is being worked on: its padded image, items that wait for those before them, the mean of a tile's mirror images so far."""

    def __init__(self, sums: np.ndarray) -> None:
        self.sums = sums
        self.padded: np.ndarray | None = None
        self.waiting: dict[int, np.ndarray] = {}
        self.mirrored: np.ndarray | None = None
        self.done = 0
        self.lock = threading.Lock()


def _flips(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Axes of (C, H, W) that mirror images are flipped along, in nnU-Net's order: none, rows, columns, both."""
    alone: list[tuple[int, ...]] = [(), *((axis + 1,) for axis in axes)]
    return [*alone, (1, 2)] if len(axes) == 2 else alone
