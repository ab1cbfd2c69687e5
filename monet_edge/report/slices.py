"""What pictures and pages are made of: a finding, slices cut through it, their grey values, the outlines of their labels.

Drawn with pillow in memory: no display, no text of the scan's header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..intensities import Statistics
from ..preprocess import SLICINGS
from ..sides import rows, side
from ..volume import Scan, Voxels, orient
from ..volume.labels import Colour, colours
from ..weights import Record
from .statistics import OPPOSITE, LabelStatistics


@dataclass(frozen=True)
class Finding:
    """What there is to show of one scan.

    Attributes
    ----------
    scan : Scan
    mask : (X, Y, Z) uint8
    labels : sequence of LabelStatistics
        For the legend, and the page's table.
    limits : (low, high)
        Intensities shown black and white, see `window`.
    slicing : {"axial", "coronal", "sagittal"}
        The model's plane.
    title : str
        The first line.
    warnings : sequence of str
    """

    scan: Scan
    mask: np.ndarray
    labels: Sequence[LabelStatistics]
    limits: tuple[float, float]
    slicing: str
    title: str
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Plane:
    """One way to cut a scan: views (Z, H, W) of its voxels and mask, as seen on a radiologist's screen.

    Attributes
    ----------
    name : {"axial", "coronal", "sagittal"}
    voxels : Voxels
        (Z, H, W).
    mask : (Z, H, W) uint8
    spacing : (z, h, w) float
        mm.
    reversed : bool
        True where slice 0 of the view is the last one as stored.
    """

    name: str
    voxels: Voxels
    mask: np.ndarray
    spacing: tuple[float, ...]
    reversed: bool

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in mm."""
        height, width = np.multiply(self.mask.shape[1:], self.spacing[1:])
        return float(height), float(width)

    @property
    def letters(self) -> dict[str, str]:
        """The anatomical direction at every edge of the picture."""
        down, right = SLICINGS[self.name][1], SLICINGS[self.name][2]
        return {"top": OPPOSITE[down], "bottom": down, "left": OPPOSITE[right], "right": right}

    def number(self, z: int) -> int:
        """The slice's number as stored, counted from 1, as viewers show it."""
        return len(self.voxels) - z if self.reversed else z + 1

    def largest(self, count: int) -> list[int]:
        """The ``count`` slices with most labelled pixels, in order; around the middle where there are none."""
        areas = [np.count_nonzero(labels) for labels in self.mask]
        middle = len(areas) // 2
        return sorted(sorted(range(len(areas)), key=lambda z: (-areas[z], abs(z - middle)))[:count])


@dataclass(frozen=True)
class Entry:
    """A label in a legend.

    Attributes
    ----------
    side : str
        "left" or "right", where both sides of a structure share a row; else empty.
    label : LabelStatistics
    colour : Colour
    """

    side: str
    label: LabelStatistics
    colour: Colour


def legend(labels: Sequence[LabelStatistics]) -> list[tuple[str, list[Entry]]]:
    """The rows of a legend: a name, and its label or those of both sides."""
    names = [label.name for label in labels]
    shades = colours(names)
    return [
        (name, [Entry(side(names[i - 1])[0] if len(both) > 1 else "", labels[i - 1], shades[i - 1]) for i in both])
        for name, both in rows(names)
    ]


def cut(scan: Scan, mask: np.ndarray, name: str) -> Plane:
    """The scan and its mask (X, Y, Z) as a stack of axial, coronal or sagittal slices."""
    orientation = orient(scan.affine, SLICINGS[name])
    voxels = Voxels(orientation.turn(scan.voxels), scan.slope, scan.inter)
    return Plane(name, voxels, orientation.turn(mask), tuple(scan.spacing[axis] for axis in orientation.axes), orientation.flips[0])


def window(record: Record, statistics: Statistics) -> tuple[float, float]:
    """The intensities shown black and white: the model's fixed window, else the foreground's 1st and 99.5th percentile."""
    if record.window is not None:
        return record.window
    low, high = statistics.quantiles[1], statistics.quantiles[-1]
    return (low, high) if np.isfinite(2 * (high - low)) else (0.0, 1.0)  # floats of 64 bits can lie that far apart


def grey(raw: Voxels, limits: tuple[float, float], size: tuple[int, int]) -> Image.Image:
    """One slice (H, W) as a grey picture of ``size`` = (width, height) pixels."""
    low, high = limits
    with np.errstate(all="ignore"):  # what is no number, or leaves float64, is drawn black
        values = np.nan_to_num(raw.scaled(), posinf=low, neginf=low, nan=low)
        shades = np.nan_to_num(np.clip((values - low) * (255 / max(high - low, 1e-6)), 0, 255))
    return Image.fromarray(np.ascontiguousarray(shades.astype(np.uint8))).resize(size, Image.Resampling.BICUBIC)


def outlines(labels: np.ndarray, size: tuple[int, int], thick: int) -> list[tuple[int, Image.Image]]:
    """The inner edge of every label of one slice (H, W), ``thick`` pixels wide, as masks of ``size`` pixels."""
    found = []
    for label in np.unique(labels):
        if label:
            shape = Image.fromarray((labels == label).astype(np.uint8) * 255)
            smooth = np.asarray(shape.resize(size, Image.Resampling.BILINEAR)) > 127
            found.append((int(label), Image.fromarray((smooth & ~_eroded(smooth, thick)).astype(np.uint8) * 255)))
    return found


def _eroded(shape: np.ndarray, times: int) -> np.ndarray:
    """The shape (H, W) without its outermost pixels; the picture's border is no edge. pillow's filter takes 20 times as long."""
    for _ in range(times):
        around = np.pad(shape, 1, mode="edge")
        shape = shape & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return shape


def pixels(plane: Plane, mm: float) -> tuple[int, int]:
    """Width and height of a plane's picture at ``mm`` a pixel, so that both axes have the same scale."""
    height, width = plane.extent
    return max(1, round(width / mm)), max(1, round(height / mm))
