"""One picture of a result: the scan in grey where the structure is largest, in three planes, the mask as an outline.

Drawn with pillow in memory: no display, no fonts of the system, no text of the scan's header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import DISCLAIMER
from ..files import atomic_write
from ..preprocess import SLICINGS, Preprocess, Statistics, span
from ..volume import Scan, to_canonical
from ..volume.labels import colour, printable
from .statistics import OPPOSITE, LabelStatistics

SIDE = 440  # pixels of the longest side of any panel
THICK = 2  # pixels of an outline
FLAT = 0.25  # a plane whose short side is less of its long one shows little
MARGIN, GAP = 28, 24
BACKGROUND, TEXT, DIM, WARNING = (13, 17, 23), (230, 237, 243), (139, 148, 158), (240, 180, 80)


@dataclass(frozen=True)
class Plane:
    """One way to cut a scan: views (Z, H, W) of its voxels and mask, as seen on a radiologist's screen.

    Attributes
    ----------
    name : {"axial", "coronal", "sagittal"}
    voxels, mask : (Z, H, W) arrays
    spacing : (z, h, w) float
        mm.
    reversed : bool
        True where slice 0 of the view is the last one as stored.
    """

    name: str
    voxels: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, ...]
    reversed: bool

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in mm."""
        height, width = np.multiply(self.voxels.shape[1:], self.spacing[1:])
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


def cut(scan: Scan, mask: np.ndarray, name: str) -> Plane:
    """The scan and its mask as a stack of axial, coronal or sagittal slices."""
    voxels, orientation = to_canonical(scan.voxels, scan.affine, SLICINGS[name])
    labels, _ = to_canonical(mask, scan.affine, SLICINGS[name])
    return Plane(name, voxels, labels, tuple(scan.spacing[axis] for axis in orientation.axes), orientation.flips[0])


def window(record: Preprocess, statistics: Statistics) -> tuple[float, float]:
    """The intensities shown black and white: the model's fixed window, else the foreground's 1st and 99.5th percentile."""
    if record.intensity == "window":
        return span(record, statistics)[:2]
    low, high = statistics.quantiles[1], statistics.quantiles[-1]
    return (low, high) if np.isfinite(2 * (high - low)) else (0.0, 1.0)  # floats of 64 bits can lie that far apart


def grey(raw: np.ndarray, scan: Scan, limits: tuple[float, float], size: tuple[int, int]) -> Image.Image:
    """One slice (H, W) as stored as a grey picture of ``size`` = (width, height) pixels."""
    low, high = limits
    with np.errstate(all="ignore"):  # what is no number, or leaves float64, is drawn black
        values = np.nan_to_num(raw.astype(np.float64) * scan.slope + scan.inter, posinf=low, neginf=low, nan=low)
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


def draw(
    scan: Scan,
    mask: np.ndarray,
    labels: Sequence[LabelStatistics],
    limits: tuple[float, float],
    title: str,
    warnings: Sequence[str],
    slicing: str = "axial",
) -> Image.Image:
    """Draw the picture.

    Parameters
    ----------
    scan : Scan
    mask : (X, Y, Z) uint8
    labels : sequence of LabelStatistics
        For the legend.
    limits : (low, high)
        Intensities shown black and white, see `window`.
    title : str
        The first line.
    warnings : sequence of str
    slicing : str
        The model's plane, drawn first.
    """
    shown = _choose([cut(scan, mask, name) for name in sorted(SLICINGS, key=lambda name: name != slicing)])
    mm = max(max(plane.extent) for plane, _ in shown) / SIDE
    panels = [_panel(plane, z, scan, limits, mm) for plane, z in shown]
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    tall = max(panel.height for panel in panels)
    width = max(sum(panel.width for panel in panels) + GAP * (len(panels) - 1), 560) + 2 * MARGIN
    notes = [line for warning in warnings for line in _wrap(f"! {warning}", small, width - 2 * MARGIN)]
    top = MARGIN + 34
    legend = top + tall + 34
    height = legend + 26 * len(labels) + 6 + 20 * len(notes) + 30 + MARGIN
    picture = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, MARGIN - 6), printable(title), TEXT, ImageFont.load_default(20))
    x = MARGIN
    for (plane, z), panel in zip(shown, panels, strict=True):
        y = top + (tall - panel.height) // 2
        picture.paste(panel, (x, y))
        number = f"slice {plane.number(z)} of {len(plane.voxels)}"
        pen.text((x + panel.width // 2, y + panel.height + 8), f"{plane.name}, {number}", DIM, small, anchor="mt")
        x += panel.width + GAP
    y = legend
    for one in labels:
        pen.rounded_rectangle((MARGIN, y + 3, MARGIN + 15, y + 18), 3, outline=colour(one.label), width=3)
        pen.text((MARGIN + 26, y), f"{printable(one.name)}   {one.ml:.1f} ml{_ends(one)}", TEXT, font)
        y += 26
    for line in notes:
        pen.text((MARGIN, y + 6), line, WARNING, small)
        y += 20
    pen.text((MARGIN, y + 14), DISCLAIMER, DIM, small)
    _scale_bar(pen, (width - MARGIN, y + 14), mm, small)
    return picture


def save(path: Path, picture: Image.Image, *, overwrite: bool) -> None:
    """Write a PNG, whole or not at all, without any metadata."""
    with atomic_write(path, overwrite=overwrite) as file:
        picture.save(file, "PNG")


def _choose(planes: Sequence[Plane]) -> list[tuple[Plane, int]]:
    """Three planes, each at its largest slice; of a flat scan three slices of the first plane instead."""
    if min(min(plane.extent) / max(plane.extent) for plane in planes[1:]) < FLAT:
        return [(planes[0], z) for z in planes[0].largest(3)]
    return [(plane, plane.largest(1)[0]) for plane in planes]


def _panel(plane: Plane, z: int, scan: Scan, limits: tuple[float, float], mm: float) -> Image.Image:
    """One slice with outlines and letters, drawn at twice the size and halved: smooth edges."""
    width, height = pixels(plane, mm)
    double = (2 * width, 2 * height)
    panel = grey(plane.voxels[z], scan, limits, double).convert("RGB")
    for label, edge in outlines(plane.mask[z], double, 2 * THICK):
        panel.paste(colour(label), (0, 0), edge)
    panel = panel.resize((width, height), Image.Resampling.BOX)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(16)
    known = bool(scan.header["sform_code"] or scan.header["qform_code"])
    places = {
        "top": (width / 2, 4, "mt"),
        "bottom": (width / 2, height - 4, "mb"),
        "left": (5, height / 2, "lm"),
        "right": (width - 5, height / 2, "rm"),
    }
    for edge_name, (x, y, anchor) in places.items():
        letter = plane.letters[edge_name] + ("" if known else "?")
        pen.text((x, y), letter, TEXT, font, anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND)
    return panel


def _ends(one: LabelStatistics) -> str:
    return f"   (reaches the scan's end: {', '.join(one.touches)})" if one.touches else ""


def _scale_bar(pen: ImageDraw.ImageDraw, at: tuple[int, int], mm: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
    """The longest of 1, 2, 5, 10 ... mm that takes at most 90 pixels, ending at ``at``."""
    length = max((step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5) if step * 10.0**power <= 90 * mm), default=mm)
    text = f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    right, y = at[0] - font.getlength(text) - 8, at[1] + 4
    pen.line((right - length / mm, y, right - length / mm, y + 6, right, y + 6, right, y), DIM, 1)
    pen.text((right + 8, y + 3), text, DIM, font, anchor="lm")


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
