"""A report as one web page that loads nothing: slices, mask, window, statistics, warnings and the model's card.

All text is escaped; a content security policy lets the page's own script and style run, named by their hashes, and no
other, and allows no address but data: pictures. The template is page.html, page.css and page.js.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from .. import registry
from ..about import DISCLAIMER, __version__
from ..text import printable, quantity
from ..volume.labels import COLOURS, Colour, colours
from ..weights import Weights
from .slices import Finding, Plane, cut, grey, legend, outlines, pixels
from .statistics import LabelStatistics, axis_codes, describe

SIDE = 512  # pixels of a slice's longest side, at most
SLICES = 256  # at most; of a longer scan every second, third, ... is kept. 256 slices of 512x512 make about 12 MB
COLUMNS = 4  # of statistics, at most: more labels would have no room beside the slices
QUALITY = 88  # JPEG: at 12 KB a slice of 256x256 no grain shows within a tenth of the window


def build(finding: Finding, facts: str, model: Mapping[str, Any], card: str) -> str:
    """The page's text.

    Parameters
    ----------
    finding : Finding
        Its limits are the window at first; its slicing is how the slices are cut.
    facts : str
        The line below the title.
    model : dict
        What is known of the model, shown as a table; nested values as JSON.
    card : str
        The model's card, shown as it is; may be empty.
    """
    plane = cut(finding.scan, finding.mask, finding.slicing)
    style, script = _source("page.css"), _source("page.js")
    letters = {edge: letter + ("" if finding.scan.oriented else "?") for edge, letter in plane.letters.items()}
    return Template(_source("page.html")).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        title=_text(finding.title),
        facts=_text(facts),
        **letters,
        profile=_profile(plane),
        legend=_legend(finding.labels),
        warnings="".join(f'<p class="warning">{_text(warning)}</p>' for warning in finding.warnings),
        statistics=_statistics(finding.labels),
        model=_table({key: value for key, value in model.items() if value}) + _card(card),
        disclaimer=DISCLAIMER,
        version=__version__,
        data=json.dumps(_data(plane, finding), separators=(",", ":"), allow_nan=False),  # numbers and base64, no text
    )


def of(finding: Finding, weights: Weights) -> str:
    """The page of a finding that a model made."""
    scan = finding.scan
    size, step = " x ".join(map(str, scan.shape)), " x ".join(f"{mm:.3g}" for mm in scan.spacing)
    facts = f"{size} voxels of {step} mm, axes {axis_codes(scan)}"
    about = {"name": weights.name, "network": weights.spec.name, "sha256": weights.sha256, **weights.provenance}
    return build(finding, facts, about, registry.card(weights.name, weights.sha256))


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _kept(plane: Plane) -> range:
    """The slices that the page holds."""
    return range(0, len(plane.voxels), -(-len(plane.voxels) // SLICES))


def _data(plane: Plane, finding: Finding) -> dict[str, Any]:
    """What the script needs: pictures of twice the window's width around it, so that the window can be moved."""
    low, high = finding.limits
    drawn = (low - (high - low) / 2, high + (high - low) / 2) if high > low else (low, low + 1)
    size = pixels(plane, max(min(plane.spacing[1:]), max(plane.extent) / SIDE))
    kept, palette = _kept(plane), colours([label.name for label in finding.labels])
    largest = plane.largest(1)[0] // kept.step
    slices = [
        {
            "image": _uri(grey(plane.voxels[z], drawn, size), "JPEG", quality=QUALITY),
            "outline": _outline(plane.mask[z], size, palette),
            "number": plane.number(z),
        }
        for z in kept
    ]
    window = finding.limits if high > low else drawn
    return {"slices": slices, "count": len(plane.voxels), "largest": largest, "low": drawn[0], "high": drawn[1], "window": window}


def _outline(labels: np.ndarray, size: tuple[int, int], palette: Sequence[Colour]) -> str | None:
    """The outlines of one slice as a transparent picture, finer than the slice: a line stays a line on coarse voxels."""
    if not labels.any():
        return None
    finer = 2 * SIDE / max(size)
    fine = (max(1, round(finer * size[0])), max(1, round(finer * size[1])))
    picture = Image.new("P", fine, 0)
    picture.putpalette([0, 0, 0, *(part for colour in palette for part in colour)])
    for label, edge in outlines(labels, fine, 4):
        picture.paste(label, (0, 0), edge)
    return _uri(picture, "PNG", transparency=0)


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _profile(plane: Plane) -> str:
    """A bar for every slice, as high as its labelled area, and a mark at the slice that is seen."""
    areas = np.array([np.count_nonzero(plane.mask[z]) for z in _kept(plane)])
    if not areas.any():
        return ""
    heights = np.where(areas, np.maximum(areas * 18 / areas.max(), 1), 0)
    red, green, blue = COLOURS[0]
    bars = "".join(f'<rect x="{i}" y="{20 - tall:.1f}" width="1" height="{tall:.1f}"/>' for i, tall in enumerate(heights) if tall)
    return (
        f'<svg class="profile" viewBox="0 0 {len(areas)} 22" preserveAspectRatio="none" role="img" aria-label="Where the mask lies">'
        f'<g fill="rgb({red},{green},{blue})">{bars}</g><rect id="here" class="here" x="0" y="20" width="1" height="2"/></svg>'
    )


def _legend(labels: Sequence[LabelStatistics]) -> str:
    rows = []
    for name, entries in legend(labels):
        swatches = "".join(_swatch(entry.colour) for entry in entries)
        volumes = "".join(f"<td>{entry.side} <strong>{quantity(entry.label.ml, 'ml')}</strong></td>" for entry in entries)
        rows.append(f"<tr><td>{swatches}</td><td>{_text(name)}</td>{volumes}</tr>")
    return f'<table class="legend">{"".join(rows)}</table>'


def _swatch(colour: Colour) -> str:
    box = '<rect x="1.5" y="1.5" width="13" height="13" rx="3" fill="none" stroke="rgb({},{},{})" stroke-width="3"/>'
    return f'<svg viewBox="0 0 16 16" aria-hidden="true">{box.format(*colour)}</svg>'


def _statistics(labels: Sequence[LabelStatistics]) -> str:
    """One column for every label, or one row where they are many."""
    records = describe(labels)
    titles = {
        "name": "label",
        "voxels": "voxels",
        "ml": "ml",
        "box_first": "first voxel (x, y, z)",
        "box_last": "last voxel (x, y, z)",
        "centroid_mm": "centroid (R, A, S), mm",
        "mean": "mean intensity",
        "sd": "SD",
        "minimum": "minimum",
        "maximum": "maximum",
        "touches": "reaches the scan's end",
        "expected_dice": "expected Dice",
        "expected_low": "at least",
        "expected_high": "at most",
    }
    many = len(records) > COLUMNS
    heads = [f'<th scope="{"col" if many else "row"}">{_text(title)}</th>' for title in titles.values()]
    columns = [heads, *([f"<td>{_text(_cell(record[key]))}</td>" for key in titles] for record in records)]
    rows = columns if many else zip(*columns, strict=True)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="scroll"><table class="statistics">{body}</table></div>'


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(record: Mapping[str, Any]) -> str:
    rows = []
    for key, value in record.items():
        cell = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, tuple)) else value
        rows.append(f'<tr><th scope="row">{_text(key)}</th><td>{_text(cell)}</td></tr>')
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _card(card: str) -> str:
    lines = "\n".join(_text(line) for line in card.splitlines())
    return f"<details><summary>Model card</summary><pre>{lines}</pre></details>" if card else ""
