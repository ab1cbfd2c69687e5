"""What happens to a scan's intensities and geometry before and after the network: the one implementation, for training and use.

The record travels inside the weights file, so nobody has to know how a model was trained. Volumes here are in canonical
order (Z, H, W), see `volume.to_canonical`, in their own dtype; the compiled kernels of `engine.voxels` read them as they lie. An
array travels with what scales it, as `volume.Voxels`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from .errors import ModelError
from .volume import Voxels

INTENSITIES = ("window", "zscore", "percentile")
# Axis codes of (Z, H, W): what one looks at is seen as on a radiologist's screen, the patient's left on the right.
SLICINGS = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
QUANTILES = (0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5)
MAX_SIZE = 4096


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

    @property
    def inputs(self) -> int:
        """Channels of the network's input: a slice and its neighbours."""
        return 2 * self.context + 1

    @property
    def outputs(self) -> int:
        """Channels of the network's output: `classes`."""
        return self.classes

    @property
    def images(self) -> int:
        """Scans of a case."""
        return 1

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.size, self.size

    @property
    def window(self) -> tuple[float, float] | None:
        """The fixed intensities that become 0 and 1; None where they are the scan's own."""
        return (self.low, self.high) if self.intensity == "window" else None


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


def measure(volume: Voxels, threads: int = 1) -> Statistics:
    """Measure a volume, of which no copy is made.

    The same voxels give the same bits in any axis order, and with any number of threads: all comes from counts and sums of integers.

    Parameters
    ----------
    volume : Voxels
        Of any shape.
    threads : int
        That count.

    Returns
    -------
    Statistics
    """
    slope, inter, size = volume.slope, volume.inter, volume.stored.size
    order, sign = _kernels().Sorted(volume.stored, threads), -1 if slope < 0 else 1
    nonfinite, last = size - order.count, order.count - 1
    if last < 0:
        return Statistics(0.0, 0.0, 0.0, 0.0, (0.0,) * len(QUANTILES), 0.0, nonfinite)

    def scaled(key: int) -> float:
        return order.value(sign * key) * slope + inter

    def select(*ranks: int) -> list[int]:
        """The voxels' keys by their ranks among the scaled intensities, in whose order ``sign * key`` is."""
        return [sign * key for key in order.select([last - rank if slope < 0 else rank for rank in ranks])]

    first, bright_key, end = select(0, int(0.995 * last), last)
    lowest, bright = scaled(first), scaled(bright_key)
    alike = sorted((sign * first, sign * (_above(lowest, scaled, first, end) - 1)))  # the keys of the minimum
    shared = order.rank(alike[1] + 1) - order.rank(alike[0])
    below = bright < 0 or scaled(end) <= 0  # then 0 is no background that anything would lie above
    background = lowest if shared > 0.1 * order.count or below else 0.0
    floor = background + 0.03 * (bright - background)
    start = _above(floor, scaled, first, end)
    if start > end:
        return Statistics(background, floor, background, 0.0, (background,) * len(QUANTILES), 0.0, nonfinite)
    seen = order.moments(*sorted((sign * start, sign * end)))
    keys = select(*(order.count - seen.count + round(q / 100 * (seen.count - 1)) for q in QUANTILES))
    mean, sd = seen.mean * slope + inter, float(np.sqrt(seen.variance)) * abs(slope)
    return Statistics(background, floor, mean, sd, tuple(map(scaled, keys)), seen.count / size, nonfinite)


def _above(limit: float, scaled: Callable[[int], float], first: int, end: int) -> int:
    """The first key whose intensity lies above a limit; end + 1 if none does. There may be more keys than `bisect` can count."""
    end += 1
    while first < end:
        middle = (first + end) // 2
        first, end = (first, middle) if scaled(middle) > limit else (middle + 1, end)
    return first


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


def normalise(raw: Voxels, record: Preprocess, statistics: Statistics, shape: tuple[int, int] | None = None) -> np.ndarray:
    """One slice (H, W) to float32 in [0, 1], then to another shape; background, NaN and infinities are 0.

    It is what `resize` makes of the slice of its own size, bit for bit, but none is made on the way.
    """
    low, high, floor = span(record, statistics)
    shape = shape or raw.stored.shape
    if not high > low:
        return np.zeros(shape, np.float32)
    target = np.empty(shape, np.float32)
    _kernels().fill(target, raw.stored, slope=raw.slope, inter=raw.inter, low=low, high=high, floor=floor)
    return target


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


class Inputs:
    """What the network sees of a canonical volume (Z, H, W), slice by slice: ``inputs(z)`` is (2 * context + 1, size, size) float32.

    The slice lies between its neighbours; beyond either end the last slice repeats. A slice is normalised and resized once and
    kept while the windows around its neighbours may need it, if slices are asked for about in order, by several threads at a time.
    """

    def __init__(self, volume: Voxels, record: Preprocess, statistics: Statistics, threads: int = 1) -> None:
        self._volume = volume
        self._make = partial(normalise, record=record, statistics=statistics, shape=(record.size, record.size))
        self._context, self._room = record.context, self.room(record, threads)
        self._kept: dict[int, Future[np.ndarray]] = {}
        self._lock = threading.Lock()

    @staticmethod
    def room(record: Preprocess, threads: int) -> int:
        """How many slices are kept: the windows in work, those of the threads that are about to begin, and the last one's."""
        return 3 * record.context + 2 * threads + 1

    def __call__(self, z: int) -> np.ndarray:
        around = range(z - self._context, z + self._context + 1)
        return np.stack([self._slice(min(max(i, 0), len(self._volume) - 1)) for i in around])

    def _slice(self, z: int) -> np.ndarray:
        with self._lock:
            found = self._kept.get(z)
            if found is None:
                made = self._kept[z] = Future()
                if len(self._kept) > self._room:
                    del self._kept[min(self._kept)]
        if found is not None:
            return found.result()
        try:
            made.set_result(self._make(self._volume[z]))
        except BaseException as error:  # for whoever waits, too
            made.set_exception(error)
        return made.result()


def network_input(volume: Voxels, z: int, record: Preprocess, statistics: Statistics) -> np.ndarray:
    """What the network sees for one slice, see `Inputs`."""
    return Inputs(volume, record, statistics)(z)


def to_mask(probability: np.ndarray, threshold: float, out: np.ndarray | None = None, kept: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Probabilities (C, H, W) to labels (H', W') uint8: above the threshold for C = 1, else the likeliest.

    Parameters
    ----------
    probability : (C, H, W) float32
    threshold : float
    out : (H', W') uint8, optional
        Where the labels go; probabilities are resized to its shape, as `resize` does.
    kept : sequence of (H', W') float32, optional
        Where the resized probabilities of every class go.
    """
    target = np.empty(probability.shape[1:], np.uint8) if out is None else out
    _kernels().assign(target, probability, threshold, kept)
    return target


def _kernels() -> ModuleType:
    from .engine import voxels  # here: it brings LLVM, which whoever only reads a record does not need

    return voxels
