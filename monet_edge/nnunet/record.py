"""What nnU-Net's plans say of the way of a case, as the record that a weights file carries in place of `preprocess.Preprocess`.

It says `way` "nnunet", and everything that decides a result: whoever runs the model needs no plans.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from ..errors import ModelError

NAME = "nnunet"
SCHEMES = ("zscore", "ct", "none", "rescale", "rgb")
ORDERS = (0, 1, 3)  # of splines: nearest, linear, cubic
MAX_CHANNELS = 64
MAX_FOLDS = 10
MAX_PATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Channel:
    """How the intensities of one image of a case are normalised.

    Attributes
    ----------
    name : str
        What the image is, such as FLAIR.
    scheme : {"zscore", "ct", "none", "rescale", "rgb"}
        By the image's own mean and deviation; clipped to ``low`` and ``high`` and then by the data set's ``mean`` and ``sd``; as
        it is; from its minimum to its maximum; by 255.
    masked : bool
        Mean and deviation are those of what is not empty, and only that is changed.
    low, high, mean, sd : float
        Of "ct": HU; else 0.
    """

    name: str
    scheme: str
    masked: bool = False
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    sd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """By which splines images, or logits, change their grid.

    Attributes
    ----------
    order : {0, 1, 3}
    order_z : {0, 1, 3}
        Along an axis that is resampled on its own.
    separate : bool or None
        Whether the axis of the largest spacing is. None: if that is more than 3 times the smallest.
    """

    order: int
    order_z: int = 0
    separate: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """How a case becomes tiles, and their logits labels.

    Attributes
    ----------
    channels : tuple of Channel
        The images of a case, in the order of their files.
    labels : tuple of str
        Names of the labels 1, 2, ... in the mask.
    regions : tuple of int
        Of a model of overlapping regions the label that each writes, in the order of writing; empty for labels.
    patch : (rows, columns)
        Of a tile.
    spacing : (rows, columns) float
        mm a pixel.
    transpose : (3,) int
        Which axes of an image (slices, rows, columns), as stored, become these three.
    reorient : bool
        Whether an image is turned to right, anterior, superior before; else it is taken as stored.
    mirror : tuple of int
        Axes (0: rows) that a tile may be mirrored along.
    folds : int
        Networks whose logits are averaged; they stand side by side in the Spec's output.
    image, logits : Resampling
    """

    channels: tuple[Channel, ...]
    labels: tuple[str, ...]
    regions: tuple[int, ...]
    patch: tuple[int, int]
    spacing: tuple[float, float]
    transpose: tuple[int, int, int]
    reorient: bool
    mirror: tuple[int, ...]
    folds: int
    image: Resampling
    logits: Resampling

    def __post_init__(self) -> None:
        for problem, found in self._problems().items():
            if found:
                raise ModelError(f"the preprocessing record is not valid: {problem}; found {asdict(self)}")

    def _problems(self) -> dict[str, bool]:
        labels, channels = len(self.labels), self.channels
        return {
            f"there must be 1 to {MAX_CHANNELS} channels": not 1 <= len(channels) <= MAX_CHANNELS,
            "a channel's name must be printable text": not all(_is_name(channel.name) for channel in channels),
            f"a channel's scheme must be one of {', '.join(SCHEMES)}": not all(channel.scheme in SCHEMES for channel in channels),
            "a channel's numbers must be finite, low not above high": not all(_is_range(channel) for channel in channels),
            "there must be 1 to 255 labels with names of their own": not 1 <= labels <= 255
            or not all(map(_is_name, self.labels))
            or len(set(self.labels)) < labels,
            "regions must be labels": not all(type(label) is int and 0 < label <= labels for label in self.regions),
            f"patch must be two sides of 1 to {MAX_PATCH}": [type(side) for side in self.patch] != [int, int]
            or not all(1 <= side <= MAX_PATCH for side in self.patch),
            "spacing must be two numbers of mm": len(self.spacing) != 2
            or not all(_is_number(mm) and 1e-4 < mm < 1e4 for mm in self.spacing),
            "transpose must name three axes": sorted(self.transpose) != [0, 1, 2],
            "mirror must name rows (0) and columns (1)": list(self.mirror) not in ([], [0], [1], [0, 1]),
            f"folds must be 1 to {MAX_FOLDS}": type(self.folds) is not int or not 1 <= self.folds <= MAX_FOLDS,
            f"orders must be of {ORDERS}": not all({each.order, each.order_z} <= {*ORDERS} for each in (self.image, self.logits)),
            "yes or no must be a bool": not all(type(flag) is bool for flag in (self.reorient, *(channel.masked for channel in channels)))
            or not all(each.separate in (None, True, False) for each in (self.image, self.logits)),
        }

    @property
    def heads(self) -> int:
        """Channels of a fold's logits: the background and the labels, or the regions."""
        return len(self.regions) or len(self.labels) + 1

    @property
    def inputs(self) -> int:
        """Channels of the network's input."""
        return len(self.channels)

    @property
    def images(self) -> int:
        """Scans of a case."""
        return len(self.channels)

    @property
    def outputs(self) -> int:
        """Channels of the network's output: logits."""
        return self.folds * self.heads

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.patch

    @property
    def slicing(self) -> str:
        """The plane of pictures: nnU-Net cuts a scan as it is stored, and asks for no plane."""
        return "axial"

    @property
    def in_mm(self) -> bool:
        """True: what the network sees depends on what a voxel of the scan measures."""
        return True

    @property
    def threshold(self) -> float:
        """Above which a region is there; of labels the likeliest is."""
        return 0.5

    @property
    def window(self) -> tuple[float, float] | None:
        """HU that the first channel is clipped to, None where it has no such."""
        first = self.channels[0]
        return (first.low, first.high) if first.scheme == "ct" and first.low < first.high else None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable()


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _is_range(channel: Channel) -> bool:
    numbers = (channel.low, channel.high, channel.mean, channel.sd)
    return all(map(_is_number, numbers)) and channel.low <= channel.high and channel.sd >= 0


def to_json(record: Record) -> str:
    """The record as JSON."""
    return json.dumps({"way": NAME, **asdict(record)}, separators=(",", ":"))


def from_record(data: Mapping[str, Any]) -> Record:
    """Read what `to_json` wrote, parsed; missing and unknown keys are errors.

    Raises
    ------
    ModelError
        If it is no valid record.
    """
    data = {name: value for name, value in data.items() if name != "way"}
    try:
        found = {
            **_exactly(Record, data),
            "channels": tuple(Channel(**_exactly(Channel, channel)) for channel in data["channels"]),
            **{name: Resampling(**_exactly(Resampling, data[name])) for name in ("image", "logits")},
            **{name: tuple(data[name]) for name in ("labels", "regions", "patch", "spacing", "transpose", "mirror")},
        }
        return Record(**found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the preprocessing record is not valid: {error}") from None


def _exactly(kind: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(data, Mapping) or data.keys() != names:
        raise ValueError(f"it must hold exactly {', '.join(sorted(names))}")
    return dict(data)
