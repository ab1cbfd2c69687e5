"""The paper's four networks trained by its recipe, exported, held to PyTorch and scored, all where the GPU is.

One JSON a network and data set. A training that the clock stops goes on when the same command is given again; one that never
stopped by itself is recorded as not converged. Nothing of the trainer is written twice here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from monet_edge import weights
from monet_edge.model import Model
from monet_edge.spec import fold_batchnorm
from monet_train import checkpoint, figures
from monet_train.config import PAPER, Settings, make_preprocess
from monet_train.config_text import override
from monet_train.dataset import Case
from monet_train.evaluate import make_model, score
from monet_train.fold import fold_tensors
from monet_train.labels import match
from monet_train.prepare import Prepared
from monet_train.provenance import Provenance, Source
from monet_train.splits import read_splits
from monet_train.state import training_spec
from monet_train.train import fit

from . import machine
from .parity import compare

# how intensities enter: the window of `pancreas-ct` is all that its images hold (HU, clipped upstream); others are MRI, in SD
INTENSITIES = {"pancreas-ct": ("window", 0.0, 255.0)}
CROPPED = ("pancreas-negatives",)  # scored on the slices that hold the structure, as the paper's volumes are cropped to it
SHOWN = ("pancreas-ct", "phantom")  # whose scans may be published in pictures
EXAMPLES = 4  # patients of Fig 4


class OutOfTime(Exception):
    """The clock ends a training after an epoch; its checkpoint is written."""


@dataclass(frozen=True)
class Task:
    """One network on one data set.

    Attributes
    ----------
    settings : Settings
    prepared : Prepared
        What `monet-train prepare` wrote.
    split : {"train": [...], "val": [...]}
    external : Prepared or None
        Data from elsewhere, all of it scored with the same weights.
    folder : Path
        The run's folder, the weights, pictures and the JSON go in here, under `name`.
    """

    settings: Settings
    prepared: Prepared
    split: dict[str, list[str]]
    external: Prepared | None
    folder: Path

    @property
    def name(self) -> str:
        seed = f"-seed{self.settings.seed}" if self.settings.seed else ""
        return f"paper-{self.settings.net}-{self.prepared.name}{seed}"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name


def make_task(
    net: str,
    prepared: Prepared,
    splits: Path,
    folder: Path,
    size: int,
    changes: Sequence[str] = (),
    external: Prepared | None = None,
    seed: int = 0,
) -> Task:
    """The paper's recipe for one network on one data set.

    Parameters
    ----------
    net : str
        A key of `monet_edge.architectures.ARCHITECTURES`.
    prepared, external, folder
        See `Task`.
    splits : Path
        The committed split.
    size : int
        Of the network's input, pixels.
    changes : sequence of str
        ``name=value`` of the recipe: for trials, recorded like every setting.
    seed : int
        Of the initial weights, the order of slices and the augmentation.
    """
    intensity, low, high = INTENSITIES.get(prepared.name, ("zscore", -2.0, 4.0))
    record = make_preprocess(prepared.labels, size=size, intensity=intensity, low=low, high=high)
    settings = Settings(dataset=prepared.name, net=net, preprocess=record, recipe=override(PAPER, changes), seed=seed)
    return Task(settings, prepared, read_splits(splits)[0], external, folder)


def train(task: Task, deadline: float, checkpoint_every: int = 1, device: str | None = None) -> None:
    """Train until the recipe stops or the clock does; a run that is there goes on.

    Parameters
    ----------
    task : Task
    deadline : float
        Of `time.monotonic`; looked at after every epoch that is kept.
    checkpoint_every : int
    device : str, optional
    """

    def log(row: Mapping[str, float]) -> None:
        print(f"{task.name}: " + ", ".join(f"{key} {value:.5g}" for key, value in row.items()), flush=True)
        if time.monotonic() > deadline and (row["epoch"] + 1) % checkpoint_every == 0:
            raise OutOfTime

    if is_done(task):
        return
    resume = (task.run / "config.json").exists()
    try:
        fit(
            task.settings,
            task.prepared,
            task.split,
            task.run,
            resume=resume,
            device=device,
            checkpoint_every=checkpoint_every,
            log=log,
            announce=lambda line: print(f"{task.name}: {line}", flush=True),
        )
    except OutOfTime:
        print(f"{task.name}: stopped by the clock; the same command goes on with it", flush=True)


def is_done(task: Task) -> bool:
    """Whether the training ended by itself."""
    return (task.run / "final.safetensors").exists()


def has_begun(task: Task) -> bool:
    """Whether an epoch of it was kept."""
    return checkpoint.newest(task.run) is not None


def progress(history: Sequence[Mapping[str, float]], patience: int) -> dict[str, Any]:
    """How far a training came: "report the best and the last epoch".

    Returns
    -------
    dict
        ``converged``: whether so many epochs passed without a new best validation loss; ``epochs``; ``best`` and ``last``, those
        epochs' rows.
    """
    best = min(range(len(history)), key=lambda epoch: history[epoch]["val_loss"])
    return {"converged": len(history) - 1 - best >= patience > 0, "epochs": len(history), "best": history[best], "last": history[-1]}


def best_weights(task: Task) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """Tensors of the epoch with the best validation loss so far, and every epoch's row, of a training that `has_begun`."""
    found = checkpoint.newest(task.run)
    assert found is not None
    tensors = {name.removeprefix("best."): tensor.numpy() for name, tensor in found[0].items() if name.startswith("best.")}
    return tensors, found[1]["history"]


