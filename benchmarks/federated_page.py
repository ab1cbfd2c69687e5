"""FEDERATED.md from what `python -m benchmarks.federated run` recorded. Pure functions of that JSON: no figure is typed in."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.federated.settings import Federation

from . import tables
from .paired import told

SITES = ("CS", "DU", "HT")  # EZ has one patient
NOISES = (0.001, 0.01, 0.1, 1.0)  # a network of 403,556 numbers drowns in noise of 0.005 times the longest update
VARIANTS: dict[str, dict[str, Any]] = {
    "fedavgm": {},
    "fedavg": {"momentum": 0.0},
    "fedbn": {"batch_norm": "local"},
    "float16": {"compression": "float16"},
    "int8": {"compression": "int8"},
    **{f"noise-{noise:g}": {"noise": noise} for noise in NOISES},
}
MISSING = "not recorded yet"
USELESS = 10  # an epsilon above it promises next to nothing
Runs = Mapping[str, Mapping[str, Any]]


def page(found: Mapping[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    found : mapping
        ``runs`` by name, each with the Dice of every validation patient, and ``traffic``; either may be missing. What there is no
        training of is called not recorded yet.
    """
    runs = found.get("runs", {})
    head = [
        "# Federated against pooled",
        "Written by `python -m benchmarks.federated page`; do not edit. Research use only, not a medical device.",
        f"`brain-flair`, institutions {', '.join(SITES)}, the committed split, MoNet. Federated: {found['rounds']} rounds of "
        f"{found['epochs']} epoch(s); pooled and single sites: {found['rounds'] * found['epochs']} epochs of the same recipe, without its "
        f"weight average. Sites keep their optimiser's moments; the server's momentum is {Federation().momentum:g} but for FedAvg. "
        "The very ServerApp and ClientApp, driven in one process.",
    ]
    parts = [*head, "## Dice", *_dice(runs), "## Differential privacy of whole sites", *_privacy(runs)]
    parts += ["## Bytes per site and round", *_traffic(found.get("traffic", {})), "## Where this comes from", _sources(found)]
    return "\n\n".join(parts) + "\n"


def _values(training: Mapping[str, Any], names: Sequence[str], key: str = "dice") -> np.ndarray:
    return np.array([training[key][name] for name in names])


def _dice(runs: Runs) -> list[str]:
    names = sorted(next(iter(runs.values()))["dice"]) if runs else []
    pooled = _values(runs["pooled"], names) if "pooled" in runs else None
    rows = []
    for name in ("pooled", *SITES, *VARIANTS):
        if name not in runs:
            rows.append([_title(name), MISSING, MISSING if name != "pooled" else ""])
            continue
        for key in [key for key in ("dice", "own") if key in runs[name]]:
            label = _title(name) if key == "dice" else f"{_title(name)}, each site's patients with its own BatchNorm"
            values = _values(runs[name], names, key)
            minus = "" if name == "pooled" else told(values - pooled) if pooled is not None else MISSING
            rows.append([label, f"{values.mean():.3f}", minus])
    table = tables.table(
        ["training", f"mean Dice of {len(names) or 'all'} validation patients", "minus pooled, paired (95 % interval)"], rows
    )
    lines = [table]
    singles = [float(_values(runs[site], names).mean()) for site in SITES if site in runs]
    if singles:
        lines.append(f"Mean of the single sites' models: {statistics.mean(singles):.3f}.")
    lines += [
        f"{name} minus float32 traffic: {told(_values(runs[name], names) - _values(runs['fedavgm'], names), 4)}."
        for name in ("float16", "int8")
        if name in runs and "fedavgm" in runs
    ]
    return [*lines, "Intervals are percentile bootstraps over patients."]


def _title(name: str) -> str:
    titles = {
        "fedavgm": "FedAvgM",
        "fedavg": "FedAvg",
        "fedbn": "FedBN (averaged statistics)",
        "float16": "FedAvgM, float16",
        "int8": "FedAvgM, int8",
    }
    return titles.get(name, f"{name} alone" if name in SITES else name.replace("noise-", "FedAvgM, noise multiplier "))


def _privacy(runs: Runs) -> list[str]:
    rows, useful = [], []
    for name, more in VARIANTS.items():
        if "noise" not in more:
            continue
        if name not in runs:
            rows.append([f"{more['noise']:g}", MISSING, MISSING, MISSING])
            continue
        about, epsilon = runs[name]["federation"], runs[name]["rounds"][-1]["epsilon"]
        dice = statistics.mean(runs[name]["dice"].values())
        rows.append([f"{about['noise']:g}", f"{epsilon:.3g}", f"{about['delta']:g}", f"{dice:.3f}"])
        useful += [dice] if epsilon <= USELESS else []
    lines = [tables.table(["noise multiplier", "epsilon", "delta", "Dice"], rows)]
    lines.append(f"Epsilon says how well one can tell whether a whole site took part; above {USELESS} it promises next to nothing.")
    if any(name.startswith("noise") for name in runs):
        told_ = f"{max(useful):.3f} is the best Dice below that" if useful else "no multiplier here comes below that"
        lines[-1] += f" With {len(SITES)} sites, {told_}."
    lines.append(
        "With noise, updates are shortened to the median length of those without. That length was learnt from the scans: epsilon "
        "does not cover it."
    )
    return lines


def _traffic(traffic: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """Bytes of every network and compression, beside the paper's size in MB that stood for them."""
    rows = []
    for net, title in tables.TITLES.items():
        sizes = traffic.get(net)
        if not sizes:
            rows.append([title, "", MISSING, MISSING, ""])
            continue
        plain = sum(sizes["none"].values())
        for compression, both in sizes.items():
            name = {"none": "float32", "int8": "int8 up, float16 down"}.get(compression, compression)
            rows.append([title, name, f"{both['down']:,}", f"{both['up']:,}", f"{sum(both.values()) / plain:.2f}"])
    note = (
        "Bytes of the messages' records as Flower's own size mods count them: the network and the settings down, the update up; names and "
        "headers included, held by a test to what the apps exchange. The wire adds HTTP's headers and heartbeats."
    )
    return [tables.table(["network", "arrays", "to a site", "from it", "of float32's"], rows), note]


def _sources(found: Mapping[str, Any]) -> str:
    lines = dict.fromkeys(f"- {tables.caption(machine, timed=False)}" for machine in found.get("machines", {}).values())
    return "\n".join(lines) or MISSING
