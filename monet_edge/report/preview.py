"""One picture of a result: the scan in grey where the structure is largest, in three planes, the mask as an outline.

Drawn with pillow in memory: no display, no fonts of the system, no text of the scan's header. Pillow's own font has English
letters and few others, so that other scripts give way to numbers, and the picture says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from unicodedata import category, normalize

from PIL import Image, ImageDraw, ImageFont

from ..about import DISCLAIMER
from ..files import atomic_write
from ..preprocess import SLICINGS
from ..text import printable, quantity
from ..volume.labels import Colour, colours
from .slices import Entry, Finding, Plane, cut, grey, legend, outlines, pixels
from .statistics import LabelStatistics

SIDE = 440  # pixels of the longest side of any panel
THICK = 2  # pixels of an outline
FLAT = 0.25  # a plane whose short side is less of its long one shows little
MARGIN, GAP, ROW, SWATCH = 28, 24, 26, 20
_SPELT = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "µ": "u",
     "–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "±": "+/-"}
)  # fmt: skip
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
BACKGROUND, TEXT, DIM, WARNING = (13, 17, 23), (230, 237, 243), (139, 148, 158), (240, 180, 80)


def draw(finding: Finding) -> Image.Image:
    """Draw the picture: the model's plane first, a legend, the warnings."""
    chosen = _choose([cut(finding.scan, finding.mask, name) for name in sorted(SLICINGS, key=lambda name: name != finding.slicing)])
    mm = max(max(plane.extent) for plane, _ in chosen) / SIDE
    palette = colours([label.name for label in finding.labels])
    panels = [_panel(plane, z, finding, mm, palette) for plane, z in chosen]
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    tall = max(panel.height for panel in panels)
    width = max(sum(panel.width for panel in panels) + GAP * (len(panels) - 1), 560) + 2 * MARGIN
    warnings = [f"! {warning}" for warning in finding.warnings]
    if any(_lacks(text) for text in (finding.title, *(label.name for label in finding.labels))):
        warnings.append("! this picture's font has Latin letters only: numbers and ? stand for other names, which page and tables show")
    notes = [line for note in warnings for line in _wrap(note, small, width - 2 * MARGIN)]
    top = MARGIN + 34
    rows, y = legend(finding.labels), top + tall + 34
    height = y + ROW * len(rows) + 6 + 20 * len(notes) + 30 + MARGIN
    picture = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, MARGIN - 6), _drawable(finding.title), TEXT, ImageFont.load_default(20))
    x = MARGIN
    for (plane, z), panel in zip(chosen, panels, strict=True):
        above = top + (tall - panel.height) // 2
        picture.paste(panel, (x, above))
        number = f"slice {plane.number(z)} of {len(plane.voxels)}"
        pen.text((x + panel.width // 2, above + panel.height + 8), f"{plane.name}, {number}", DIM, small, anchor="mt")
        x += panel.width + GAP
    _legend(pen, y, rows, font)
    y += ROW * len(rows)
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


def _panel(plane: Plane, z: int, finding: Finding, mm: float, palette: Sequence[Colour]) -> Image.Image:
    """One slice with outlines and letters, drawn at twice the size and halved: smooth edges."""
    width, height = pixels(plane, mm)
    double = (2 * width, 2 * height)
    panel = grey(plane.voxels[z], finding.limits, double).convert("RGB")
    for label, edge in outlines(plane.mask[z], double, 2 * THICK):
        panel.paste(palette[label - 1], (0, 0), edge)
    panel = panel.resize((width, height), Image.Resampling.BOX)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(16)
    places = {
        "top": (width / 2, 4, "mt"),
        "bottom": (width / 2, height - 4, "mb"),
        "left": (5, height / 2, "lm"),
        "right": (width - 5, height / 2, "rm"),
    }
    for edge_name, (x, y, anchor) in places.items():
        letter = plane.letters[edge_name] + ("" if finding.scan.oriented else "?")
        pen.text((x, y), letter, TEXT, font, anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND)
    return panel


def _legend(pen: ImageDraw.ImageDraw, y: int, rows: Sequence[tuple[str, list[Entry]]], font: Font) -> None:
    """Swatches, names and volumes in columns, from ``y`` on."""
    x = MARGIN + SWATCH * max((len(entries) for _, entries in rows), default=0) + 6
    for i, (_, entries) in enumerate(rows):
        for at, entry in enumerate(entries):
            left, top = MARGIN + SWATCH * at, y + ROW * i + 3
            pen.rounded_rectangle((left, top, left + 15, top + 15), 3, outline=entry.colour, width=3)
    for column in zip_longest(*([_named(name, entries), *map(_volume, entries)] for name, entries in rows), fillvalue=""):
        for i, text in enumerate(column):
            pen.text((x, y + ROW * i), text, TEXT, font)
        x += round(max(map(font.getlength, column))) + GAP


def _named(name: str, entries: Sequence[Entry]) -> str:
    """What a row of the legend is called, where its letters cannot be drawn by its labels' numbers."""
    return f"label {' and '.join(str(entry.label.label) for entry in entries)}" if _lacks(name) else _drawable(name)


def _volume(entry: Entry) -> str:
    label = entry.label
    return f"{entry.side} {quantity(label.ml, 'ml')}".strip() + _ends(label)


def _ends(label: LabelStatistics) -> str:
    return f"   (reaches the scan's end: {', '.join(label.touches)})" if label.touches else ""


def _scale_bar(pen: ImageDraw.ImageDraw, at: tuple[int, int], mm: float, font: Font) -> None:
    """The longest of 1, 2, 5, 10 ... mm that takes at most 90 pixels, ending at ``at``."""
    length = max((step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5) if step * 10.0**power <= 90 * mm), default=mm)
    text = f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    right, y = at[0] - font.getlength(text) - 8, at[1] + 4
    pen.line((right - length / mm, y, right - length / mm, y + 6, right, y + 6, right, y), DIM, 1)
    pen.text((right + 8, y + 3), text, DIM, font, anchor="lm")


def _drawable(text: str) -> str:
    """The text in letters that the font has: accents are left out, "?" stands for what has no such letter."""
    spelt = "".join(letter if _has(letter) else letter.translate(_SPELT) for letter in printable(text))
    plain = (letter for letter in normalize("NFKD", spelt) if not category(letter).startswith("M"))
    return "".join(letter if _has(letter) else "?" for letter in plain)


def _lacks(text: str) -> bool:
    """Whether some of the text's letters cannot be drawn."""
    return _drawable(text).count("?") > printable(text).count("?")


@cache
def _has(letter: str) -> bool:
    """Whether the font draws a letter as something else than the box that it draws for a number that no letter has."""
    font = ImageFont.load_default(14)
    drawn, box = (font.getmask(text) for text in (letter, "\U0010ffff"))
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


def _wrap(text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in _drawable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
