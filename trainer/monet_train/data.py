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
    images : (N, M, S, S) float32
        Normalised and resized, M of a case.
    labels : (N, S, S) uint8
    depths : (N, S, S) uint8
        Distance from the outside of the head in pixels, at most `DEPTHS` - 1.
    neighbours : (N, 2 * context + 1) int64
        Indices of the slices that enter as channels, of every image.
    cases : (N,) int64
        Index into ``names``.
    rims : (len(names), M, DEPTHS, 2) float32
        Mean and SD of the foreground of a case's images when a rim so many pixels deep is gone.
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
        """What the network sees for slices ``index`` without augmentation: (len(index), M * (2 * context + 1), S, S), image after image."""
        seen = self.images[self.neighbours[index]]
        if self.between is not None:
            above, weights = (table[index] for table in self.between)
            seen = seen + weights[:, :, None, None, None] * (self.images[above] - seen)
        return seen.transpose(1, 2).flatten(1, 2)


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
        depths, rims = _rims(images) if skull_strip else (np.zeros_like(labels), np.zeros((record.images, DEPTHS, 2), np.float32))
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
    _, height, width = case.label.shape
    spacing = case.spacing
    return make_grid(record, (height, width), (spacing[0], spacing[1], spacing[2]))


def _tiles(slices: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Padded slices (Z, ..., H, W) as tiles (N, ..., S, S), in the order of `monet_edge.inputs.Inputs`."""
    return np.stack([slices[..., *window] for window in tiling.windows], axis=1).reshape(-1, *slices.shape[1:-2], *tiling.tile)


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
    slice_bytes = record.size**2 * (4 * record.images + 2)  # float32 images, uint8 label and depth
    # twice while those of all cases are put together
    return training, validation, slice_bytes * max(2 * training, training + 2 * validation)


def slices_of(case: Case, record: Preprocess, tiling: Tiling) -> np.ndarray:
    """All slices of a case as the network sees them, without their neighbours, not yet in tiles: (Z, M, H, W) float32."""
    images = enumerate(zip(case.images, case.statistics, strict=True))
    return np.stack([make_slices(image, record.of(number), found, tiling) for number, (image, found) in images], axis=1)


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
    """How deep every pixel of slices (Z, M, H, W) lies inside the head, which is what any image shows: (Z, H, W) uint8. And the mean and SD
    of every image's foreground without a rim of every depth: (M, DEPTHS, 2) float32.
    """
    heads = (ndimage.binary_fill_holes(ndimage.binary_opening(slice_)) for slice_ in np.any(images > 0, axis=1))
    depths = np.stack([ndimage.distance_transform_cdt(np.pad(head, 1), "chessboard")[1:-1, 1:-1] for head in heads])
    depths = np.minimum(depths, DEPTHS - 1).astype(np.uint8)
    return depths, np.stack([_foregrounds(image, depths) for image in np.moveaxis(images, 1, 0)])


def _foregrounds(images: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Mean and SD of the foreground of one image's slices (Z, H, W) without a rim of every depth: (DEPTHS, 2) float32."""
    inside = images > 0
    # sums over all pixels at least so deep: from the deepest outwards
    count, total, squares = (
        np.bincount(depths[inside], weights, DEPTHS)[::-1].cumsum()[::-1] for weights in (None, images[inside], np.square(images[inside]))
    )
    mean = total / np.maximum(count, 1)
    sd = np.sqrt(np.maximum(squares / np.maximum(count, 1) - np.square(mean), 1e-4))
    return np.stack([mean, sd], axis=1).astype(np.float32)


def strip_skull(images: np.ndarray, depth: int, record: Preprocess) -> np.ndarray:
    """Slices (N, M, S, S) of a z-scored head without a rim so many pixels deep, the z-score of every image taken anew."""
    depths, rims = _rims(images)
    clips = [(alone.low, alone.high) for alone in map(record.of, range(record.images))]
    parts = zip(np.moveaxis(images, 1, 0), rims[:, depth], clips, strict=True)
    anew = np.stack([standardise(image, mean, sd, clip) for image, (mean, sd), clip in parts], axis=1)
    return np.where((depths >= depth)[:, None] & (images > 0), anew, 0).astype(np.float32)
