"""Where our findings agree with the paper and where they do not: its comparisons, each beside ours, with a verdict that a rule gives.

The rule for Dice: differences are paired by patient; one whose 95 % interval holds 0 cannot be told, nor can anything of a few
patients. Where the paper sees none to speak of, the interval must lie within a margin. For times, sizes and activations: the same
side of equality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from monet_edge.architectures import ARCHITECTURES
from monet_edge.spec import count_floats

from . import tables
from .paired import interval, told

AGREES, DIFFERS, OPEN, MISSING = "agrees", "**differs**", "cannot be told", "not recorded"
EQUAL = 0.03  # of Dice; a difference of the paper's within it counts as none
LEAST = 6  # patients: all differences of 5 have one sign in 1 of 16 cases by chance alone, those of 6 in 1 of 32
Trained = Mapping[tuple[str, str], Mapping[str, Any]]


def findings(
    trained: Trained, again: Trained, cpu: Sequence[Mapping[str, Any]], gpu: Sequence[Mapping[str, Any]], paper: Mapping[str, Any]
) -> str:
    """A table of the paper's claims and ours.

    Parameters
    ----------
    trained, again : mapping
        See `paper_page.trainings`: seed 0, and seed 1 where there is one.
    cpu, gpu : sequence of dict
        Rows of Table 2.
    paper : mapping
        `paper_page.PAPER`.
    """
    lines = [*_dice(trained, paper), *_dice(again, paper, ", seed 1"), *_times(cpu, gpu, paper), _sizes(paper), _activations(trained)]
    return tables.table(["MoNet against", "the paper", "ours", "verdict"], lines)


def summary(trained: Trained, again: Trained, paper: Mapping[str, Any]) -> str:
    """The paper's claim on accuracy in sentences filled from the records: MoNet's Dice, and its difference to U-Net-16, by seed."""
    lines = []
    for data in ("pancreas-ct", "brain-flair"):
        for seed, found in enumerate((trained, again)):
            if ("monet", data) not in found:
                continue
            rows = found["monet", data]["patients"][data]
            dice = f"MoNet {mean(row['dice'] for row in rows):.2f} (the paper {paper['monet']['dice'][data][0]:.2f})"
            if ("unet-16", data) in found:
                dice += f", less U-Net-16 {told(paired_dice(rows, found['unet-16', data]['patients'][data]))}"
            lines.append(f"- {data}, seed {seed}: {dice}.")
    return "By this recipe, on our data:\n\n" + "\n".join(lines) if lines else MISSING


def verdict(theirs: float, low: float, high: float) -> str:
    """Whether the paper's difference and our interval say the same: better, worse, or equal (as printed, to two digits)."""
    if round(abs(theirs), 2) <= EQUAL:
        if low >= -EQUAL and high <= EQUAL:
            return AGREES
        return DIFFERS if low > EQUAL or high < -EQUAL else OPEN
    if low <= 0 <= high:
        return OPEN
    return AGREES if (low > 0) == (theirs > 0) else DIFFERS


def _dice(trained: Trained, paper: Mapping[str, Any], suffix: str = "") -> list[list[str]]:
    """A line a data set of the paper's and other network; of another seed only what was trained with it."""
    lines = []
    for data in paper["monet"]["dice"]:
        rows = {net: row for (net, _), row in trained.items() if data in row["patients"]}
        for net, title in tables.TITLES.items():
            if net == "monet" or (suffix and not {net, "monet"} <= rows.keys()):
                continue
            theirs = paper["monet"]["dice"][data][0] - paper[net]["dice"][data][0]
            cells = [MISSING, ""]
            if net in rows and "monet" in rows:
                differences = paired_dice(rows["monet"]["patients"][data], rows[net]["patients"][data])
                early = "" if rows["monet"]["converged"] and rows[net]["converged"] else ", not both converged"
                few = f", {len(differences)} patients" if len(differences) < LEAST else ""
                cells = [told(differences) + early + few, OPEN if few else verdict(theirs, *interval(differences)[1:])]
            lines.append([f"{title}, Dice on {data}{suffix}", f"{theirs:+.2f}", *cells])
    return lines


def paired_dice(ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[float]:
    """Differences of the patients that both have, matched by name."""
    known = {row["case"]: row["dice"] for row in others}
    return [row["dice"] - known[row["case"]] for row in ours if row["case"] in known]


def _times(cpu: Sequence[Mapping[str, Any]], gpu: Sequence[Mapping[str, Any]], paper: Mapping[str, Any]) -> list[list[str]]:
    lines = []
    kinds = [
        ("CPU seconds, our runtime", "cpu", {row["network"]: row["seconds"] for row in cpu if row["runner"] == "monet-edge"}),
        ("CPU seconds, PyTorch", "cpu", {row["network"]: row["seconds"] for row in cpu if row["runner"] == "PyTorch"}),
        ("GPU seconds of a batch", "gpu", {row["network"]: row["seconds"] for row in gpu}),
    ]
    for what, key, found in kinds:
        for net, title in tables.TITLES.items():
            if net == "monet":
                continue
            theirs, cells = paper[net][key] / paper["monet"][key], [MISSING, ""]
            if net in found and "monet" in found:
                ours = found[net] / found["monet"]
                cells = [f"{ours:.2f} times MoNet's", AGREES if (ours > 1) == (theirs > 1) else DIFFERS]
            lines.append([f"{title}, {what}", f"{theirs:.2f} times MoNet's", *cells])
    return lines


def _sizes(paper: Mapping[str, Any]) -> list[str]:
    theirs = paper["unet-64"]["size"] / paper["monet"]["size"]
    ours = count_floats(ARCHITECTURES["unet-64"]()) / count_floats(ARCHITECTURES["monet"]())
    return ["U-Net-64, size", f"{theirs:.0f} times MoNet's", f"{ours:.0f} times MoNet's", AGREES if ours > 1 else DIFFERS]


def _activations(trained: Trained) -> list[str]:
    """Mean share of near-zero activations over the three layers shown, and over the data sets that both were trained on."""
    both = [data for net, data in trained if net == "monet" and ("unet-64", data) in trained]
    shares = {net: [mean(trained[net, data]["near_zero"].values()) for data in both] for net in ("monet", "unet-64")}
    cells = [MISSING, ""]
    if both:
        ours, theirs = mean(shares["monet"]), mean(shares["unet-64"])
        cells = [f"{theirs:.0%} of U-Net-64's are near zero, {ours:.0%} of MoNet's", AGREES if theirs > ours else DIFFERS]
    return ["U-Net-64, activations", "U-Net-64's collapse near zero, MoNet's do not", *cells]
