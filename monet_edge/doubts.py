"""What makes a result doubtful, in words for whoever relies on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import fingerprint, preprocess
from .intensities import Statistics
from .options import Options
from .volume import Voxels
from .weights import Weights


def doubts(weights: Weights, voxels: Voxels, statistics: Statistics, mask: np.ndarray, options: Options) -> Iterator[str]:
    """Every warning that a mask deserves.

    Parameters
    ----------
    weights : Weights
    voxels : Voxels
        The scan, canonical (Z, H, W).
    statistics : Statistics
        Of its intensities.
    mask : uint8 array
        The model's, in any axis order.
    options : Options
        What was asked for.
    """
    record, name = weights.sliced, weights.name
    blank = preprocess.blank(record, statistics)
    if statistics.nonfinite:
        yield f"{statistics.nonfinite:,} voxels are NaN or infinite; they count as background"
    if statistics.nonfinite == mask.size:
        yield "no voxel holds a number; the mask is empty"
    elif blank:
        what = "all that is no background" if statistics.foreground else "the scan"
        yield f"{what} holds one intensity only; the mask is empty"
    elif not mask.any():
        yield "the mask is empty: the model found nothing in this scan"
    if options.threshold is not None and weights.spec.classes > 1:
        yield f"the threshold is ignored: {name} has several labels, and the likeliest counts"
    if options.flip and not weights.saw_flips:
        yield f"{name} was trained without mirrored slices: averaging with them (flip) may do harm"
    if weights.fingerprint is not None and not blank:
        seen = fingerprint.look(voxels, record, statistics)
        if weights.fingerprint.is_foreign(fingerprint.features(seen)):
            yield f"this scan does not look like those that {name} was trained on; do not trust the mask"
