"""From prepared cases to tensors: all slices of a training in the memory of one device, in the form the runtime would feed them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monet_edge.preprocess import SLICINGS, Preprocess, normalise, resize

from .augment import standardise
from .config import DEPTHS
from .dataset import Case, oriented
from .prepare import Prepared


@dataclass(frozen=True)
class Slices:
    """All slices of some cases; N of them, S pixels wide and high, on one device.

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
    """

    images: Tensor
    labels: Tensor
    depths: Tensor
    neighbours: Tensor
    cases: Tensor
    rims: Tensor
    names: tuple[str, ...]

    def inputs(self, index: Tensor) -> Tensor:
        """What the network sees for slices ``index`` without augmentation: (len(index), 2 * context + 1, S, S)."""
        return self.images[self.neighbours[index]]


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

    def arrays_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        case = oriented(prepared.load(name), record.slicing)
        images = slices_of(case, record)
        labels = labels_of(case, record, merged)
        return images, labels, *(_rims(images) if skull_strip else (np.zeros_like(labels), np.zeros((DEPTHS, 2), np.float32)))

    with ThreadPoolExecutor() as pool:  # NumPy and SciPy let go of the interpreter lock
        parts = list(pool.map(arrays_of, names))
    images, labels, depths, rims = zip(*parts, strict=True)
    counts = [len(part) for part in images]
    starts = np.cumsum([0, *counts])
    offsets = np.arange(-record.context, record.context + 1)
    neighbours = [start + np.clip(np.arange(n)[:, None] + offsets, 0, n - 1) for start, n in zip(starts, counts, strict=False)]

    def on_device(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(device)

    return Slices(
        on_device(images),
        on_device(labels),
        on_device(depths),
        on_device(neighbours),
        torch.repeat_interleave(torch.tensor(counts)).to(device),
        torch.from_numpy(np.stack(rims)).to(device),
        tuple(names),
    )


def memory_of(prepared: Prepared, train: Sequence[str], val: Sequence[str], record: Preprocess) -> tuple[int, int, int]:
    """How many slices train and validate, and how many bytes all of them take at their worst moment."""
    axis = list(SLICINGS).index(record.slicing)
    training, validation = (sum(prepared.shape(name)[axis] for name in names) for names in (train, val))
    slice_bytes = record.size**2 * 6  # float32 image, uint8 label and depth; twice while those of all cases are put together
    return training, validation, slice_bytes * max(2 * training, training + 2 * validation)


def slices_of(case: Case, record: Preprocess) -> np.ndarray:
    """All slices of a case as the network sees them, without their neighbours: (Z, S, S) float32."""
    size = (record.size, record.size)
    return np.stack([normalise(case.voxels[z], record, case.statistics, size) for z in range(len(case.image))])


def labels_of(case: Case, record: Preprocess, merged: bool) -> np.ndarray:
    """All labels of a case at the network's size (Z, S, S) uint8: a pixel has the label that covers most of it."""
    label = (case.label > 0).astype(np.uint8) if merged else case.label
    classes = range(len(record.labels) + 1)
    covers = (np.stack([slice_ == value for value in classes]).astype(np.float32) for slice_ in label)
    return np.stack([resize(cover, record.size, record.size).argmax(axis=0).astype(np.uint8) for cover in covers])


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
