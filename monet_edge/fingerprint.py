"""Does a scan look like those that a model was trained on? A few numbers of how it looks, and how far they lie from the usual.

Computed by the trainer over the training scans and by the runtime for every scan, by the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ModelError
from .extent import Extent
from .intensities import Statistics
from .preprocess import Preprocess, normalise
from .volume import Voxels

SIDE = 64  # pixels; coarse enough that a scan of any size takes under 50 ms
_SLICES = 12  # looked at, spread over the middle of the volume
_CELLS = 4  # of the layout, along either side
_BINS = 10
_PERCENT = (10, 25, 50, 75, 90)
COUNT = len(_PERCENT) + 3 + _CELLS**2 + _BINS
# Covariances are shrunk towards their diagonal, since sets may have fewer than 50 scans; 0.1 to 0.3 told foreign scans alike.
_SHRINK = 0.2
_FOLDS = 10
_QUANTILE = 98.5  # of the distances of training scans from the others: 1 of 67 lies beyond


@dataclass(frozen=True)
class Fingerprint:
    """How the training cases look: one cloud of features, or several (whole heads and stripped ones).

    Attributes
    ----------
    means : (K, F) float64
    inverses : (K, F, F) float64
        Of every cloud's covariance.
    limit : float
        Mahalanobis distance from the nearest cloud beyond which a scan counts as foreign.
    extent : Extent or None
        Of the largest; None in files of before.
    """

    means: np.ndarray
    inverses: np.ndarray
    limit: float
    extent: Extent | None = None

    def distance(self, row: np.ndarray) -> float:
        """Mahalanobis distance of a scan's features (F,) from the nearest cloud."""
        away = row - self.means
        return float(np.sqrt(np.einsum("ki,kij,kj->k", away, self.inverses, away).min()))

    def is_foreign(self, row: np.ndarray) -> bool:
        """True for the features of a scan unlike those of the training."""
        return self.distance(row) > self.limit


def look(images: Sequence[Voxels], record: Preprocess, statistics: Sequence[Statistics]) -> np.ndarray:
    """A few slices of all images (Z, H, W) of a case in canonical order, normalised for the network: (images, N, SIDE, SIDE) float32."""
    places = (np.linspace(0.1, 0.9, _SLICES) * (len(images[0]) - 1)).round().astype(int)
    chosen = dict.fromkeys(places.tolist())  # np.unique imports masked arrays, 7 ms of every start
    seen = [(image, record.of(number), found) for number, (image, found) in enumerate(zip(images, statistics, strict=True))]
    return np.array([[normalise(image[z], alone, found, (SIDE, SIDE)) for z in chosen] for image, alone, found in seen])


def features(looks: np.ndarray) -> np.ndarray:
    """What is typical of a case, from what `look` gives: of every image, one after the other.

    Returns
    -------
    (images * COUNT,) float64
        Quantiles and histogram of the foreground, how much neighbouring pixels differ, and the mean of every cell of a 4x4
        grid. Without the grid half of the abdomens pass for heads.
    """
    return np.concatenate([_features(slices) for slices in looks])


def _features(slices: np.ndarray) -> np.ndarray:
    inside = slices > 0
    foreground = slices[inside] if inside.any() else np.zeros(1, np.float32)
    interior = inside[:, 1:-1, 1:-1]
    centre = slices[:, 1:-1, 1:-1]
    across, down = (np.abs(other - centre)[interior] for other in (slices[:, 1:-1, 2:], slices[:, 2:, 1:-1]))
    around = (slices[:, 2:, 1:-1] + slices[:, :-2, 1:-1] + slices[:, 1:-1, 2:] + slices[:, 1:-1, :-2]) / 4
    steps = [float(step.mean()) if step.size else 0.0 for step in (across, down, np.abs(around - centre)[interior])]
    cell = SIDE // _CELLS
    layout = slices.reshape(-1, _CELLS, cell, _CELLS, cell).mean(axis=(0, 2, 4))
    ordered = np.sort(foreground)  # once for both; np.percentile would import masked arrays, 7 ms of every start
    inner = np.searchsorted(ordered, np.linspace(0, 1, _BINS + 1, dtype=np.float32)[1:-1])
    histogram = np.diff(inner, prepend=0, append=ordered.size) / ordered.size
    return np.concatenate([_percentiles(ordered), steps, layout.ravel(), histogram]).astype(np.float64)


