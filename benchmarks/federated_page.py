"""FEDERATED.md from what `python -m benchmarks.federated run` recorded. Pure functions of that JSON: no figure is typed in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from monet_train.federated.settings import Federation
from monet_train.splits import institution

from . import tables
from .paired import interval, told

SITES = ("CS", "DU", "HT")  # EZ has one patient
NOISES = (0.001, 0.01, 0.1, 1.0)  # a network of 403,556 numbers drowns in noise of 0.005 times the longest update
VARIANTS: dict[str, dict[str, Any]] = {
    "fedavgm": {},
    "fedavg": {"momentum": 0.0},
    "float16": {"compression": "float16"},
    "int8": {"compression": "int8"},
    **{f"noise-{noise:g}": {"noise": noise} for noise in NOISES},
}
RETIRED = {  # recorded by earlier revisions, which could train so: which training, and which of its scores
    "FedBN (averaged statistics)": ("fedbn", "dice"),
    "FedBN, each site's patients with its own BatchNorm": ("fedbn", "own"),
}
MISSING = "not recorded yet"
USELESS = 10  # an epsilon above it promises next to nothing
Length = tuple[int, int]  # rounds, epochs at every site in each
Dice = Mapping[str, float]  # by patient
Experiments = Mapping[Length, Mapping[str, Mapping[str, Any]]]  # trainings by name, fewest rounds first


def page(found: Mapping[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    found : mapping
        ``experiments`` by length (``"30x1"``: 30 rounds of one epoch), each with its trainings by name; the ``settings`` they share;
        ``traffic``. What there is no training of is called not recorded yet.
    """
    experiments = dict(sorted((_length(key), runs) for key, runs in found["experiments"].items()))
    parts = [
        "# Federated against pooled",
        _verdict(experiments, json.loads(found["settings"])["recipe"]["epochs"]),
        "Written by `python -m benchmarks.federated page`; do not edit. Research use only, not a medical device.",
        f"`brain-flair`, institutions {', '.join(SITES)}, the committed split, MoNet. Federated: so many rounds, in each of them one epoch "
        "at every site where nothing else is said. Pooled and single sites: as many epochs of the same recipe, without its weight average. "
        "The recipe's schedule spans every length from its first to its last round. Sites keep their optimiser's moments; the server's "
        f"momentum is {Federation().momentum:g} but for FedAvg. The very ServerApp and ClientApp, driven in one process.",
        "## Dice",
        *_dice(experiments),
        "## Differential privacy of whole sites",
        *_privacy(experiments),
        "## Bytes per site and round",
        *_traffic(found.get("traffic", {}).get("bytes", {})),
        "## Where this comes from",
        _sources(experiments, found.get("traffic")),
    ]
    return "\n\n".join(parts) + "\n"


def _length(key: str) -> Length:
    rounds, epochs = map(int, key.split("x"))
    return rounds, epochs


def _words(length: Length) -> str:
    rounds, epochs = length
    return f"{rounds} rounds" if epochs == 1 else f"{rounds} rounds of {epochs} epochs"


def _verdict(experiments: Experiments, recipe: int) -> str:
    """How far federated training is from pooled at every length, that of the recipe, in epochs, first."""
    clauses = []
    for (rounds, epochs), runs in sorted(experiments.items(), key=lambda item: item[0][0] * item[0][1] != recipe):
        if {"pooled", "fedavgm"} <= runs.keys():
            difference, low, high = interval(_minus(runs["fedavgm"]["dice"], runs["pooled"]["dice"]))
            own = ", the recipe's own length," if rounds * epochs == recipe else ""
            side = "below" if difference < 0 else "above"
            clauses.append(f"at {_words((rounds, epochs))}{own} {abs(difference):.3f} {side} ({low:+.3f} to {high:+.3f})")
    return f"Mean Dice of federated training (FedAvgM) against pooled, with 95 % intervals: {'; '.join(clauses) or MISSING}."


def _minus(one: Dice, other: Dice) -> list[float]:
    return [one[patient] - other[patient] for patient in other]


def _dice(experiments: Experiments) -> list[str]:
    """Means and differences, a training a line and a length a column."""
    if not experiments:
        return [MISSING]
    columns = [_scores(runs) for runs in experiments.values()]
    scores = {title: [column[title] for column in columns] for title in columns[0]}
    scores = {title: row for title, row in scores.items() if any(row) or title not in RETIRED}
    means = {title: [f"{mean(dice.values()):.3f}" if dice else "" for dice in row] for title, row in scores.items()}
    pooled = scores.pop("pooled")
    minus = {
        title: [told(_minus(one, other)) if one and other else "" for one, other in zip(row, pooled, strict=True)]
        for title, row in scores.items()
    }
    patients = len(next(dice for row in [pooled, *scores.values()] for dice in row if dice))
    return [
        f"Mean of {patients} validation patients. An empty cell: not recorded at that length.",
        _by_length(means, experiments),
        "Minus the pooled training of the same length, paired by patient, with 95 % intervals: percentile bootstraps over patients. Every "
        "training was run once; how much another seed would change is not in them.",
        _by_length(minus, experiments),
        *(["FedBN, with which every site trains with its own BatchNorm, gained nothing and was removed."] if {*RETIRED} & {*minus} else []),
        *_comparisons(experiments),
        *_by_institution(experiments),
    ]


