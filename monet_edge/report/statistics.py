"""What a mask says in numbers, label by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..quality import Expected
from ..volume import Scan, orient

OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))


@dataclass(frozen=True)
class LabelStatistics:
    """One label of one scan.

    Attributes
    ----------
    label : int
    name : str
    voxels : int
    ml : float
    box : ((x, y, z), (x, y, z)) or None
        First and last voxel, counted from 0 along the stored axes; None, as all that follows, where the label is absent.
    centroid_mm : (x, y, z) or None
        Mean voxel centre in world coordinates: right, anterior, superior.
    mean, sd, minimum, maximum : float or None
        The scan's scaled intensities inside, NaN and infinities left out; the SD is the population's.
    touches : tuple of str
        The ends of the volume that the label reaches: L, R, P, A, I, S. The structure may go on beyond them.
    expected : Expected or None
        The Dice that it can be expected to have, where the model knows.
    """

    label: int
    name: str
    voxels: int
    ml: float
    box: tuple[tuple[int, ...], tuple[int, ...]] | None
    centroid_mm: tuple[float, ...] | None
    mean: float | None
    sd: float | None
    minimum: float | None
    maximum: float | None
    touches: tuple[str, ...]
    expected: Expected | None = None


def measure(scan: Scan, mask: np.ndarray, names: Sequence[str], expected: Sequence[Expected | None] = ()) -> tuple[LabelStatistics, ...]:
    """Measure every label of a mask in one pass over its planes; nothing of the volume's size is allocated.

    Parameters
    ----------
    scan : Scan
    mask : (X, Y, Z) uint8
        On the scan's grid.
    names : sequence of str
        Of the labels 1, 2, ...
    expected : sequence of Expected or None
        The Dice that they can be expected to have; empty where nobody knows.
    """
    planes: dict[int, list[tuple[float, ...]]] = {label: [] for label in range(1, len(names) + 1)}
    for z in range(mask.shape[2]):
        columns = np.flatnonzero(mask[:, :, z].any(axis=0))
        if not columns.size:
            continue
        rows = np.flatnonzero(mask[:, columns[0] : columns[-1] + 1, z].any(axis=1))
        # all else is looked at where there are labels only: counting a whole plane of 512x512 takes 1 ms
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1), z
        for label in planes:
            inside = mask[box] == label
            if inside.any():
                planes[label].append(_plane(scan, inside, box))
    of_each = expected or (None,) * len(names)
    return tuple(_combine(scan, label, names[label - 1], planes[label], of_each[label - 1]) for label in planes)


def _plane(scan: Scan, inside: np.ndarray, box: tuple[slice, slice, int]) -> tuple[float, ...]:
    """What a box of one plane adds: voxels, sums and ranges of x, y, z; of finite intensities number, mean, squared deviations, range."""
    counts = np.count_nonzero(inside, axis=1), np.count_nonzero(inside, axis=0)  # of x, of y
    places = [np.flatnonzero(count) + first for count, first in zip(counts, (box[0].start, box[1].start), strict=True)]
    sums = [each @ count[count > 0] for each, count in zip(places, counts, strict=True)]
    with np.errstate(invalid="ignore"):  # a signalling NaN would print a warning
        # in the order of memory, and by `compress`, which takes a quarter of the time of a mask in brackets
        values = np.compress(inside.ravel("F"), scan.voxels[box].ravel("F")).astype(np.float64) * scan.slope + scan.inter
    finite = np.isfinite(values)
    values = values if finite.all() else values[finite]
    mean = values.mean() if values.size else 0.0
    spread = (values.size, mean, np.square(values - mean).sum(), values.min(initial=np.inf), values.max(initial=-np.inf))
    ends = [each[end] for each in places for end in (0, -1)]
    return (counts[0].sum(), *sums, *ends, box[2], *spread)


def _combine(scan: Scan, label: int, name: str, planes: list[tuple[float, ...]], expected: Expected | None) -> LabelStatistics:
    if not planes:
        return LabelStatistics(label, name, 0, 0.0, None, None, None, None, None, None, ())
    count, x, y, x0, x1, y0, y1, z, finite, mean, squares, low, high = np.array(planes, np.float64).T
    voxels = count.sum()
    centre = np.array([x.sum(), y.sum(), (z * count).sum()]) / voxels
    first, last = (tuple(int(end) for end in ends) for ends in ((x0.min(), y0.min(), z.min()), (x1.max(), y1.max(), z.max())))
    overall = (finite * mean).sum() / max(finite.sum(), 1)
    # the parallel form of Chan, Golub and LeVeque (1979): exact where a sum of squares would cancel
    variance = (squares.sum() + (finite * np.square(mean - overall)).sum()) / max(finite.sum(), 1)
    measurable = bool(finite.sum())
    return LabelStatistics(
        label=label,
        name=name,
        voxels=int(voxels),
        ml=float(voxels) * scan.voxel_ml,
        box=(first, last),
        centroid_mm=tuple(float(value) for value in scan.affine[:3, :3] @ centre + scan.affine[:3, 3]),
        mean=float(overall) if measurable else None,
        sd=float(np.sqrt(variance)) if measurable else None,
        minimum=float(low.min()) if measurable else None,
        maximum=float(high.max()) if measurable else None,
        touches=_touches(scan, first, last),
        expected=expected,
    )


def axis_codes(scan: Scan) -> str:
    """Where the stored axes X, Y, Z point, to the nearest 90 degrees, such as "LAS"."""
    wanted = "SAR"
    orientation = orient(scan.affine, wanted)
    codes = {axis: OPPOSITE[code] if flip else code for axis, flip, code in zip(orientation.axes, orientation.flips, wanted, strict=True)}
    return "".join(codes[axis] for axis in range(3))


def _touches(scan: Scan, first: tuple[int, ...], last: tuple[int, ...]) -> tuple[str, ...]:
    ends = []
    for code, low, high, size in zip(axis_codes(scan), first, last, scan.shape, strict=True):
        ends += [OPPOSITE[code]] * (low == 0) + [code] * (high == size - 1)
    return tuple(ends)


def describe(labels: Sequence[LabelStatistics]) -> list[dict[str, Any]]:
    """The statistics as JSON-able records, rounded to six significant digits, whatever the scale of the scan."""
    return [
        {
            "label": label.label,
            "name": label.name,
            "voxels": label.voxels,
            "ml": _significant(label.ml),
            "box_first": None if label.box is None else list(label.box[0]),
            "box_last": None if label.box is None else list(label.box[1]),
            "centroid_mm": None if label.centroid_mm is None else [_significant(round(value, 6)) for value in label.centroid_mm],
            **{key: _significant(getattr(label, key)) for key in ("mean", "sd", "minimum", "maximum")},
            "touches": list(label.touches),
            **_dice(label.expected),
        }
        for label in labels
    ]


def _dice(expected: Expected | None) -> dict[str, float | None]:
    found = (None,) * 3 if expected is None else (expected.dice, expected.low, expected.high)
    return dict(zip(("expected_dice", "expected_low", "expected_high"), (value and round(value, 3) for value in found), strict=True))


def _significant(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
