"""What makes a result doubtful, in words for whoever relies on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import prod

import numpy as np

from . import anatomy, fingerprint, preprocess
from .extent import extent_of
from .intensities import Statistics
from .options import Options
from .registry import shipped
from .volume import Scan, orient
from .weights import Weights, load

AIR, DARK = -500.0, 0.05  # HU, and the share of voxels below that makes a CT: air has -1000 and is around every body; MRI counts from 0


def doubts(weights: Weights, statistics: Sequence[Statistics], mask: np.ndarray, options: Options) -> Iterator[str]:
    """Every warning that a mask deserves, whatever the images look like.

    Parameters
    ----------
    weights : Weights
    statistics : sequence of Statistics
        Of the intensities of every image of a case.
    mask : uint8 array
        The model's, in any axis order.
    options : Options
        What was asked for.
    """
    record, name = weights.sliced, weights.name
    blank = [preprocess.blank(record.of(image), found) for image, found in enumerate(statistics)]
    nonfinite = sum(found.nonfinite for found in statistics)
    if nonfinite:
        yield f"{nonfinite:,} voxels are NaN or infinite; they count as background"
    if nonfinite == mask.size * len(statistics):
        yield "no voxel holds a number; the mask is empty"
    elif all(blank):
        what = "all that is no background" if any(found.foreground for found in statistics) else "the scan"
        yield f"{what} holds one intensity only; the mask is empty"
    elif not mask.any():
        yield "the mask is empty: the model found nothing in this scan"
    if any(blank) and not all(blank):
        missing = ", ".join(image for image, nothing in zip(record.names, blank, strict=True) if nothing)
        yield f"nothing is seen of {missing}: the image holds one intensity only; do not trust the mask"
    if options.threshold is not None and weights.spec.classes > 1:
        yield f"the threshold is ignored: {name} has several labels, and the likeliest counts"
    if options.flip and not weights.provenance.saw_flips:
        yield f"{name} was trained without mirrored slices: averaging with them (flip) may do harm"


def unlike(weights: Weights, scans: Sequence[Scan], statistics: Sequence[Statistics], mask: np.ndarray, options: Options) -> Iterator[str]:
    """What tells a case from those that trained, by its ``scans``, an image each; the other parameters as for `doubts`."""
    yield from _foreign(weights, scans, statistics, options)
    if weights.provenance.anatomy:
        yield from _strange(weights, scans[0], mask, options)


def _strange(weights: Weights, scan: Scan, mask: np.ndarray, options: Options) -> Iterator[str]:
    """Of a model that has seen label maps only, whose images may look anyhow: what its mask shows, and whether that was a CT."""
    name, labels = weights.name, weights.preprocess.labels
    counts, dark = np.zeros(len(labels) + 1, np.int64), 0
    for z in range(mask.shape[2]):  # a plane at a time: NumPy counts in 8 bytes a voxel
        counts += np.bincount(mask[:, :, z].ravel(order="K"), minlength=len(counts))
        with np.errstate(invalid="ignore"):  # a signalling NaN would print a warning
            dark += int(np.count_nonzero(scan.voxels[:, :, z] * scan.slope + scan.inter < AIR))
    ml = prod(options.voxel_mm) / 1000 if options.voxel_mm else scan.voxel_ml
    found = anatomy.strange(weights.provenance.anatomy, dict(zip(labels, (counts[1:] * ml).tolist(), strict=True)))
    if found and mask.any():
        yield f"this does not look like a whole scan of what {name} was trained on: {found}; do not trust the mask"
    if dark > DARK * mask.size:
        yield f"this scan looks like a CT: {dark / mask.size:.0%} of its voxels are below {AIR:g}; {name} is for MRI; do not trust the mask"


def _foreign(weights: Weights, scans: Sequence[Scan], statistics: Sequence[Statistics], options: Options) -> Iterator[str]:
    """Of a model that has seen scans."""
    record, name = weights.sliced, weights.name
    if weights.fingerprint is None:
        return
    scan = scans[0]
    if not all(preprocess.blank(record.of(image), found) for image, found in enumerate(statistics)):
        seen = fingerprint.look([each.canonical(preprocess.SLICINGS[record.slicing]) for each in scans], record, statistics)
        if weights.fingerprint.is_foreign(fingerprint.features(seen)):
            yield f"this scan does not look like those that {name} was trained on; do not trust the mask"
    if weights.fingerprint.extent is not None:
        axes = orient(scan.affine, preprocess.SLICINGS[record.slicing]).axes
        spacing = options.voxel_mm or (scan.spacing if scan.spacing_known else None)
        found = extent_of(tuple(scan.shape[axis] for axis in axes), spacing and tuple(spacing[axis] for axis in axes))
        if larger := found.beyond(weights.fingerprint.extent):
            other = _finds_in_whole_scans(name)
            hint = f"; the model {other} finds {name} in whole scans" if other else ""
            yield f"this scan is too large for {name}: it {larger}; do not trust the mask{hint}"


@cache  # to look into one shipped file takes 4 ms, 1/20 of a small scan
def _finds_in_whole_scans(name: str) -> str:
    """The shipped model among whose labels is what a model of crops is called, on one side or on either; empty if there is none."""
    labels = ((other, load(path).preprocess.labels) for other, path in shipped().items() if other != name)
    return next((other for other, known in labels if any(name in (label, label.partition(" ")[2]) for label in known)), "")