def _scores(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Dice | None]:
    """Every training of one length by its title, none where it is not recorded."""
    names = {_title(name): (name, "dice") for name in ("pooled", *SITES, *VARIANTS)} | RETIRED
    return {title: runs.get(name, {}).get(score) for title, (name, score) in names.items()}


def _by_institution(experiments: Experiments) -> list[str]:
    """Whose patients gain: the means of the longest trainings by institution."""
    length, runs = list(experiments.items())[-1]
    rows, patients = [], {}
    for title, dice in _scores(runs).items():
        if dice:
            patients = {site: [name for name in dice if institution(name) == site] for site in SITES}
            rows.append([title, *(f"{mean(dice[name] for name in names):.3f}" for names in patients.values())])
    heads = [f"{site} ({len(names)} patients)" for site, names in patients.items()]
    return [f"By the institution that the patients are from, at {_words(length)}:", tables.table(["training", *heads], rows)]


def _by_length(rows: Mapping[str, Sequence[str]], experiments: Experiments) -> str:
    body = [[title, *(cells if any(cells) else [MISSING, *cells[1:]])] for title, cells in rows.items()]
    return tables.table(["training", *map(_words, experiments)], body)


def _comparisons(experiments: Experiments) -> Iterator[str]:
    """A line for what is compared with something else than pooled training, where both are there."""
    for length, runs in experiments.items():
        dice = {name: training["dice"] for name, training in runs.items()}
        if set(SITES) <= dice.keys():
            single = {patient: mean(dice[site][patient] for site in SITES) for patient in dice[SITES[0]]}
            more = f"; FedAvgM minus that, paired: {told(_minus(dice['fedavgm'], single))}" if "fedavgm" in dice else ""
            yield f"Mean of the single sites' models at {_words(length)}: {mean(single.values()):.3f}{more}."
        for name in ("float16", "int8"):
            if {name, "fedavgm"} <= dice.keys():
                yield f"{name} minus float32 traffic at {_words(length)}: {told(_minus(dice[name], dice['fedavgm']), 4)}."


def _title(name: str) -> str:
    titles = {
        "fedavgm": "FedAvgM",
        "fedavg": "FedAvg",
        "fedbn": "FedBN",
        "float16": "FedAvgM, float16",
        "int8": "FedAvgM, int8",
    }
    return titles.get(name, f"{name} alone" if name in SITES else name.replace("noise-", "FedAvgM, noise multiplier "))


def _privacy(experiments: Experiments) -> list[str]:
    rows, useful = [], []
    for name, more in VARIANTS.items():
        if "noise" not in more:
            continue
        recorded = [(length, runs) for length, runs in experiments.items() if name in runs]
        for length, runs in recorded:
            about, epsilon, dice = runs[name]["federation"], runs[name]["rounds"][-1]["epsilon"], mean(runs[name]["dice"].values())
            plain = f"{mean(runs['fedavgm']['dice'].values()):.3f}" if "fedavgm" in runs else ""
            rows.append([f"{about['noise']:g}", _words(length), f"{epsilon:.3g}", f"{about['delta']:g}", f"{dice:.3f}", plain])
            useful += [dice] if epsilon <= USELESS else []
        if not recorded:
            rows.append([f"{more['noise']:g}", *[MISSING] * 4, ""])
    lines = [tables.table(["noise multiplier", "length", "epsilon", "delta", "Dice", "Dice without noise"], rows)]
    lines.append(f"Epsilon says how well one can tell whether a whole site took part; above {USELESS} it promises next to nothing.")
    if any(name.startswith("noise") for runs in experiments.values() for name in runs):
        best = f"{max(useful):.3f} is the best Dice below that" if useful else "no multiplier here comes below that"
        lines[-1] += f" With {len(SITES)} sites, {best}."
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


def _sources(experiments: Experiments, traffic: Mapping[str, Any] | None) -> str:
    """What was run where, a line for every machine and revision."""
    used: dict[str, list[str]] = {}
    for length, runs in experiments.items():
        for name, training in runs.items():
            used.setdefault(tables.caption(training["machine"], timed=False), []).append(f"{_title(name)} ({_words(length)})")
    if traffic:
        used.setdefault(tables.caption(traffic["machine"], timed=False), []).append("bytes")
    return "\n".join(f"- {'; '.join(what)}: {machine}" for machine, what in used.items()) or MISSING
