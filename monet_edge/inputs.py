"""What the network sees of a volume: its slices on the model's grid, in tiles, each with its neighbours; for training and use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import ceil, floor, prod

import numpy as np

from .errors import ScanError
from .extent import check_lengths
from .intensities import Statistics
from .preprocess import MAX_CONTEXT, Preprocess, normalise
from .tiles import Sides, Tiling
from .volume import Voxels

MAX_SIDE = 1 << 15  # pixels of a resampled slice; a whole body of 2 m has as many of 0.06 mm
BLOCK = 1 << 16  # pixels of slices that are made at a time: in Python a slice of 64x64 takes longer than in the kernel

Spacing = tuple[float, float, float]  # mm from one voxel to the next along Z, H, W of a canonical volume


@dataclass(frozen=True)
class Grid:
    """How the slices of one volume lie on a model's grid.

    Attributes
    ----------
    tiling : Tiling
        Of a slice, resampled.
    neighbours : tuple of float
        How many of the volume's slices each channel of an image lies away from the slice itself.
    """

    tiling: Tiling
    neighbours: tuple[float, ...]

    @property
    def reach(self) -> int:
        """How many slices on either side may be needed."""
        return ceil(max(self.neighbours))

    def channels(self, z: int, depth: int) -> list[tuple[int, np.float32]]:
        """For each channel of an image at slice z of ``depth``: the slice at or before its place, and how far it lies on the way to the
        next one. Beyond either end of the volume its last slice repeats.
        """
        places = (min(max(z + away, 0), depth - 1) for away in self.neighbours)
        return [(int(place), np.float32(place % 1)) for place in places]


def make_grid(record: Preprocess, shape: Sides, spacing: Spacing | None) -> Grid:
    """The grid of a volume.

    Parameters
    ----------
    record : Preprocess
    shape : (H, W)
        Of a slice as stored.
    spacing : (float, float, float), optional
        mm along Z, H, W; None if unknown.

    Raises
    ------
    ScanError
        If the model needs the spacing and it is unknown, or makes a slice longer than a scanner takes, larger than `MAX_SIDE` or nothing.
    """
    size, away = (record.size, record.size), range(-record.context, record.context + 1)
    if not record.in_mm:
        return Grid(Tiling(size, size), tuple(map(float, away)))
    if spacing is None:
        raise ScanError("what its voxels measure is not known, and the model works in millimetres", "State it with {spacing}.")
    depth, *sides = (float(f"{mm:.6g}") for mm in spacing)  # a header's float32 and quaternions make 0.70000003 of 0.7
    resampled = size
    check_lengths(shape, sides)
    if record.spacing:
        if max(np.multiply(shape, sides)) < record.spacing / 2:
            found = f"{shape[0]} x {shape[1]} voxels of {sides[0]:g} x {sides[1]:g} mm"
            raise ScanError(f"{found} leave none at the model's {record.spacing:g} mm", "State what they measure with {spacing}.")
        height, width = (max(1, round(side * mm / record.spacing)) for side, mm in zip(shape, sides, strict=True))
        if max(height, width) > MAX_SIDE:
            found = f"slices of {shape[0]}x{shape[1]} pixels of {sides[0]:g} x {sides[1]:g} mm"
            raise ScanError(f"{found} would be {height}x{width} of the model's {record.spacing:g} mm, at most {MAX_SIDE} each way")
        resampled = height, width
    step = record.thickness / depth if record.thickness else 1.0
    if record.neighbours == "nearest":
        neighbours = tuple(float(np.copysign(floor(abs(k) * step + 0.5), k)) for k in away)  # the same both ways
    else:
        neighbours = tuple(k * step for k in away)
    return Grid(Tiling(resampled, size), neighbours)


def make_slices(raw: Voxels, record: Preprocess, statistics: Statistics, tiling: Tiling) -> np.ndarray:
    """Slices (N, H, W), normalised and resampled, in the middle of background where they are smaller than a tile: float32."""
    images = normalise(raw, record, statistics, tiling.shape)
    if tiling.shape == tiling.padded:
        return images
    padded = np.zeros((len(images), *tiling.padded), np.float32)
    padded[:, *tiling.inside] = images
    return padded


class Inputs:
    """What the network sees of a case in canonical order: ``inputs(i)`` is (images * (2 * context + 1), size, size) float32.

    Slice by slice, and of each tile by tile: ``i // tiles`` is the slice's number, of a model without a spacing ``i`` itself. Image
    after image the slice lies between its neighbours; beyond either end the last slice repeats. A slice is normalised and resized once,
    small ones several at a time, and kept while the windows around its neighbours may need it, if slices are asked for about in order,
    by several threads at a time.

    Parameters
    ----------
    images : sequence of Voxels
        (Z, H, W) each, all of one grid; as many as the record has.
    record : Preprocess
    statistics : sequence of Statistics
        Of every image.
    grid : Grid, optional
        The images'; may be left out for a model that needs no spacing.
    threads : int
        That ask.
    """

    def __init__(
        self, images: Sequence[Voxels], record: Preprocess, statistics: Sequence[Statistics], grid: Grid | None = None, threads: int = 1
    ) -> None:
        self.grid = grid or make_grid(record, images[0].stored.shape[1:], None)
        self._images = [(image, record.of(number), found) for number, (image, found) in enumerate(zip(images, statistics, strict=True))]
        self._each = self._block(self.grid)
        self._room = len(images) * (self.room(self.grid, threads) // self._each)
        self._kept: dict[tuple[int, int], Future[np.ndarray]] = {}  # by the block's number and the image's
        self._lock = threading.Lock()

    @staticmethod
    def room(grid: Grid, threads: int) -> int:
        """How many slices of every image are kept: the windows in work, those of the threads that are about to begin, and the last one's.

        Where more of the volume's slices lie in a window than the most context ever takes, some are made again instead.
        """
        each, reach = Inputs._block(grid), min(grid.reach, MAX_CONTEXT)
        return each * sum((slices + each - 2) // each + 1 for slices in (2 * reach + 2 * threads, reach + 1))  # of blocks that these lie in

    @staticmethod
    def _block(grid: Grid) -> int:
        """How many slices are made at a time."""
        return max(BLOCK // prod(grid.tiling.padded), 1)

    @property
    def depth(self) -> int:
        """Slices of the case."""
        return len(self._images[0][0])

    def __len__(self) -> int:
        return self.depth * len(self.grid.tiling.windows)

    def __call__(self, i: int) -> np.ndarray:
        image = np.empty((len(self._images) * len(self.grid.neighbours), *self.grid.tiling.tile), np.float32)
        self.load(i, image)
        return image

    def load(self, i: int, image: np.ndarray) -> None:
        """The same, written into ``image``."""
        z, tile = divmod(i, len(self.grid.tiling.windows))
        window = self.grid.tiling.windows[tile]
        channels = [(number, *channel) for number in range(len(self._images)) for channel in self.grid.channels(z, self.depth)]
        held: tuple[int, int] | None = None
        for channel, (number, below, weight) in zip(image, channels, strict=True):
            block, place = divmod(below, self._each)
            if held != (number, block):  # most neighbours lie in one
                held, slices = (number, block), self._slices(number, block)
            seen = slices[place][window]
            if weight:
                block, place = divmod(below + 1, self._each)
                seen = seen + weight * (self._slices(number, block)[place][window] - seen)
            channel[...] = seen

    def _slices(self, number: int, block: int) -> np.ndarray:
        """Those of a block, kept or made."""
        with self._lock:
            found = self._kept.get((block, number))
            if found is None:
                made = self._kept[block, number] = Future()
                if len(self._kept) > self._room:
                    del self._kept[min(self._kept)]
        if found is not None:
            return found.result()
        try:
            image, record, statistics = self._images[number]
            raw = image[block * self._each : (block + 1) * self._each]
            made.set_result(make_slices(raw, record, statistics, self.grid.tiling))
        except BaseException as error:  # for whoever waits, too
            made.set_exception(error)
        return made.result()
