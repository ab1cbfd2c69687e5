"""PAPER.md: the paper's tables and figures beside ours. Pure functions of the JSON under results/: nothing measured is typed in.

What was not recorded is called so. The paper: Knolle et al., PLoS ONE 16(8): e0255397 (2021).
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from monet_edge.architectures import ARCHITECTURES
from monet_edge.spec import Spec, count_floats, fold_batchnorm, tensor_shapes
from monet_train.config_text import renamed

from . import tables
from .agreement import EQUAL, LEAST, Trained, findings, summary

RUNNERS = ("monet-edge", "PyTorch", "ONNX Runtime", "OpenVINO fp32")
MISSING, NOT_PRINTED = "not recorded", "not printed"
TABLE2, GPU, EARLIER = "paper-table2", "paper-gpu", "training-h200"  # the records that are not a training's
FIGURES = "pancreas-ct"  # whose scans may be shown: CC BY 3.0

# the paper's figures: Table 1 (mean and SD by data set), Table 2 (seconds on an 8-core Intel i9; of a batch of 32 on a GPU), Table 3 (MB)
PAPER: dict[str, dict[str, Any]] = {
    "monet": {
        "dice": {"pancreas-ct": (0.78, 0.09), "brain-flair": (0.77, 0.13), "pancreas-negatives": (0.70, 0.1)},
        "hausdorff": {"pancreas-ct": (1.78, 0.61), "brain-flair": (2.04, 0.39)},
        "cpu": 14.88,
        "gpu": 0.462,
        "size": 1.8,
    },
    "unet-16": {
        "dice": {"pancreas-ct": (0.73, 0.10), "brain-flair": (0.77, 0.12), "pancreas-negatives": (0.59, 0.2)},
        "hausdorff": {"pancreas-ct": (1.96, 0.66), "brain-flair": (2.03, 0.38)},
        "cpu": 7.03,
        "gpu": 0.152,
        "size": 7.6,
    },
    "unet-64": {
        "dice": {"pancreas-ct": (0.76, 0.11), "brain-flair": (0.78, 0.12), "pancreas-negatives": (0.50, 0.2)},
        "hausdorff": {"pancreas-ct": (1.86, 0.66), "brain-flair": (2.01, 0.38)},
        "cpu": 45.34,
        "gpu": 0.747,
        "size": 118.6,
    },
    "attention-unet": {
        "dice": {"pancreas-ct": (0.73, 0.10), "brain-flair": (0.74, 0.15), "pancreas-negatives": (0.37, 0.6)},
        "hausdorff": {"pancreas-ct": (1.98, 0.66), "brain-flair": (2.09, 0.38)},
        "cpu": 53.30,
        "gpu": 0.905,
        "size": None,
    },
}
# what stands beside what: our data set, the paper's column, and how they differ
DATA = {
    "pancreas-ct": (
        "pancreas, Medical Segmentation Decathlon",
        "Ours is NIH Pancreas-CT: 49 patients, 2 to 16 scattered slices of 512x512 each, every one with pancreas and none with a tumour, "
        "HU clipped to [0, 255] upstream, which is the window; the paper clips to [-150, 200]. Theirs are volumes cropped to the pancreas.",
    ),
    "pancreas-negatives": (
        "independent CTs of the pancreas",
        "Ours are CURVAS, another hospital and other raters, by the weights of pancreas-ct: the 16 slices that hold pancreas, of 5 "
        "patients. So few can show a network that fails, not which of two is better.",
    ),
    "brain-flair": (
        "whole brain tumour",
        "Ours is FLAIR MRI of lower-grade glioma from four institutions (TCGA-LGG): z-scores of -2 to 4 become 0 to 1, about a third of "
        "the slices hold tumour.",
    ),
    "brain-flair-external": (
        "none",
        "Three BRATS 2013 volumes, skull-stripped, by the weights of brain-flair: a development set, and three patients are too few "
        "to tell.",
    ),
}
SLICES = {"pancreas-ct": 299, "brain-flair": 2283}  # of the training parts


def page(results: Mapping[str, Any], pictures: Collection[str] = (), short: Mapping[str, Any] | None = None) -> str:
    """PAPER.md from what was recorded.

    Parameters
    ----------
    results : mapping
        By file name: ``paper-<net>-<data>``, with ``-seed<n>`` for seeds other than 0 (of `python -m benchmarks training`),
        ``paper-gpu`` (of `step`), ``paper-table2`` (of `paper`) and ``training-h200``, written down while the trainer was made.
    pictures : collection of str
        Names of the picture files beside them.
    short : mapping, optional
        Trainings whose epochs are once over all slices, by file name.
    """
    trained, again, before = trainings(results), trainings(results, seed=1), trainings(short or {})
    text = string.Template((Path(__file__).parent / "paper_template.md").read_text()).substitute(
        table1=_table1(trained, again),
        lengths=_lengths(trained, before, pictures),
        table2=_table2(results),
        table3=_table3(),
        figure4=_figure4(pictures),
        figure5=_figure5(trained, pictures),
        parity=_parity(trained),
        equal=EQUAL,
        least=LEAST,
        earlier=_earlier(results.get(EARLIER)),
        summary=summary(trained, again, PAPER),
        findings=findings(trained, again, _rows(results, TABLE2), _rows(results, GPU), PAPER),
        sources=_sources(results),
    )
    return text.rstrip() + "\n"


def trainings(results: Mapping[str, Any], seed: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    """The recorded trainings of a seed by network and data set, in the paper's order."""
    found = {(row["net"], row["data"]): row for row in results.values() if "patients" in row and row["settings"]["seed"] == seed}
    chosen = {(net, data): found[net, data] for net in tables.TITLES for data in DATA if (net, data) in found}
    return {key: {**row, "curve": [renamed(epoch) for epoch in row["curve"]]} for key, row in chosen.items()}


