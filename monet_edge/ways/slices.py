"""The way of a scan through a model of our own trainer: canonical, normalised, squeezed into the network's slices, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import limits, preprocess
from ..doubts import doubts
from ..engine import Engine
from ..flip import Load, Store, mirrored
from ..options import Options
from ..preprocess import Preprocess
from ..volume import Scan, Voxels, orient
from ..weights import Weights
from .contract import Grid, Progress, Segmentation, Way


def memory(weights: Weights, engine: Engine, grids: Sequence[Grid], options: Options) -> int:
    """See `contract.Way`."""
    record, grid = weights.sliced, grids[0]
    seen = 4 * record.size**2 * preprocess.Inputs.room(record, engine.threads)
    return limits.peak(
        tuple(grid.shape[axis] for axis in orient(grid.affine, preprocess.SLICINGS[record.slicing]).axes),
        grid.dtype,
        classes=weights.spec.classes,
        workspace=engine.workspace_bytes(record.size, record.size) + seen,
        threads=engine.threads,
        probabilities=options.probabilities,
        cleaning=options.cleaning,
    )


def segment(weights: Weights, engine: Engine, scans: Sequence[Scan], options: Options, progress: Progress | None) -> Segmentation:
    """See `contract.Way`."""
    (scan,), record, classes = scans, weights.sliced, weights.spec.classes
    threshold = record.threshold if options.threshold is None else options.threshold
    orientation = orient(scan.affine, preprocess.SLICINGS[record.slicing])
    voxels = Voxels(orientation.turn(scan.voxels), scan.slope, scan.inter)
    statistics = preprocess.measure(voxels, engine.threads)
    mask = np.zeros(scan.shape, np.uint8, order="F")
    kept = np.zeros((*scan.shape, classes), np.float32, order="F") if options.probabilities else None
    mask_slices, kept_slices = orientation.turn(mask), None if kept is None else orientation.turn(kept)

    load = preprocess.Inputs(voxels, record, statistics, engine.threads)

    def store(z: int, probability: np.ndarray) -> None:
        kept = () if kept_slices is None else tuple(np.moveaxis(kept_slices[z], -1, 0))
        preprocess.to_mask(probability, threshold, mask_slices[z], kept)

    if not preprocess.blank(record, statistics):  # else there is nothing to see: the mask stays empty
        _map(engine, len(voxels), load, store, options.flip, progress)
    if kept is not None and classes == 1:
        kept = kept[..., 0]
    doubtful = doubts(weights, voxels, statistics, mask, options)
    return Segmentation(mask, kept, statistics, (*scan.warnings, *doubtful))


def _map(engine: Engine, count: int, load: Load, store: Store, flip: bool, progress: Progress | None) -> None:
    """Take every slice through the network, with ``flip`` its mirror image, too."""

    def report(done: int) -> None:
        if progress is not None:
            progress(done, count)

    if flip:
        engine.map(2 * count, *mirrored(load, store), lambda done: report(done // 2))
    else:
        engine.map(count, load, store, report)


WAY = Way(Preprocess, memory, segment)
