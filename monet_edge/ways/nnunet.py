"""The way of a case through a network of nnU-Net's: as stored, cropped, normalised, resampled, in tiles, and all of that back.

Slice by slice: besides the scans, the mask and the network's workspace, a few slices of each thread are in memory, and a byte a voxel
where a channel is normalised inside a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from .. import limits
from ..engine import Engine
from ..errors import ScanError
from ..extent import check_lengths
from ..intensities import Statistics, measure
from ..nnunet.case import Box, Images, bounding_box
from ..nnunet.predict import Prediction
from ..nnunet.record import Record
from ..nnunet.resample import Change, new_length, separate_axis
from ..options import Options
from ..passes import Progress
from ..tiles import Tiling
from ..volume import Orientation, Scan, geometry, orient
from ..weights import Weights
from .contract import Grid, Segmentation, Turn, Way


@dataclass(frozen=True)
class Grids:
    """The three grids of a case: as stored, turned to (Z, H, W) and cropped, and as the network sees it.

    Attributes
    ----------
    record : Record
    orientation : Orientation
        From (X, Y, Z) as stored.
    spacing : (3,) float
        mm along Z, H, W.
    shape : (3,) int
        Of what is not cut away.
    """

    record: Record
    orientation: Orientation
    spacing: tuple[float, ...]
    shape: tuple[int, ...]

    @cached_property
    def _target(self) -> tuple[float, ...]:
        return (self.spacing[0], *self.record.spacing)

    @cached_property
    def there(self) -> Change:
        """To the network's grid."""
        old = (self.shape[1], self.shape[2])
        new = tuple(map(new_length, old, self.spacing[1:], self.record.spacing))
        return Change(old, (new[0], new[1]), self.record.image, separate_axis(self.record.image, self.spacing, self._target))

    @cached_property
    def back(self) -> Change:
        """Of logits, to the case's."""
        how = self.record.logits
        return Change(self.there.new, self.there.old, how, separate_axis(how, self._target, self.spacing))

    @cached_property
    def tiling(self) -> Tiling:
        """Of a slice on the network's grid."""
        return Tiling(self.there.new, self.record.patch)


def grids_of(record: Record, grid: Grid, options: Options) -> Grids:
    """Of a scan, not cropped yet, whose voxels measure what is stated, or else what the scan says, where that is not false.

    Raises
    ------
    ScanError
        If it is so thin that nothing is left of it at the model's spacing, longer than a scanner takes, or what its voxels measure is
        not known.
    """
    stored = Orientation((2, 1, 0), (False, False, False))  # (X, Y, Z) as the (z, y, x) of nnU-Net's readers
    turned = orient(grid.affine, "SAR") if record.reorient else stored
    axes, flips = tuple(turned.axes[axis] for axis in record.transpose), tuple(turned.flips[axis] for axis in record.transpose)
    spacing = options.voxel_mm or (stated_spacing(grid) if grid.spacing_known else None)
    if spacing is None:
        name = f"{grid.path}: " if grid.path else ""
        raise ScanError(f"{name}what its voxels measure is not known, and the model works in millimetres", "State it with {spacing}.")
    shape = tuple(grid.shape[axis] for axis in axes)
    check_lengths(shape, [spacing[axis] for axis in axes])
    found = Grids(record, Orientation(axes, flips), tuple(spacing[axis] for axis in axes), shape)
    if 0 in found.there.new:
        step = " x ".join(f"{mm:.3g}" for mm in found.spacing)
        words = f"{' x '.join(map(str, shape))} voxels of {step} mm leave none at the model's {record.spacing[0]:.3g} mm"
        raise ScanError(words, "State what they measure with {spacing}.")
    return found


def stated_spacing(grid: Grid) -> tuple[float, ...]:
    """mm along X, Y, Z as a NIfTI header states it, in float32, which nnU-Net goes by: a last digit can decide how a shape is rounded."""
    measured = tuple(float(np.float32(mm)) for mm in geometry.spacing(grid.affine))
    try:
        stated = tuple(map(float, grid.header["pixdim"][1:4]))  # type: ignore[union-attr]  # a Header, or another format's, has none
    except (AttributeError, TypeError, KeyError, ValueError, IndexError):
        return measured
    return stated if np.allclose(stated, measured, rtol=1e-5, atol=0) else measured


def _record(weights: Weights) -> Record:
    assert isinstance(weights.preprocess, Record)  # by which this way was chosen
    return weights.preprocess