def export(task: Task, tensors: Mapping[str, np.ndarray], path: Path, about: Mapping[str, Any]) -> weights.Weights:
    """The folded weights file of a training; what it was trained on goes into its provenance."""
    spec = training_spec(task.settings)
    facts = {key: value for key, value in about.items() if key != "epochs"}
    record = Provenance((Source.of(task.prepared),), task.settings, about["epochs"], facts).to_record()
    weights.save(path, fold_batchnorm(spec), fold_tensors(spec, tensors), task.settings.preprocess, record)
    return weights.load(path)


def patients(model: Model, prepared: Prepared, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Scores as `monet-train evaluate` makes them, through the runtime, on the scans' own grids; distances in pixels everywhere.

    Of the data sets in CROPPED only the slices that hold a label are scored, and patients without one are left out.
    """
    found = match(model.weights.preprocess.labels, prepared.labels)
    for name in names:
        case = prepared.load(name)
        if prepared.name in CROPPED:
            case = holding(case)
        if len(case.label):
            yield from (asdict(row) for row in score(model, case, found, spacing_known=False))


def holding(case: Case) -> Case:
    """The slices of a case that hold a label; for models without neighbouring slices and with a fixed window, as they change nothing."""
    kept = np.flatnonzero(case.label.any(axis=(1, 2)))
    return replace(case, images=tuple(image[kept] for image in case.images), label=case.label[kept])


def pictures(task: Task, model: Model) -> dict[str, float]:
    """Fig 4's overlays and Fig 5's activations, as files where the scans may be shown.

    Returns
    -------
    dict of str to float
        The share of near-zero activations by layer, see `monet_train.figures.activations`.
    """
    found = match(model.weights.preprocess.labels, task.prepared.labels)
    examples = [figures.example(model, task.prepared.load(name), found) for name in task.split["val"][:EXAMPLES]]
    activations = task.folder / f"{task.name}-activations.png"
    shares = figures.activations(activations, model.weights, examples[0][0])
    if task.prepared.name in SHOWN:
        images, truths, predictions = zip(*examples, strict=True)
        figures.overlays(task.folder / f"{task.name}-overlays.png", [image[0] for image in images], truths, predictions)
    else:
        activations.unlink()
    return shares


def finish(task: Task, command: str) -> dict[str, Any]:
    """Export, compare, score and draw what a training has reached, and write its JSON."""
    started = time.perf_counter()
    tensors, history = best_weights(task)
    reached = progress(history, task.settings.recipe.patience)
    found = export(task, tensors, task.folder / f"{task.name}.safetensors", reached)
    model = make_model(found)
    first: Case = task.prepared.load(task.split["val"][0])
    image = figures.example(model, first, match(found.preprocess.labels, task.prepared.labels))[0]
    result = {
        "machine": describe(),
        "command": command,
        "net": task.settings.net,
        "data": task.prepared.name,
        "settings": asdict(task.settings),
        **reached,
        "curve": history,
        "parity": compare(training_spec(task.settings), tensors, found, image),
        "patients": {task.prepared.name: list(patients(model, task.prepared, task.split["val"]))},
        "near_zero": pictures(task, model),
        "sha256": found.sha256,
    }
    if task.external is not None:
        result["patients"][task.external.name] = list(patients(model, task.external, list(task.external.keys)))
    result["seconds"] = {"training": sum(row["seconds"] for row in history), "scoring": time.perf_counter() - started}
    (task.folder / f"{task.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def summary(result: Mapping[str, Any]) -> str:
    """One line: how far the training came, the scores, the parity."""
    state = "converged" if result["converged"] else "NOT CONVERGED"
    scores = ", ".join(f"{data} Dice {mean(row['dice'] for row in rows):.4f} (n {len(rows)})" for data, rows in result["patients"].items())
    parity = result["parity"]
    worst = max(parity[key]["worst"] for key in ("without fusion", "with fusion"))
    return f"{result['net']} on {result['data']}: {state} after {result['epochs']} epochs; {scores}; parity {worst:.1e}"


def describe() -> dict[str, Any]:
    """`machine.describe`, and the GPU."""
    return {**machine.describe(), "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def command_line() -> str:
    """How this process was started, without the folders of this machine: what a table says of itself."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return " ".join(("python -m benchmarks", *words))
