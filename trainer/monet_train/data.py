"""From prepared cases to tensors: all slices of a training in the memory of one device, in the form the runtime would feed them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monet_edge.inputs import Grid, make_grid, make_slices
from monet_edge.preprocess import Preprocess, resize
from monet_edge.tiles import Tiling

from .augment import standardise
from .config import DEPTHS
from .dataset import Case, oriented
from .prepare import Prepared


@dataclass(frozen=True)
class Slices:
    """All slices of some cases, or all tiles of their slices; N of them, S pixels wide and high, on one device.

    Attributes
    ----------
    images : (N, S, S) float32
        Normalised and resized.
    labels : (N, S, S) uint8
    depths : (N, S, S) uint8
        Distance from the outside of the head in pixels, at most `DEPTHS` - 1.
    neighbours : (N, 2 * context + 1) int64
        Indices of the slices that enter as channels.
    cases : (N,) int64
        Index into ``names``.
    rims : (len(names), DEPTHS, 2) float32
        Mean and SD of a case's foreground when a rim so many pixels deep is gone.
    names : tuple of str
    between : two (N, 2 * context + 1) tensors, int64 and float32, or None
        Where channels lie between slices: the ones after ``neighbours``, and how far on the way to them.
    """

    images: Tensor
    labels: Tensor
    depths: Tensor
    neighbours: Tensor
    cases: Tensor
    rims: Tensor
    names: tuple[str, ...]
    between: tuple[Tensor, Tensor] | None = None

    def inputs(self, index: Tensor) -> Tensor:
        """What the network sees for slices ``index`` without augmentation: (len(index), 2 * context + 1, S, S)."""
        seen = self.images[self.neighbours[index]]
        if self.between is None:
            return seen
        above, weights = (table[index] for table in self.between)
        return seen + weights[:, :, None, None] * (self.images[above] - seen)


def build(
    prepared: Prepared, names: Sequence[str], record: Preprocess, merged: bool, device: str | torch.device, skull_strip: bool
) -> Slices:
    """Load, normalise and resize cases.

    Parameters
    ----------
    prepared : Prepared
    names : sequence of str
        The cases.
    record : Preprocess
    merged : bool
        Whether all labels count as one.
    device : torch device
    skull_strip : bool
        Whether ``depths`` and ``rims`` are needed; they are zeros otherwise.

    Raises
    ------
    DatasetError
        If the file of a case is not intact.
    """

    def arrays_of(name: str) -> tuple[Grid, list[np.ndarray], np.ndarray]:
        case = oriented(prepared.load(name), record.slicing)
        grid = grid_of(case, record)
        images, labels = slices_of(case, record, grid.tiling), labels_of(case, record, merged, grid.tiling)
        depths, rims = _rims(images) if skull_strip else (np.zeros_like(labels), np.zeros((DEPTHS, 2), np.float32))
        return grid, [_tiles(each, grid.tiling) for each in (images, labels, depths)], rims

    with ThreadPoolExecutor() as pool:  # NumPy and SciPy let go of the interpreter lock
        grids, tiles, rims = zip(*pool.map(arrays_of, names), strict=True)
    images, labels, depths = zip(*tiles, strict=True)
    counts = [len(part) for part in images]
    starts = np.cumsum([0, *counts[:-1]])

    def on_device(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(device)

    neighbours, above, weights = map(on_device, zip(*map(_neighbours, grids, counts, starts), strict=True))
    return Slices(
        on_device(images),
        on_device(labels),
        on_device(depths),
        neighbours,
        torch.repeat_interleave(torch.tensor(counts)).to(device),
        torch.from_numpy(np.stack(rims)).to(device),
        tuple(names),
        (above, weights) if weights.any() else None,
    )


def grid_of(case: Case, record: Preprocess) -> Grid:
    """How the slices of a case, cut as the record says, lie for its network."""
    _, height, width = case.image.shape
    spacing = case.spacing
    return make_grid(record, (height, width), (spacing[0], spacing[1], spacing[2]))


def _tiles(slices: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Padded slices (Z, H, W) as tiles (N, S, S), in the order of `monet_edge.inputs.Inputs`."""
    return np.stack([slices[:, *window] for window in tiling.windows], axis=1).reshape(-1, *tiling.tile)


