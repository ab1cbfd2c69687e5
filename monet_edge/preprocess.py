"""What happens to a scan's intensities and geometry before and after the network: the one implementation, for training and use.

The record travels inside the weights file, so nobody has to know how a model was trained. Volumes here are in canonical
order (Z, H, W), see `volume.to_canonical`, in their own dtype; nothing but single slices is ever converted to float. An array
travels with what scales it, as `volume.Voxels`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .errors import ModelError
from .volume import Voxels

INTENSITIES = ("window", "zscore", "percentile")
# Axis codes of (Z, H, W): what one looks at is seen as on a radiologist's screen, the patient's left on the right.
SLICINGS = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
QUANTILES = (0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5)
MAX_SIZE = 4096
_CHUNK = 1 << 20  # voxels converted to float64 at a time


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a model wants its slices, and how its output becomes a mask.

    Attributes
    ----------
    size : int
        Height and width of the network's input, pixels.
    slicing : {"axial", "coronal", "sagittal"}
        Which way the volume is cut.
    context : int
        Neighbouring slices on either side that enter as channels too: the network has ``2 * context + 1``.
    intensity : {"window", "zscore", "percentile"}
        What ``low`` and ``high`` are: HU (or the scan's own units), standard deviations from the mean of the
        foreground, or percentiles of the foreground (out of `QUANTILES`). They become 0 and 1; background becomes 0.
    low, high : float
        The intensities that become 0 and 1.
    threshold : float
        A pixel of a binary mask belongs to the structure above this probability.
    labels : tuple of str
        Names of the labels 1, 2, ... in the mask.
    """

    size: int
    slicing: str
    context: int
    intensity: str
    low: float
    high: float
    threshold: float
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = {
            f"size must be 1 to {MAX_SIZE}": type(self.size) is not int or not 1 <= self.size <= MAX_SIZE,
            f"slicing must be one of {', '.join(SLICINGS)}": self.slicing not in SLICINGS,
            "context must be 0 to 8": type(self.context) is not int or not 0 <= self.context <= 8,
            f"intensity must be one of {', '.join(INTENSITIES)}": self.intensity not in INTENSITIES,
            "low must be below high, both finite": not _numbers(self.low, self.high) or not -1e9 < self.low < self.high < 1e9,
            "threshold must lie between 0 and 1": not _numbers(self.threshold) or not 0 < self.threshold < 1,
            f"percentiles must be out of {QUANTILES}": self.intensity == "percentile"
            and not all(value in QUANTILES for value in (self.low, self.high)),
        }
        for problem, found in problems.items():
            if found:
                raise ModelError(f"the preprocessing record is not valid: {problem}; found {asdict(self)}")

        try:
            check_labels(self.labels)
        except ModelError as error:
            raise ModelError(f"the preprocessing record is not valid: {error}") from None

    @property
    def classes(self) -> int:
        """Channels of the network's output: 1 for one label, else background and labels."""
        return 1 if len(self.labels) == 1 else len(self.labels) + 1


def check_labels(names: Sequence[str]) -> None:
    """Refuse names of labels that a weights file cannot hold: whoever trains asks before it does.

    Raises
    ------
    ModelError
        If they are not 1 to 255 different names of 1 to 100 characters that can be printed.
    """
    if not 1 <= len(names) <= 255:
        raise ModelError(f"there must be 1 to 255 labels, found {len(names)}")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= 100:
            raise ModelError(f"a label's name must be 1 to 100 characters, found {name!r:.120}")
        if not name.isprintable():
            raise ModelError(f"a label's name holds characters that cannot be printed: {name!a}")
        if names.count(name) > 1:
            raise ModelError(f"two labels are called {name!r}")


def _numbers(*values: Any) -> bool:
    return all(type(value) in (int, float) for value in values)


def to_json(record: Preprocess) -> str:
    """The record as JSON."""
    return json.dumps(asdict(record), separators=(",", ":"))