def _percentiles(ordered: np.ndarray) -> np.ndarray:
    """Those at `_PERCENT` of sorted float32 numbers: the same bits as np.percentile's, in which weights files hold their fingerprints."""
    places = (len(ordered) - 1) * (np.array(_PERCENT) / 100)
    below = np.floor(places).astype(np.intp)
    low, high, weight = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)], places - np.floor(places)
    step = high - low
    return np.where(weight >= 0.5, high - step * (1 - weight), low + step * weight)


def learn(rows: np.ndarray, variants: Sequence[np.ndarray] = ()) -> Fingerprint | None:
    """The fingerprint of a training set; None for fewer than three scans, which cannot tell what is usual.

    Parameters
    ----------
    rows : (N, F)
        Features of the training scans, those of one patient after each other.
    variants : sequence of (N, F)
        Features of the same scans as augmentation may change them beyond recognition; together they are a cloud of their own.
    """
    if len(rows) < 3:  # each is held against the others, and one other has no spread
        return None

    def fit(chosen: np.ndarray, limit: float) -> Fingerprint:
        clouds = [rows[chosen], *([np.vstack([other[chosen] for other in variants])] if variants else [])]
        means, inverses = zip(*map(_cloud, clouds), strict=True)
        return Fingerprint(np.stack(means), np.stack(inverses), limit)

    # in blocks: the scans of one patient follow each other, and are left out together. Two of heart-cine's are so alike that with one of
    # them left in, 10 of 22 volumes of new patients were taken for foreign
    fold = np.arange(len(rows)) * min(_FOLDS, len(rows)) // len(rows)
    distances = [fit(fold != fold[i], 0.0).distance(row) for i, row in enumerate(rows)]
    return fit(np.ones(len(rows), bool), float(np.percentile(distances, _QUANTILE)))


def _cloud(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, sd = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    correlation = (1 - _SHRINK) * np.atleast_2d(np.cov((rows - mean).T / sd[:, None])) + _SHRINK * np.eye(len(sd))
    return mean, np.linalg.inv(correlation) / np.outer(sd, sd)


def to_record(fingerprint: Fingerprint) -> dict[str, Any]:
    """The fingerprint as JSON-able numbers of six digits."""
    numbers = {"means": fingerprint.means, "inverses": fingerprint.inverses}
    record = {name: [[*map(_short, row.ravel())] for row in array] for name, array in numbers.items()}
    known = fingerprint.extent
    extent = known and {"slices": known.slices, "mm": known.mm and [*map(_short, known.mm)]}
    return {**record, "limit": _short(fingerprint.limit), **({"extent": extent} if extent else {})}


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def from_record(record: Any, images: int = 1) -> Fingerprint:
    """Read what `to_record` gave, from an untrusted file, of a model that takes so many images of a case.

    Raises
    ------
    ModelError
        If it is anything else.
    """
    try:
        count = COUNT * images
        means = np.array(record["means"], np.float64).reshape(-1, count)
        inverses = np.array(record["inverses"], np.float64).reshape(len(means), count, count)
        limit = float(record["limit"])
        extent = _read_extent(record["extent"]) if "extent" in record else None
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ModelError(f"its fingerprint of the training scans is not valid: {error}") from None
    lengths = extent.mm if extent and extent.mm else ()
    if not len(means) or not (np.isfinite(means).all() and np.isfinite(inverses).all() and limit >= 0 and np.isfinite(lengths).all()):
        raise ModelError("its fingerprint of the training scans is not valid: expected finite numbers")
    return Fingerprint(means, inverses, limit, extent)


def _read_extent(record: Any) -> Extent:
    depth, height, width = map(float, record["mm"] or (0, 0, 0))
    return Extent(int(record["slices"]), (depth, height, width) if record["mm"] else None)
