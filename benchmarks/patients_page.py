"""PATIENTS.md and its figure from what `python -m benchmarks.patients run` recorded. Pure functions of that JSON: no figure is typed in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from . import tables
from .paired import interval, told

SCRATCH, BASE = "scratch", "abdomen-mr"
LINES = {SCRATCH: ("from scratch", "#94a3b8"), BASE: (f"from {BASE}", "#c2410c")}
Row = Mapping[str, Any]


def by_patient(row: Row) -> dict[str, float]:
    """Mean Dice of every validation patient, over structures and both scans."""
    found: dict[str, list[float]] = defaultdict(list)
    for scans in row["dice"].values():
        for name, dice in scans.items():
            found[name.rpartition("_frame")[0]].append(dice)
    return {patient: mean(values) for patient, values in found.items()}


def mean_dice(row: Row) -> float:
    """Of all validation patients."""
    return mean(by_patient(row).values())


def _pairs(rows: Sequence[Row]) -> dict[tuple[int, int], dict[str, Row]]:
    """Both trainings of one number of patients and seed, fewest patients first."""
    found: dict[tuple[int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["patients"], row["seed"]][row["start"]] = row
    return {key: pair for key, pair in sorted(found.items()) if pair.keys() >= LINES.keys()}


def _gain(pair: Mapping[str, Row]) -> list[float]:
    base, scratch = by_patient(pair[BASE]), by_patient(pair[SCRATCH])
    return [base[patient] - scratch[patient] for patient in scratch]


def page(rows: Sequence[Row]) -> str:
    """The whole page of the trainings in ``rows``."""
    pairs = _pairs(rows)
    first = rows[0]
    gains = [f"{interval(_gain(pair))[0]:+.3f} with {count}" for (count, seed), pair in pairs.items() if seed == first["seed"]]
    body = [
        [count, seed, f"{mean_dice(pair[SCRATCH]):.3f}", f"{mean_dice(pair[BASE]):.3f}", told(_gain(pair))]
        for (count, seed), pair in pairs.items()
    ]
    machines = sorted({tables.caption(row["machine"], timed=False) for row in rows})
    parts = [
        "# Dice against training patients",
        f"What `monet-train fit --from {BASE}` gains on `heart-cine` over a start from nothing, in mean Dice, by the number of training "
        f"patients: {', '.join(gains)}.",
        "Written by `python -m benchmarks.patients page`; do not edit. Research use only, not a medical device.",
        "![Mean Dice against training patients](patients.svg)",
        f"`heart-cine`, MoNet, the recipe of the shipped model at half its length: {first['steps']:,} steps each, highest learning rate "
        f"{first['learning_rate']:g}, whatever it starts from. `{BASE}` is another organ in another sequence; its head is new, all other "
        "layers are taken over and learn. A seed is an order of the training patients, of whom the first so many train, and all else that "
        f"is random. Mean over three structures and both scans of {len(by_patient(first))} patients: those on whom the shipped model was "
        "chosen, which here chose nothing.",
        tables.table(["training patients", "seed", "from scratch", f"from {BASE}", "difference, paired by patient, 95 % interval"], body),
        "The intervals are of the validation patients. What other training patients or another seed would change is not in them: one "
        "patient more or less alike to the others is worth more than the start.",
        "## Where this comes from",
        "\n".join(f"- {machine}" for machine in machines),
    ]
    return "\n\n".join(parts) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Mean Dice against training patients as an SVG, a line a start and seed, a dot a training."""
    import matplotlib
    from matplotlib.figure import Figure

    pairs = _pairs(rows)
    counts, seeds = sorted({count for count, _ in pairs}), sorted({seed for _, seed in pairs})
    with matplotlib.rc_context({"svg.hashsalt": "monet-edge", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axis = figure.subplots()
        for start, (title, colour) in LINES.items():
            for seed in seeds:
                dots = [(count, mean_dice(pair[start])) for (count, own), pair in pairs.items() if own == seed]
                axis.plot(*zip(*dots, strict=True), "o-", color=colour, markersize=4, label=None if seed > seeds[0] else title)
        axis.set_xscale("log")
        axis.set_xticks(counts, [str(count) for count in counts], minor=False)
        axis.minorticks_off()
        axis.set_xlabel("training patients")
        axis.set_ylabel("mean Dice, validation")
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
        figure.savefig(path, metadata={"Date": None})
