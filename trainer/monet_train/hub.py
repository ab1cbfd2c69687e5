"""A folder as model hubs lay it out: the weights, README.md with the header that hubs read and the card below it, a picture.

`monet-edge segment -m FOLDER` takes it as it is. Nothing is uploaded. What names patients (the splits, a picture of a scan) is in the
folder only if the data is said to be public, by ``--name-cases``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monet_edge import formats
from monet_edge.errors import OutputError
from monet_edge.files import check_folder, refuse_special, write_together
from monet_edge.job import make_folder
from monet_edge.model import Model
from monet_edge.report import preview
from monet_edge.report.slices import Finding, window
from monet_edge.report.statistics import measure
from monet_edge.weights import Weights, load

CARD, PICTURE = "README.md", "preview.png"


def hub_paths(folder: Path, name: str) -> dict[str, Path]:
    """Where everything goes: weights, splits, card and picture of a model of this name."""
    return {
        "weights": folder / f"{name}.safetensors",
        "splits": folder / f"{name}.splits.json",
        "card": folder / CARD,
        "picture": folder / PICTURE,
    }


def check_hub(folder: Path, name: str) -> None:
    """Refuse before the work what could not be written after it: an OutputError, also if the folder holds another model."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: expected a folder for the hub's files, found a file")
    check_folder(folder if folder.is_dir() else folder.parent)
    paths = hub_paths(folder, name)
    for path in paths.values():
        refuse_special(path)
    others = [path.name for path in folder.glob("*.safetensors") if path != paths["weights"]]
    if others:
        raise OutputError(f"{folder}: holds {others[0]} already; a model on a hub has a folder of its own")


def write_hub(folder: Path, output: Path, case: Sequence[tuple[Path, int | None]]) -> None:
    """Lay out a released model as a hub's folder, created if need be: all files or none.

    Parameters
    ----------
    folder : Path
    output : Path
        The weights file, with its splits and its card beside it.
    case : sequence of (Path, int or None)
        The images of a case whose picture may be shown to everybody: a file, and which volume of it. Empty for private data: then
        the splits stay out, too.
    """
    make_folder(folder)
    weights, paths = load(output), hub_paths(folder, output.stem)
    files = {paths["weights"]: output.read_bytes()}
    card = hub_card(weights, output.with_suffix(".md").read_text(encoding="utf-8"), bool(case))
    files[paths["card"]] = card.encode()
    if case:
        files[paths["splits"]] = output.with_suffix(".splits.json").read_bytes()
        files[paths["picture"]] = draw_preview(weights, case)
    write_together(files)


def hub_card(weights: Weights, card: str, picture: bool) -> str:
    """The card with the header of hubs before it: YAML whose values are JSON, which YAML contains."""
    licence = weights.provenance.stated("licence")
    known = licence_id(licence)
    header: dict[str, Any] = {"license": known or "other", **({} if known else {"license_name": licence or "unknown"})}
    header |= {
        "library_name": "monet-edge",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "segmentation", *filter(None, [weights.provenance.stated("modality")]), *weights.preprocess.labels],
        "model-index": [{"name": weights.name, "results": _results(weights.provenance.get("metrics", {}))}],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    shown = [f"![A scan with this model's mask as an outline]({PICTURE})", ""] if picture else []
    use = ["", "    $ pip install monet-edge", f"    $ monet-edge segment scan.nii.gz -m {weights.name}.safetensors", "", *shown]
    title, _, rest = card.partition("\n")
    return "\n".join(["---", *lines, "---", title, *use, rest.lstrip("\n")])


def licence_id(licence: str) -> str:
    """The identifier that hubs know for a licence's usual name; empty for others.

    >>> licence_id("CC BY-NC-SA 4.0: research only"), licence_id("Apache-2.0"), licence_id("ask Anna")
    ('cc-by-nc-sa-4.0', 'apache-2.0', '')
    """
    found = re.match(r"CC[ -](BY(?:-NC)?(?:-SA|-ND)?)[ -](\d\.\d)(?![\w-])", licence)
    if found:
        return f"cc-{found[1]}-{found[2]}".lower()
    return next(
        (known for known in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC0-1.0") if re.match(rf"{known}(?![\w-])", licence)), ""
    ).lower()


def _results(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The measured Dice of every data set, as ``model-index`` has it."""
    return [
        {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": heading, "type": re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")},
            "metrics": [
                {"type": "dice", "name": f"Dice, {label}, mean over {row['cases']} patients", "value": row["dice"]["mean"]}
                for label, row in summary.items()
            ],
        }
        for heading, summary in metrics.items()
    ]


def draw_preview(weights: Weights, case: Sequence[tuple[Path, int | None]]) -> bytes:
    """The picture (PNG) that `segment --preview` draws of a case, without its name."""
    scans = [formats.read(file, volume) for file, volume in case]
    result, record = Model(weights).segment_scan(scans), weights.preprocess
    labels, limits = measure(scans[0], result.mask, record.labels), window(record, result.statistics)
    title = f"{weights.name} · {weights.kind}"
    picture = io.BytesIO()
    preview.draw(Finding(scans[0], result.mask, labels, limits, record.slicing, title, result.warnings)).save(picture, "PNG")
    return picture.getvalue()