def from_json(text: str) -> Preprocess:
    """Read a record; missing and unknown keys are errors.

    Raises
    ------
    ModelError
        If the text is not JSON or not a valid record.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the preprocessing record is not JSON: {error}") from None
    names = {field.name for field in fields(Preprocess)}
    if not isinstance(data, dict) or data.keys() != names or not isinstance(data["labels"], list):
        raise ModelError(f"the preprocessing record must hold exactly {', '.join(sorted(names))}")
    if not isinstance(data["slicing"], str) or not isinstance(data["intensity"], str):
        raise ModelError("the preprocessing record's slicing and intensity must be names")
    return Preprocess(**{**data, "labels": tuple(data["labels"])})


@dataclass(frozen=True)
class Statistics:
    """What one volume's intensities are like, in the scan's scaled units.

    Attributes
    ----------
    background : float
        The minimum if more than 10 % of the voxels have it (a z-scored, skull-stripped volume) or nothing, or no more than
        0.5 % of the voxels, lies above 0 (a part of a CT that is all air and fat); else 0.
    floor : float
        Foreground lies above it: background + 3 % of (99.5th percentile - background).
    mean, sd : float
        Of the foreground.
    quantiles : tuple of float
        Of the foreground, at `QUANTILES` percent.
    foreground : float
        Share of all voxels.
    nonfinite : int
        Voxels that are NaN or infinite; they count as background.
    """

    background: float
    floor: float
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    foreground: float
    nonfinite: int

    @property
    def constant(self) -> bool:
        """True if there is no foreground, or all of it has one intensity."""
        return self.sd == 0


def measure(volume: Voxels) -> Statistics:
    """Measure a volume once; the same voxels give the same bits in any axis order, because they are sorted first.

    Parameters
    ----------
    volume : Voxels
        Of any shape. Sorting takes one copy in the stored dtype.

    Returns
    -------
    Statistics
    """
    slope, inter = volume.slope, volume.inter
    values = volume.stored.flatten(order="K")
    values.sort()
    if values.dtype.kind == "f":  # what is not finite lies at the ends now, NaN last: no mask of it, no third copy
        inf = values.dtype.type(np.inf)
        values = values[np.searchsorted(values, -inf, "right") : np.searchsorted(values, inf, "left")]
    nonfinite = volume.stored.size - values.size
    if slope < 0:
        values = values[::-1]
    if not values.size:
        return Statistics(0.0, 0.0, 0.0, 0.0, (0.0,) * len(QUANTILES), 0.0, nonfinite)

    def scaled(index: int) -> float:
        return float(values[index]) * slope + inter

    last = values.size - 1
    lowest = scaled(0)
    shared = bisect_right(range(values.size), lowest, key=scaled)  # how many voxels have the minimum
    bright = scaled(int(0.995 * last))
    below = bright < 0 or scaled(last) <= 0  # then 0 is no background that anything would lie above
    background = lowest if shared > 0.1 * values.size or below else 0.0
    floor = background + 0.03 * (bright - background)
    first = bisect_right(range(values.size), floor, key=scaled)
    count = values.size - first
    if count == 0:
        return Statistics(background, floor, background, 0.0, (background,) * len(QUANTILES), 0.0, nonfinite)
    chunks = range(first, values.size, _CHUNK)
    mean = sum(float(values[i : i + _CHUNK].sum(dtype=np.float64)) for i in chunks) / count
    variance = sum(float(np.square(values[i : i + _CHUNK] - np.float64(mean)).sum()) for i in chunks) / count
    quantiles = tuple(scaled(first + round(q / 100 * (count - 1))) for q in QUANTILES)
    sd = float(np.sqrt(variance)) * abs(slope)
    return Statistics(background, floor, mean * slope + inter, sd, quantiles, count / volume.stored.size, nonfinite)


def blank(record: Preprocess, statistics: Statistics) -> bool:
    """True if the network would see nothing: a constant volume or, unless a fixed window is used, a constant foreground."""
    return statistics.foreground == 0 or (statistics.constant and record.intensity != "window")


def span(record: Preprocess, statistics: Statistics) -> tuple[float, float, float]:
    """The intensities of one volume that become 0 and 1, and the floor at or below which everything is background."""
    if record.intensity == "window":
        return record.low, record.high, -np.inf
    if record.intensity == "zscore":
        low, high = (statistics.mean + sds * statistics.sd for sds in (record.low, record.high))
    else:
        low, high = (statistics.quantiles[QUANTILES.index(percent)] for percent in (record.low, record.high))
    return low, high, statistics.floor


def normalise(raw: Voxels, record: Preprocess, statistics: Statistics) -> np.ndarray:
    """One slice (H, W) to float32 in [0, 1]; background, NaN and infinities become 0."""
    low, high, floor = span(record, statistics)
    if not high > low:
        return np.zeros(raw.stored.shape, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        x = raw.scaled()
        y = np.clip((x - low) / (high - low), 0, 1)
        y[~((x > floor) & np.isfinite(x))] = 0
    return np.ascontiguousarray(y, np.float32)


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of the last two axes, pixel centres at half-integers, edges repeated.

    Parameters
    ----------
    images : (..., H, W) float32
    height, width : int
        Pixels wanted.

    Returns
    -------
    (..., height, width) float32
        The very same array if it has that size already.

    Notes
    -----
    The paper down-samples bilinearly ("Training, validation and independent testing datasets").
    """
    for axis, target in ((-2, height), (-1, width)):
        source = images.shape[axis]
        if source == target:
            continue
        centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
        lower = np.minimum(centre.astype(np.intp), max(source - 2, 0))
        weight = (centre - lower).astype(np.float32)
        if axis == -2:
            weight = weight[:, None]
        below, above = (np.take(images, index, axis) for index in (lower, np.minimum(lower + 1, source - 1)))
        images = below + weight * (above - below)
    return images


def network_input(volume: Voxels, z: int, record: Preprocess, statistics: Statistics) -> np.ndarray:
    """What the network sees for slice ``z`` of a canonical volume (Z, H, W).

    Returns
    -------
    (2 * context + 1, size, size) float32
        The slice between its neighbours; beyond either end the last slice repeats.
    """
    around = range(z - record.context, z + record.context + 1)
    slices = (volume[min(max(i, 0), len(volume) - 1)] for i in around)
    return np.stack([resize(normalise(raw, record, statistics), record.size, record.size) for raw in slices])


def to_mask(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities (C, H, W), already of the wanted size, to labels (H, W) uint8: threshold for C = 1, else the likeliest."""
    if len(probability) == 1:
        return (probability[0] > threshold).astype(np.uint8)
    return probability.argmax(axis=0).astype(np.uint8)