def scores(trained: Trained, data: str) -> dict[str, list[dict[str, Any]]]:
    """Every network's rows by patient on a data set, whichever it was trained on."""
    return {net: row["patients"][data] for (net, _), row in trained.items() if data in row["patients"]}


def _rows(results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return results.get(name, {}).get("rows", [])


def _table1(trained: Trained, again: Trained) -> str:
    sections = []
    for data, (theirs, differs) in DATA.items():
        lines = []
        for net, title in tables.TITLES.items():
            printed = [_printed(PAPER[net][key].get(data)) for key in ("dice", "hausdorff")]
            lines.append([title, *_cells(trained, net, data), *printed])
            if any(name == net and data in row["patients"] for (name, _), row in again.items()):
                lines.append([f"{title}, seed 1", *_cells(again, net, data), "", ""])
        head = [data, "Dice", "Hausdorff, pixels", "patients", "training", f"paper's Dice: {theirs}", "paper's Hausdorff"]
        sections.append(f"{tables.table(head, lines)}\n\n{differs}")
    return "\n\n".join(sections)


def _cells(trained: Trained, net: str, data: str) -> list[str]:
    """Dice, distance, patients and how the training ended, of the network's training that was scored on a data set."""
    for (name, _), row in trained.items():
        if name == net and data in row["patients"]:
            found = row["patients"][data]
            return [_spread(found, "dice", 2), _spread(found, "hausdorff", 1), _counts(found), _state(row)]
    return [MISSING] * 4


def _lengths(trained: Trained, before: Trained, pictures: Collection[str]) -> str:
    """The same trainings with short epochs beside the long ones."""
    lines = []
    for (net, data), row in before.items():
        steps = -(-SLICES[data] // row["settings"]["recipe"]["batch"])
        cells = [f"{steps} x {row['epochs']}", f"{mean(score['dice'] for score in row['patients'][data]):.2f}"]
        cells += [MISSING, MISSING]
        if (net, data) in trained:
            long = trained[net, data]
            cells[2:] = [f"{long['settings']['recipe']['epoch_steps']} x {long['epochs']}",
                         f"{mean(score['dice'] for score in long['patients'][data]):.2f}"]  # fmt: skip
        lines.append([f"{tables.TITLES[net]}, {data}", *cells])
    head = ["", "once over all slices: steps x epochs", "Dice", "as long as the authors': steps x epochs", "Dice"]
    drawn = _shown([(f"Dice while training against steps, {data}", f"steps-{data}.png") for data in SLICES], pictures)
    return f"{tables.table(head, lines) if lines else MISSING}\n\n{drawn}"


def _printed(found: tuple[float, float] | None) -> str:
    """A mean and its SD as the paper prints them."""
    return NOT_PRINTED if found is None else f"{found[0]:.2f} ± {found[1]:g}"


def _spread(rows: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    values = [row[key] for row in rows]
    spread = stdev(values) if len(values) > 1 else 0
    return f"{mean(values):.{digits}f} ± {spread:.{digits}f} (median {median(values):.{digits}f})"


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    missed = sum(row["status"] == "missed" for row in rows)
    return f"{len(rows)}" + (f", {missed} missed" if missed else "")


def _state(row: Mapping[str, Any]) -> str:
    """How a training ended, and when its rate had fallen twice, after which hardly anything moves."""
    what = "converged" if row["converged"] else "**not converged**"
    best, last = (f"{row[which]['val_dice_1']:.3f}" for which in ("best", "last"))
    slow = next((epoch for epoch, past in enumerate(row["curve"]) if past["learning_rate"] < row["curve"][0]["learning_rate"] / 50), None)
    rate = "" if slow is None else f", the rate a hundredth after {slow}"
    return f"{what}, {row['epochs']} epochs{rate}; Dice while training {best} at the best, {last} at the last"


def _earlier(found: Mapping[str, Any] | None) -> str:
    """What a step and two GPUs cost, written down while the trainer was made."""
    if found is None:
        return MISSING
    step, both, machine = found["step"], found["two_gpus"], found["machine"]
    return (
        f"In an epoch, where nothing waits, a step of {step['what']} takes {step['paper_ms']:.2f} ms, with the recipe `strong` "
        f"{step['strong_ms']:.2f} ms; two such GPUs train {both['times']:.2f} times as fast as one ({machine['gpu']}, PyTorch "
        f"{machine['torch']}, {machine['date']}; `results/{EARLIER}.json`)."
    )


def _table2(results: Mapping[str, Any]) -> str:
    found = {(row["network"], row["runner"]): row for row in _rows(results, TABLE2)}
    gpu = {row["network"]: row["seconds"] for row in _rows(results, GPU)}
    lines = []
    for network, title in tables.TITLES.items():
        cells = [f"{row['seconds']:.2f}" if (row := found.get((network, name))) else MISSING for name in RUNNERS]
        error = found.get((network, RUNNERS[0]))
        lines.append([title, *cells, f"{error['error32']:.0e}" if error else "", PAPER[network]["cpu"],
                      f"{gpu[network]:.3f}" if network in gpu else MISSING, PAPER[network]["gpu"]])  # fmt: skip
    head = ["seconds", *RUNNERS, "ours, max diff from PyTorch", "paper, CPU", "GPU batch of 32", "paper, GPU batch of 32"]
    return tables.table(head, lines)


def _table3() -> str:
    lines = []
    for network, title in tables.TITLES.items():
        spec = ARCHITECTURES[network]()
        trained, folded, size = 4 * count_floats(spec), 4 * count_floats(fold_batchnorm(spec)), PAPER[network]["size"]
        megabytes = [f"{n / 1e6:.2f}" for n in (trained, folded, folded / 2, 2 * trained)]
        lines.append([title, f"{count_floats(spec):,}", f"{_parameters(spec):,}", *megabytes, NOT_PRINTED if size is None else size])
    head = ["", "parameters (Keras)", "parameters (PyTorch)", "float32, MB", "folded, MB", "folded, float16, MB",
            "federated round, MB a site", "paper, MB"]  # fmt: skip
    return tables.table(head, lines)


def _parameters(spec: Spec) -> int:
    """What PyTorch's ``parameters()`` counts: everything but BatchNorm's running statistics."""
    return sum(prod(shape) for name, shape in tensor_shapes(spec).items() if ".running_" not in name)


def _figure4(pictures: Collection[str]) -> str:
    overlays = [(title, f"paper-{net}-{FIGURES}-overlays.png") for net, title in tables.TITLES.items()]
    boxes = [(f"Dice and Hausdorff distance by patient, {data}", f"fig4-{data}.png") for data in DATA]
    return _shown([*overlays, *boxes], pictures)


def _figure5(trained: Trained, pictures: Collection[str]) -> str:
    lines = []
    for (net, data), row in trained.items():
        lines.append([f"{tables.TITLES[net]}, {data}", *(f"{name}: {share:.0%}" for name, share in row["near_zero"].items())])
    table = tables.table(["share of near-zero activations", "early", "middle", "late"], lines) if lines else MISSING
    shown = _shown([(tables.TITLES[net], f"paper-{net}-{FIGURES}-activations.png") for net in ("monet", "unet-64")], pictures)
    return f"{table}\n\n{shown}"


def _shown(candidates: Sequence[tuple[str, str]], pictures: Collection[str]) -> str:
    """The pictures that there are, each with its title."""
    found = [f"{title}:\n\n![{title}](results/{name})" for title, name in candidates if name in pictures]
    return "\n\n".join(found) or "Pictures: not recorded."


def _parity(trained: Trained) -> str:
    lines = []
    for (net, data), row in trained.items():
        for title in ("without fusion", "with fusion"):
            found = row["parity"][title]
            worst = f"{found['worst']:.1e} in {found['layer']}"
            lines.append([f"{tables.TITLES[net]}, {data}, {title}", found["values"], worst, f"{found['probability']:.1e}"])
    if not lines:
        return MISSING
    missed = [f"{tables.TITLES[net]} on {data}" for (net, data), row in trained.items() if not row["parity"]["passed"]]
    verdict = f"Missed by {', '.join(missed)}, whose logits are steep." if missed else "All keep to it."
    return f"{tables.table(['', 'values compared', 'largest difference', 'of a probability'], lines)}\n\n{verdict}"


def _sources(results: Mapping[str, Any]) -> str:
    """Which rows were measured by this command and which were recorded elsewhere, by which command, on what."""
    lines = ["- Table 3: computed from the Specs, exact."]
    found: dict[str, list[str]] = {}  # a machine is told once
    for seed in (0, 1):
        for (net, data), row in trainings(results, seed).items():
            machine = tables.caption(row["machine"], timed=False)
            found.setdefault(machine, []).append(f"  - {tables.TITLES[net]} on {data}, seed {seed}: `{row['command']}`")
    for machine, commands in found.items():
        lines += [f"- Table 1 and the figures: recorded; {machine}", *commands]
    for key, title, how in ((TABLE2, "Table 2, CPU", "measured by this command"), (GPU, "Table 2, GPU", "recorded")):
        if key in results:
            settings = ", ".join(f"{name} {value}" for name, value in results[key]["settings"].items())
            how = f"{how} ({settings}); {tables.caption(results[key]['machine'])}"
        lines.append(f"- {title}: {how if key in results else MISSING}")
    if not found:
        lines.append(f"- Table 1 and the figures: {MISSING}")
    return "\n".join(lines)
