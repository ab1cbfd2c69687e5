"""What happens to a scan's intensities and geometry before and after the network: the one implementation, for training and use.

The record travels inside the weights file, so nobody has to know how a model was trained. Volumes here are in canonical
order (Z, H, W), see `volume.to_canonical`, in their own dtype; the compiled kernels of `engine.voxels` read them as they lie. An
array travels with what scales it, as `volume.Voxels`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from .errors import ModelError
from .intensities import QUANTILES, Statistics
from .volume import Voxels

INTENSITIES, NEIGHBOURS = ("window", "zscore", "percentile"), ("nearest", "linear")
# Axis codes of (Z, H, W): what one looks at is seen as on a radiologist's screen, the patient's left on the right.
SLICINGS = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
MAX_SIZE, MAX_CONTEXT, MAX_IMAGES = 4096, 8, 16
FINEST, COARSEST = 0.001, 1000.0  # mm, of a pixel and between slices


@dataclass(frozen=True, kw_only=True)
class Channel:
    """What a further image of a case is, such as T1, and how it is normalised: ``intensity``, ``low`` and ``high`` as of `Preprocess`."""

    name: str
    intensity: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a model wants its slices, and how its output becomes a mask.

    Attributes
    ----------
    size : int
        Height and width of the network's input, pixels: of a whole slice squeezed into it or, with a ``spacing``, of a tile.
    slicing : {"axial", "coronal", "sagittal"}
        Which way the volume is cut.
    context : int
        Neighbouring slices on either side that enter as channels too: the network has ``2 * context + 1`` of every image of a case,
        those of the first image before those of the second.
    intensity : {"window", "zscore", "percentile"}
        What ``low`` and ``high`` are: HU (or the scan's own units), standard deviations from the mean of the
        foreground, or percentiles of the foreground (out of `QUANTILES`). They become 0 and 1; background becomes 0.
    low, high : float
        The intensities that become 0 and 1.
    threshold : float
        A pixel of a binary mask belongs to the structure above this probability.
    labels : tuple of str
        Names of the labels 1, 2, ... in the mask.
    spacing : float
        What a pixel of the network's input measures, mm, in both directions. Slices are resampled to it; one that is then larger
        than ``size`` goes through the network in tiles, one that is smaller lies in the middle of background. 0: every slice is
        squeezed to ``size``, whatever it measures.
    thickness : float
        Distance between a slice and its neighbours in the network's input, mm. 0: they are the scan's own next slices.
    neighbours : {"nearest", "linear"}
        Where no slice lies at that distance: the nearest one, or what lies between two.
    image : str
        What the scan is, or the first image of a case that has several, such as FLAIR; empty where nothing is said.
    lone : bool
        Whether a piece of the mask that lies in one slice only counts, see `postprocess.remove_lone`.
    others : tuple of Channel
        The further images of a case, on the grid of the first and in the order of their files. ``intensity``, ``low`` and ``high`` of
        the record itself are those of the first; each image is normalised by its own foreground.
    """

    size: int
    slicing: str
    context: int
    intensity: str
    low: float
    high: float
    threshold: float
    labels: tuple[str, ...]
    spacing: float = 0.0
    thickness: float = 0.0
    neighbours: str = "nearest"
    lone: bool = True
    image: str = ""
    others: tuple[Channel, ...] = ()

    def __post_init__(self) -> None:
        images: tuple[Preprocess | Channel, ...] = (self, *self.others)
        problems = {
            f"size must be 1 to {MAX_SIZE}": type(self.size) is not int or not 1 <= self.size <= MAX_SIZE,
            f"slicing must be one of {', '.join(SLICINGS)}": self.slicing not in SLICINGS,
            f"context must be 0 to {MAX_CONTEXT}": type(self.context) is not int or not 0 <= self.context <= MAX_CONTEXT,
            f"intensity must be one of {', '.join(INTENSITIES)}": not all(image.intensity in INTENSITIES for image in images),
            "low must be below high, both finite": not all(
                _numbers(image.low, image.high) and -1e9 < image.low < image.high < 1e9 for image in images
            ),
            "threshold must lie between 0 and 1": not _numbers(self.threshold) or not 0 < self.threshold < 1,
            f"spacing and thickness must be 0, or {FINEST:g} to {COARSEST:g} mm": not _numbers(self.spacing, self.thickness)
            or not all(length == 0 or FINEST <= length <= COARSEST for length in (self.spacing, self.thickness)),
            "lone must be true or false": type(self.lone) is not bool,
            f"neighbours must be one of {', '.join(NEIGHBOURS)}": self.neighbours not in NEIGHBOURS,
            f"percentiles must be out of {QUANTILES}": not all(
                value in QUANTILES for image in images if image.intensity == "percentile" for value in (image.low, image.high)
            ),
            f"images must be 1 to {MAX_IMAGES} with printable names of their own": not _are_names(self.names),
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
        """Channels of the network's input: a slice and its neighbours, of every image of a case."""
        return self.images * (2 * self.context + 1)

    @property
    def outputs(self) -> int:
        """Channels of the network's output: `classes`."""
        return self.classes

    @property
    def images(self) -> int:
        """Scans of a case."""
        return 1 + len(self.others)

    @property
    def names(self) -> tuple[str, ...]:
        """What the images of a case are."""
        return (self.image, *(other.name for other in self.others))

    def of(self, image: int) -> Preprocess:
        """The record of one image of a case alone, counted from 0."""
        if image == 0:
            return replace(self, others=()) if self.others else self
        other = self.others[image - 1]
        return replace(self, image=other.name, intensity=other.intensity, low=other.low, high=other.high, others=())

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.size, self.size

    @property
    def window(self) -> tuple[float, float] | None:
        """The fixed intensities that become 0 and 1; None where they are the scan's own."""
        return (self.low, self.high) if self.intensity == "window" else None

    @property
    def in_mm(self) -> bool:
        """True if what the network sees depends on what a voxel of the scan measures."""
        return self.spacing > 0 or (self.thickness > 0 and self.context > 0)


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


def _are_names(images: Sequence[Any]) -> bool:
    """Whether the images of a case can be called so; the only one need not be called anything."""
    if not all(isinstance(name, str) and len(name) <= 100 and name.isprintable() for name in images):
        return False
    return len(images) == 1 or (len(images) <= MAX_IMAGES and "" not in images and len({*images}) == len(images))


def to_json(record: Preprocess) -> str:
    """The record as JSON; without what it says no more of than records did before they could."""
    data = asdict(record)
    if record.lone:
        del data["lone"]
    if record.names == ("",):
        del data["image"], data["others"]
    return json.dumps(data, separators=(",", ":"))


def from_json(text: str) -> Preprocess:
    """Read a record; missing and unknown keys are errors. Files of before a record knew millimetres, several images of a case, or pieces
    in one slice, mean what they always did.

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
    of_one = names - {"image", "others"}
    before = of_one - {"spacing", "thickness", "neighbours"}
    if not isinstance(data, dict) or data.keys() | {"lone"} not in (names, of_one, before) or not isinstance(data["labels"], list):
        raise ModelError(f"the preprocessing record must hold exactly {', '.join(sorted(names))}")
    others, parts = data.get("others", []), {field.name for field in fields(Channel)}
    if not isinstance(others, list) or not all(isinstance(other, dict) and other.keys() == parts for other in others):
        raise ModelError(f"the preprocessing record's others must be a list of images with exactly {', '.join(sorted(parts))}")
    texts = [data.get(key, "") for key in ("slicing", "intensity", "neighbours")] + [other["intensity"] for other in others]
    if not all(isinstance(text, str) for text in texts):
        raise ModelError("the preprocessing record's slicing, intensity and neighbours must be names")
    return Preprocess(**{**data, "labels": tuple(data["labels"]), "others": tuple(Channel(**other) for other in others)})


def blank(record: Preprocess, statistics: Statistics) -> bool:
    """True if the network would see nothing of an image: it is constant or, unless a fixed window is used, its foreground is.

    Here and below ``record`` is the one of the image alone, see `Preprocess.of`.
    """
    return statistics.foreground == 0 or (statistics.constant and record.intensity != "window")


def span(record: Preprocess, statistics: Statistics) -> tuple[float, float, float]:
    """The intensities of one image that become 0 and 1, and the floor at or below which everything is background."""
    if record.intensity == "window":
        return record.low, record.high, -np.inf
    if record.intensity == "zscore":
        low, high = (statistics.mean + sds * statistics.sd for sds in (record.low, record.high))
    else:
        low, high = (statistics.quantiles[QUANTILES.index(percent)] for percent in (record.low, record.high))
    return low, high, statistics.floor


def normalise(raw: Voxels, record: Preprocess, statistics: Statistics, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Slices (N, H, W), or one (H, W), to float32 in [0, 1], then to another shape; background, NaN and infinities are 0.

    It is what `resize` makes of slices of their own size, bit for bit, but none is made on the way.
    """
    low, high, floor = span(record, statistics)
    *several, height, width = raw.stored.shape
    target = (np.empty if high > low else np.zeros)((*several, *(shape or (height, width))), np.float32)
    if high > low:
        targets, slices = (array if several else array[None] for array in (target, raw.stored))
        _kernels().fill(targets, slices, slope=raw.slope, inter=raw.inter, low=low, high=high, floor=floor)
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


@cache
def _kernels() -> ModuleType:
    from .engine import voxels  # here: it brings LLVM, which whoever only reads a record does not need

    return voxels
