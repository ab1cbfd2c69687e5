"""The model card (Markdown) that goes beside a weights file, generated from its provenance and the measured scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monet_edge import DISCLAIMER
from monet_edge.channels import DIGITS
from monet_edge.preprocess import Preprocess
from monet_edge.quality import SHARE
from monet_edge.spec import count_floats
from monet_edge.text import digits, quantity
from monet_edge.weights import Weights

from .cases import spelled
from .config_text import command_of_today

QUALITY = "## Expected Dice"


def measuring(output: Path, data: str, validation: bool, channels: Sequence[int] = (0,), sides_as_one: bool = False) -> str:
    """The command that measures a released model, to be given where the file is.

    Parameters
    ----------
    output : Path
        The .safetensors file, which has its splits beside it.
    data : str
        The data set.
    validation : bool
        On the validation part only.
    channels : sequence of int
        Which ones of a scan with several.
    sides_as_one : bool
        "left X" and "right X" count as X.
    """
    words = ["monet-train", "evaluate", output.name, data]
    if validation:
        words += ["--splits", output.with_suffix(".splits.json").name]
    if tuple(channels) != (0,):
        words += ["--volume", spelled(channels)]
    if sides_as_one:
        words.append("--sides-as-one")
    return shlex.join(words)


def card(weights: Weights, summaries: Mapping[str, Mapping[str, Any]], notes: Sequence[str], commands: Sequence[str]) -> str:
    """Write the card.

    Parameters
    ----------
    weights : Weights
    summaries : mapping of str to mapping
        What `scores.summarise` says, by a heading such as "brain-flair, validation".
    notes : sequence of str
        What a reader must know about the data, one point each.
    commands : sequence of str
        Those that measured, see `measuring`.
    """
    record, provenance = weights.sliced, weights.provenance
    data, training = provenance["data"], provenance["training"]
    recipe = training["settings"]["recipe"]
    axes = f"{record.slicing} slices of {record.size}x{record.size}"
    if record.spacing:
        axes = f"{record.slicing} slices of {record.spacing:g} mm a pixel, in tiles of {record.size}x{record.size}"
    if record.context:
        axes += f", each with {record.context} neighbours on either side"
        axes += f", {record.thickness:g} mm apart ({record.neighbours})" if record.thickness else ""
    lines = [
        f"# {weights.name}",
        "",
        f"Segments {', '.join(weights.structures)}. **{DISCLAIMER}**",
        "",
        f"- **Network**: {weights.spec.name}, {count_floats(weights.spec):,} floats after folding. sha256 `{weights.sha256}`.",
        f"- **Data**: {data['name']} ({data['reference']}). Licence of the data, and so of these weights: {data['licence']}.",
        f"- **Preprocessing**: {axes}; {_intensities(record)} become 0 to 1;"
        + (f" threshold {record.threshold:g}." if record.classes == 1 else " the likeliest label wins.")
        + ("" if record.lone else " What is found in one slice only is left out."),
        f"- **Split** {training.get('split', 'by patient')}: {training['cases']} train, {training['validated_on']} validate"
        f" (`{weights.name}.splits.json`). The weights have seen the training part only.",
        f"- **Training**: recipe `{recipe['name']}`, {training['epochs']} epochs, seed {training['settings']['seed']}{_mean(training)}:",
        "",
        f"      {command_of_today(training['command'])}",
        "",
        *(f"- {note}" for note in notes),
        "",
        "## Measured",
        "",
        "Per patient, through the runtime, by",
        "",
        *(f"    {command}" for command in commands),
        "",
        "SE is the standard error of the mean."
        " Distances in px are means over slices, where a structure missed or invented in a slice counts as the slice's diagonal.",
        "",
        "| data | label | patients | Dice mean ± SD (SE) | median | least | HD95 | Hausdorff | missed | invented |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(heading, label, row) for heading, summary in summaries.items() for label, row in summary.items()),
    ]
    lines += _institutions(summaries)
    worst = [case for summary in summaries.values() for row in summary.values() for case in row["worst"]]
    lowest = (f"{case.get('case', '')} {case['dice']:.2f}".strip() for case in worst)
    lines += ["", f"Lowest Dice: {', '.join(lowest)}.", "", *_quality(provenance), DISCLAIMER, ""]
    return "\n".join(lines)


def _mean(training: Mapping[str, Any]) -> str:
    """Of how many runs a file's weights are the mean, where it is one."""
    runs = training.get("mean_of", ())
    return f"; the mean of {len(runs)} such runs, with seeds {', '.join(str(run['seed']) for run in runs)}" if runs else ""


