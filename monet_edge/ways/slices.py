"""The way of a scan through a model of our own trainer: canonical, normalised, squeezed into the network's slices, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import limits, preprocess
from ..doubts import doubts, unlike
from ..engine import Engine
from ..errors import ModelError
from ..inputs import Inputs
from ..intensities import measure
from ..options import Options
from ..passes import Progress, grid_of, room, run_slices
from ..postprocess import remove_lone
from ..preprocess import Preprocess
from ..quality import Agreement, expect
from ..volume import Scan, orient
from ..weights import Weights
from .contract import Grid, Segmentation, Turn, Way


def memory(weights: Weights, engine: Engine, scans: Sequence[Grid], options: Options) -> int:
    """See `contract.Way`."""
    scan, record, classes = scans[0], weights.sliced, weights.spec.classes
    slices = room(grid_of(record, scan, options), record.images, classes, engine.threads)
    return limits.peak(
        tuple(scan.shape[axis] for axis in orient(scan.affine, preprocess.SLICINGS[record.slicing]).axes),
        np.dtype((np.void, sum(each.dtype.itemsize for each in scans))),
        classes=classes,
        workspace=engine.workspace_bytes(record.size, record.size) + slices,
        threads=engine.threads,
        probabilities=options.probabilities,
        cleaning=options.cleaning,
    )


def segment(
    weights: Weights, engine: Engine, scans: Sequence[Scan], options: Options, progress: Progress | None, turn: Turn
) -> Segmentation:
    """See `contract.Way`.

    Raises
    ------
    ModelError
        If slices shall be mirrored for a model that tells left from right and has not learnt mirrors.
    """
    flip = weights.mirrored if options.flip else None
    if options.flip and flip is None:
        raise ModelError(f"{weights.name} tells left from right, and a mirrored slice exchanges them", "Leave {flip} out.")
    scan, record, classes = scans[0], weights.sliced, weights.spec.classes
    threshold = record.threshold if options.threshold is None else options.threshold
    orientation = orient(scan.affine, preprocess.SLICINGS[record.slicing])
    images = [each.canonical(preprocess.SLICINGS[record.slicing]) for each in scans]
    statistics = [measure(image, engine.threads) for image in images]
    mask = np.zeros(scan.shape, np.uint8, order="F")
    kept = np.zeros((*scan.shape, classes), np.float32, order="F") if options.probabilities else None
    mask_slices, kept_slices = orientation.turn(mask), None if kept is None else orientation.turn(kept)

    inputs = Inputs(images, record, statistics, grid_of(record, scan, options), engine.threads)

    agreement = Agreement(len(record.labels))

    def store(z: int, probability: np.ndarray) -> None:
        agreement.add(probability)
        kept = () if kept_slices is None else tuple(np.moveaxis(kept_slices[z], -1, 0))
        preprocess.to_mask(probability, threshold, mask_slices[z], kept)

    if not all(preprocess.blank(record.of(i), found) for i, found in enumerate(statistics)):  # else the mask stays empty: nothing is seen
        with turn as dealt:
            run_slices(engine, inputs, store, flip, progress, dealt)
    if not record.lone:
        remove_lone(mask_slices)
    if kept is not None and classes == 1:
        kept = kept[..., 0]
    strange = tuple(unlike(weights, scans, statistics, mask, options))
    told = (warning for each in scans for warning in each.warnings)
    warnings = (*told, *doubts(weights, statistics, mask, options), *strange)
    # it was calibrated for masks as the model makes them by itself
    calibration = {} if options.flip or threshold != record.threshold else weights.provenance.quality
    expected = expect(calibration, record.labels, agreement.dice, familiar=not strange)
    return Segmentation(mask, kept, statistics[0], warnings, agreement.dice, expected)


WAY = Way(Preprocess, memory, segment)
