"""One scan segmented for the page: its mask, what is said of it, and the probabilities that another threshold needs."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import preprocess
from ..doubts import doubts, unlike
from ..formats import Header
from ..model import Model, Progress
from ..options import Options
from ..postprocess import remove_lone
from ..report.slices import Finding, legend, window
from ..report.statistics import describe, measure
from ..volume import orient
from ..volume.labels import colours
from ..weights import Weights

LOWEST, HIGHEST = 0.01, 0.95  # thresholds that can be chosen; brain-flair has its own at 0.04


@dataclass(frozen=True)
class Likely:
    """The probabilities of a binary model where they reach the lowest threshold: a box, a small part of most scans.

    Attributes
    ----------
    box : tuple of slice
    values : (X', Y', Z') float32
    """

    box: tuple[slice, ...]
    values: np.ndarray

    def mask(self, shape: tuple[int, ...], threshold: float) -> np.ndarray:
        """(X, Y, Z) uint8: 1 where the probability is above the threshold."""
        mask = np.zeros(shape, np.uint8, order="F")
        mask[self.box] = self.values > threshold
        return mask


@dataclass(frozen=True)
class Found:
    """What there is to show of one scan.

    Attributes
    ----------
    finding : Finding
    weights : Weights
    statistics : Statistics
        Of the scan's intensities.
    threshold : float
    likely : Likely or None
        None where a threshold means nothing: the likeliest of several labels counts.
    seconds : float
        From reading to the mask.
    """

    finding: Finding
    weights: Weights
    statistics: preprocess.Statistics
    threshold: float
    likely: Likely | None
    seconds: float


def segment(header: Header, model: Model, volume: int | None, progress: Progress) -> Found:
    """Read and segment a scan.

    Raises
    ------
    ScanError, ResourceError
        As `Model.read_scan`.
    """
    start = time.perf_counter()
    weights = model.weights
    record = weights.preprocess
    options = Options(volume=volume, probabilities=weights.spec.classes == 1)
    scan = model.read_scan(header, options)
    result = model.segment_scan(scan, options, progress=progress)
    labels = measure(scan, result.mask, record.labels, result.expected)
    title = f"{weights.name} · {weights.kind}"
    finding = Finding(scan, result.mask, labels, window(record, result.statistics), record.slicing, title, result.warnings)
    likely = None if result.probability is None else _likely(result.probability)
    return Found(finding, weights, result.statistics, record.threshold, likely, time.perf_counter() - start)


def with_threshold(found: Found, threshold: float) -> Found:
    """The same scan with another threshold: the mask that segmenting it with ``Options(threshold=...)`` gives."""
    assert found.likely is not None
    scan, record = found.finding.scan, found.weights.sliced
    options = Options(threshold=threshold)
    mask = found.likely.mask(scan.shape, threshold)
    if not record.lone:
        remove_lone(orient(scan.affine, preprocess.SLICINGS[record.slicing]).turn(mask))
    doubtful = (
        *doubts(found.weights, [found.statistics], mask, options),
        *unlike(found.weights, [scan], [found.statistics], mask, options),
    )
    warnings = (*scan.warnings, *doubtful)
    finding = replace(found.finding, mask=mask, labels=measure(scan, mask, record.labels), warnings=warnings)
    return replace(found, finding=finding, threshold=threshold)


def tell(found: Found) -> dict[str, Any]:
    """What the page shows of it, JSON-able."""
    finding, weights = found.finding, found.weights
    shades = colours(weights.preprocess.labels)
    labels = [{**record, "colour": list(shade)} for record, shade in zip(describe(finding.labels), shades, strict=True)]
    rows = [{"name": name, "sides": [[one.side, one.label.label] for one in entries]} for name, entries in legend(finding.labels)]
    bounds = None if found.likely is None else {"low": LOWEST, "high": HIGHEST, "own": weights.preprocess.threshold}
    return {
        "model": weights.name,
        "labels": labels,
        "legend": rows,
        "warnings": list(finding.warnings),
        "window": [float(limit) for limit in finding.limits],
        "threshold": found.threshold,
        "thresholds": bounds,
        "seconds": round(found.seconds, 2),
        "centre": centre(finding),
    }


def centre(finding: Finding) -> list[float] | None:
    """Where to look first, mm: in the model's plane, the slice with most of the mask; there, the labelled voxel nearest to its middle."""
    scan, axis = finding.scan, orient(finding.scan.affine, preprocess.SLICINGS[finding.slicing]).axes[0]
    areas = [np.count_nonzero(labels) for labels in np.moveaxis(finding.mask, axis, 0)]
    if not any(areas):
        return None
    places = np.argwhere(finding.mask.take(int(np.argmax(areas)), axis))
    nearest = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return [float(mm) for mm in scan.affine[:3, :3] @ np.insert(nearest, axis, np.argmax(areas)) + scan.affine[:3, 3]]


def _likely(probability: np.ndarray) -> Likely:
    reached = probability > LOWEST
    places = [np.flatnonzero(reached.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0) for found in places)
    return Likely(box, probability[box].copy(order="F"))