def _intensities(record: Preprocess) -> str:
    """What becomes 0 and 1; of several images of each, with the number at the end of its file's name."""
    units = {"window": "HU", "zscore": "SD of the foreground", "percentile": "percentile"}
    parts = []
    for number, image in enumerate(map(record.of, range(record.images))):
        name = f"`_{number:0{DIGITS}}` {image.image}: " if record.images > 1 else ""
        parts.append(f"{name}{image.intensity}, {image.low:g} to {image.high:g} {units[image.intensity]}")
    return "; ".join(parts)


def renewed(text: str, before: Weights, after: Weights) -> str:
    """A card whose weights file has got another calibration, and so another sha256."""
    text = text.replace(before.sha256, after.sha256)
    start, end = text.find(f"{QUALITY}\n"), text.rfind(DISCLAIMER)
    return "".join([text[: end if start < 0 else start], *(f"{line}\n" for line in _quality(after.provenance)), text[end:]])


def _quality(provenance: Mapping[str, Any]) -> list[str]:
    """How well the expected Dice holds, where a calibration was tried."""
    measured = provenance.get("quality_measured")
    if not measured:
        return []
    shown = "" if "quality" in provenance else " **It does not hold elsewhere, and is not shown.**"
    return [
        QUALITY,
        "",
        "What `segment` says of a mask before anybody has looked at it, calibrated on the validation part, where every scan is told by the"
        f" others. Of {SHARE:.0%} the Dice should lie within the interval. A pair is a structure found in a scan.{shown}",
        "",
        *quality_table(measured),
        "",
    ]


def quality_table(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a table of what `quality.calibration.summary` says, by data."""
    columns = {
        "expected": "Dice expected",
        "dice": "true",
        "pearson": "Pearson",
        "between": "between scans of a structure",
        "error": "mean error",
        "inside": "in the interval",
    }
    rows = {data: " | ".join("–" if row[key] is None else f"{row[key]:.2f}" for key in columns) for data, row in measured.items()}
    return [
        f"| data | pairs | {' | '.join(columns.values())} |",
        f"|---{'|---' * len(columns)}|---|",
        *(f"| {data} | {measured[data]['pairs']} | {row} |" for data, row in rows.items()),
    ]


def _institutions(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the institutions' scores, where cases say which one they are of."""
    places = [
        f"| {place} | {label} | {values['n']} | {values['mean']:.3f} ({values['se']:.3f}) |"
        for summary in summaries.values()
        for label, row in summary.items()
        for place, values in row["institutions"].items()
    ]
    return ["", "| institution | label | patients | Dice mean (SE) |", "|---|---|---|---|", *places] if places else []


def _row(heading: str, label: str, row: Mapping[str, Any]) -> str:
    dice, unit, status = row["dice"], row["unit"], row["status"]
    distances = " | ".join(f"{digits(row[key]['mean'])} ± {quantity(row[key]['sd'], unit)}" for key in ("hausdorff95", "hausdorff"))
    return (
        f"| {heading} | {label} | {row['cases']} | {dice['mean']:.3f} ± {dice['sd']:.3f} ({dice['se']:.3f}) | {dice['median']:.3f} |"
        f" {dice['min']:.3f} | {distances} | {status['missed']} | {status['invented']} |"
    )