def _neighbours(grid: Grid, count: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a case's ``count`` tiles, numbered from ``start``: `Slices.neighbours`, and both tables of `Slices.between`."""
    tiles = len(grid.tiling.windows)
    depth = count // tiles
    slices = [grid.channels(z, depth) for z in range(depth)]
    below = np.repeat([[z for z, _ in channels] for channels in slices], tiles, axis=0)
    weights = np.repeat(np.array([[weight for _, weight in channels] for channels in slices], np.float32), tiles, axis=0)
    first = start + np.tile(np.arange(tiles), depth)[:, None]
    return first + tiles * below, first + tiles * np.minimum(below + 1, depth - 1), weights


def memory_of(prepared: Prepared, train: Sequence[str], val: Sequence[str], record: Preprocess) -> tuple[int, int, int]:
    """How many slices, or tiles, train and validate, and how many bytes all of them take at their worst moment."""

    def count(name: str) -> int:
        (depth, height, width), spacing = prepared.grid(name, record.slicing)
        return depth * len(make_grid(record, (height, width), spacing).tiling.windows)

    training, validation = (sum(map(count, names)) for names in (train, val))
    slice_bytes = record.size**2 * 6  # float32 image, uint8 label and depth; twice while those of all cases are put together
    return training, validation, slice_bytes * max(2 * training, training + 2 * validation)


def slices_of(case: Case, record: Preprocess, tiling: Tiling) -> np.ndarray:
    """All slices of a case as the network sees them, without their neighbours, not yet in tiles: (Z, H, W) float32."""
    return make_slices(case.voxels, record, case.statistics, tiling)


def labels_of(case: Case, record: Preprocess, merged: bool, tiling: Tiling) -> np.ndarray:
    """All labels of a case, likewise (Z, H, W) uint8: a pixel has the label that covers most of it."""
    label = (case.label > 0).astype(np.uint8) if merged else case.label
    classes = range(len(record.labels) + 1)
    covers = (np.stack([slice_ == value for value in classes]).astype(np.float32) for slice_ in label)
    made = np.zeros((len(label), *tiling.padded), np.uint8)
    for z, cover in enumerate(covers):
        made[z, *tiling.inside] = resize(cover, *tiling.shape).argmax(axis=0)
    return made


def _rims(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How deep every pixel lies inside the head, and the foreground's mean and SD without a rim of every depth."""
    heads = (ndimage.binary_fill_holes(ndimage.binary_opening(image > 0)) for image in images)
    depths = np.stack([ndimage.distance_transform_cdt(np.pad(head, 1), "chessboard")[1:-1, 1:-1] for head in heads])
    depths = np.minimum(depths, DEPTHS - 1).astype(np.uint8)
    inside = images > 0
    # sums over all pixels at least so deep: from the deepest outwards
    count, total, squares = (
        np.bincount(depths[inside], weights, DEPTHS)[::-1].cumsum()[::-1] for weights in (None, images[inside], np.square(images[inside]))
    )
    mean = total / np.maximum(count, 1)
    sd = np.sqrt(np.maximum(squares / np.maximum(count, 1) - np.square(mean), 1e-4))
    return depths, np.stack([mean, sd], axis=1).astype(np.float32)


def strip_skull(images: np.ndarray, depth: int, record: Preprocess) -> np.ndarray:
    """Slices (N, S, S) of a z-scored head without a rim so many pixels deep, the z-score taken anew."""
    depths, rim = _rims(images)
    mean, sd = rim[depth]
    anew = standardise(images, mean, sd, (record.low, record.high))
    return np.where((depths >= depth) & (images > 0), anew, 0).astype(np.float32)
