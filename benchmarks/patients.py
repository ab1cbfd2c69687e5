"""Dice against the number of training patients, from scratch and from the shipped file of another organ: what `fit --from` saves.

    python -m benchmarks.patients run PREPARED --splits weights/heart-cine.splits.json -o FOLDER
    python -m benchmarks.patients page FOLDER

PREPARED is `heart-cine` as monet-train prepare writes it. `run` writes one JSON a training and goes on where it was stopped; `page` adds
them to `results/patients.json`, and writes `PATIENTS.md` and `patients.svg` from that. Every training has as many steps, by the recipe of
the shipped `heart-cine`, and is scored on that model's validation patients through the runtime; a seed is one order of the training
patients, of whom the first so many train, and one choice of all else that is random.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from monet_edge import weights
from monet_edge.files import atomic_write
from monet_train.config import STRONG, Recipe, Settings, make_preprocess
from monet_train.evaluate import make_model
from monet_train.fold import fold_run
from monet_train.prepare import Prepared, open_prepared
from monet_train.provenance import Source
from monet_train.splits import Split, patients, read_splits
from monet_train.train import fit
from monet_train.transfer import Transfer

from . import patients_page, training
from .patients_page import BASE, SCRATCH

HERE = Path(__file__).parent
RESULTS, PAGE, FIGURE = HERE / "results" / "patients.json", HERE / "PATIENTS.md", HERE / "patients.svg"
COUNTS, SEEDS = (1, 2, 5, 10, 20), (0, 1)
PATIENT = "(.*)_frame"
STARTS = (SCRATCH, BASE)  # BASE is of another organ and sequence; its slices enter as those of heart-cine do
RECIPE = replace(  # of weights/heart-cine.md, half as long
    STRONG,
    epochs=30,
    epoch_steps=100,
    validate_every=30,
    weight_decay=0.03,
    dropout=0.5,
    augmentation=replace(STRONG.augmentation, flip=0, skull_strip=0, rotate=30, contrast=0.2, gamma=0.2, bias_field=0.2, drop_context=0.2),
)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def subset(split: Split, count: int, seed: int) -> Split:
    """A split with all scans of the first so many training patients, in a seed's order: fewer patients are part of more."""
    of = patients(split["train"], PATIENT).of
    scans: dict[str, list[str]] = defaultdict(list)
    for name in sorted(split["train"]):
        scans[of[name]].append(name)
    chosen = np.random.default_rng(seed).permutation(sorted(scans))[:count]
    return {"train": [name for patient in chosen for name in scans[patient]], "val": split["val"]}


def train(prepared: Prepared, split: Split, start: str, seed: int, recipe: Recipe, size: int, device: str | None) -> dict[str, Any]:
    """Train once and score every validation scan: Dice by structure and scan."""
    record = make_preprocess(prepared.labels, size=size, context=1, low=-3.0, high=6.0)
    settings = Settings(dataset=prepared.name, net="monet", preprocess=record, recipe=recipe, seed=seed)
    history: list[dict[str, float]] = []
    transfer = None if start == SCRATCH else Transfer(weights.load(start))
    torch.compiler.reset()  # what was compiled for another training counts against a limit of eight
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        fit(settings, prepared, split, run, device=device, checkpoint_every=recipe.epochs, transfer=transfer, log=history.append)
        found = fold_run(run, Source.of(prepared), {}, {}).write(Path(work) / "model.safetensors")
    dice: dict[str, dict[str, float]] = defaultdict(dict)
    for row in training.patients(make_model(found), prepared, split["val"]):
        dice[row["label"]][row["case"]] = row["dice"]
    seconds = sum(row["seconds"] for row in history)
    return {"machine": training.describe(), "learning_rate": recipe.learning_rate, "loss": history[-1], "seconds": seconds, "dice": dice}


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="PREPARED", help="`heart-cine` as monet-train prepare writes it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder; what is recorded there is not trained again.")],
    splits: Annotated[Path, typer.Option(help="The committed split.")],
    start: Annotated[list[str] | None, typer.Option(help=f"Only these, repeatable: {', '.join(STARTS)}.")] = None,
    count: Annotated[list[int] | None, typer.Option(min=1, help="Training patients, repeatable. Default: 1, 2, 5, 10, 20.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Repeatable. Default: 0, 1.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of an epoch, of 30.")] = RECIPE.epoch_steps,
    size: int = 256,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
) -> None:
    """Train and score, one JSON a training, written as soon as it is done."""
    prepared, split, recipe = open_prepared(folder), read_splits(splits)[0], replace(RECIPE, epoch_steps=steps)
    output.mkdir(parents=True, exist_ok=True)
    for number in seed or SEEDS:
        for few in count or COUNTS:
            for name in start or STARTS:
                path = output / f"{name}-{few}-seed{number}.json"
                if path.exists():
                    continue
                about = {"start": name, "patients": few, "seed": number, "steps": recipe.epochs * steps}
                found = about | train(prepared, subset(split, few, number), name, number, recipe, size, device)
                with atomic_write(path, overwrite=True) as file:
                    file.write(json.dumps(found).encode())
                print(f"{path.stem}: Dice {patients_page.mean_dice(found):.4f}, {found['seconds']:.0f} s", flush=True)


@app.command()
def page(folder: Annotated[Path | None, typer.Argument(exists=True, help="What `run` wrote.")] = None) -> None:
    """Add what `run` wrote to the results, write page and figure."""
    known: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = {(row["start"], row["patients"], row["seed"]): row for row in known}
    for path in sorted(folder.glob("*.json")) if folder else ():
        row = json.loads(path.read_text(encoding="utf-8"))
        rows[row["start"], row["patients"], row["seed"]] = row
    found = [rows[key] for key in sorted(rows)]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(patients_page.page(found), encoding="utf-8")
    patients_page.draw(found, FIGURE)


if __name__ == "__main__":
    app()