def memory(weights: Weights, engine: Engine, grids: Sequence[Grid], options: Options) -> int:
    """See `contract.Way`."""
    record = _record(weights)
    found = grids_of(record, grids[0], options)
    old, new = prod(found.there.old), prod(found.there.new)
    padded = prod(found.tiling.padded)
    # of a slice: float64, twice while it is resampled; sums; logits that are resampled back, in float64 and float16
    pixels = record.inputs * (4 * padded + 20 * (old + new)) + record.outputs * 4 * padded + record.heads * 20 * (old + new)
    masked = 3 if any(channel.masked for channel in record.channels) else 0
    return limits.peak(
        found.shape,
        np.dtype((np.void, sum(grid.dtype.itemsize for grid in grids))),
        classes=record.heads,
        workspace=engine.workspace_bytes(*record.patch) + (engine.threads + 1) * pixels + masked * prod(found.shape),
        threads=engine.threads,
        probabilities=options.probabilities,
        cleaning=options.cleaning,
    )


def segment(
    weights: Weights, engine: Engine, scans: Sequence[Scan], options: Options, progress: Progress | None, turn: Turn
) -> Segmentation:
    """See `contract.Way`."""
    record = _record(weights)
    grids = grids_of(record, scans[0], options)
    images = [scan.turned(grids.orientation) for scan in scans]
    box = bounding_box(images)
    cropped = [image[box] for image in images]
    grids = replace(grids, shape=cropped[0].stored.shape)
    mask = np.zeros(scans[0].shape, np.uint8, order="F")
    labels = _Labels(record, grids, mask, _kept(record, mask.shape, options), box)
    slices = Images(record.channels, cropped, grids.there)
    prediction = Prediction(record, slices, grids.tiling, options.flip, labels.write)
    count, each = len(slices), prediction.per_slice

    def report(done: int) -> None:
        if progress is not None:
            progress(done // each, count)

    with turn as dealt:
        engine.map(count * each, record.patch, prediction.load, prediction.store, report, dealt)
    statistics = [measure(image, engine.threads) for image in images]
    warnings = [warning for scan in scans for warning in scan.warnings]
    return Segmentation(mask, labels.kept, statistics[0], (*warnings, *_doubts(weights, statistics, mask, options)))


def _kept(record: Record, shape: tuple[int, ...], options: Options) -> np.ndarray | None:
    """Probabilities of a case that nobody has looked at: all background, which of regions is none."""
    if not options.probabilities:
        return None
    kept = np.zeros((*shape, record.heads), np.float32, order="F")
    if not record.regions:
        kept[..., 0] = 1
    return kept


class _Labels:
    """From logits of slices to the mask, and to the probabilities where they are kept."""

    def __init__(self, record: Record, grids: Grids, mask: np.ndarray, kept: np.ndarray | None, box: Box) -> None:
        self.kept = kept
        self._record, self._back = record, grids.back
        self._mask = grids.orientation.turn(mask)[box]
        self._kept = None if kept is None else grids.orientation.turn(kept)[box]

    def write(self, z: int, logits: np.ndarray) -> None:
        """Slice z of what is not cut away, from its logits (heads, H, W) float32, rounded to float16, on the network's grid."""
        if self._back.old != self._back.new:
            logits = self._back(logits.astype(np.float16)).astype(np.float32)
        self._mask[z] = _of_regions(logits, self._record.regions) if self._record.regions else likeliest(logits)
        if self._kept is not None:
            self._kept[z] = np.moveaxis(_sigmoid(logits) if self._record.regions else _softmax(logits), 0, -1)


def likeliest(logits: np.ndarray) -> np.ndarray:
    """Which of the planes (C, H, W) is the largest, of equals the first: (H, W) uint8. NumPy's `argmax` takes fifty times as long."""
    best, labels = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    for label, plane in enumerate(logits[1:], 1):
        np.maximum(labels, (plane > best) * np.uint8(label), out=labels)  # a later label is a greater number
        np.maximum(best, plane, out=best)
    return labels


def _of_regions(logits: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Every region writes its label where it is likelier than not, over those before it."""
    labels = np.zeros(logits.shape[1:], np.uint8)
    for label, plane in zip(order, logits, strict=True):
        labels[plane > 0] = label
    return labels


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=0))
    return raised / raised.sum(axis=0)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))  # float32 ends at exp(88)


def _doubts(weights: Weights, statistics: Sequence[Statistics], mask: np.ndarray, options: Options) -> list[str]:
    """What makes the result doubtful."""
    found, nonfinite = [], sum(each.nonfinite for each in statistics)
    if nonfinite:
        found.append(f"{nonfinite:,} voxels are NaN or infinite; they count as 0")
    if not mask.any():
        found.append("the mask is empty: the model found nothing in this scan")
    if options.threshold is not None:
        found.append(f"the threshold is ignored: {weights.name} is of nnU-Net, which has none")
    if options.flip and not _record(weights).mirror:
        found.append(f"{weights.name} was trained without mirrored slices: they are not averaged with (flip)")
    return found


WAY = Way(Record, memory, segment)
