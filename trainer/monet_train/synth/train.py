"""A training on generated images: the loop, the step and the exporter are those of every training, only the batches differ.

An epoch depends on nothing but the state before it and its number, so that a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from monet_edge.errors import ModelError, MonetError, OutputError
from monet_edge.files import atomic_write
from monet_edge.preprocess import Preprocess
from monet_edge.weights import Weights

from ..config import STRONG, Augmentation, Recipe, Settings
from ..dataset import split
from ..export import export_run
from ..losses import one_hot
from ..network import Network
from ..schedule import one_cycle
from ..state import State, describe, start, start_at_prior
from ..step import Step
from ..train import Log, choose_device, run_epochs, set_up_torch
from .generator import Generator
from .labels import label_names
from .maps import LabelMaps
from .ranges import Ranges

# 40,000 steps; everything that an augmentation does, and more, the generator has done already
RECIPE = replace(STRONG, name="synth", epochs=160, epoch_steps=250, validate_every=5, augmentation=Augmentation())
SOURCE = "synth.json"  # what the run's images were made of
VALIDATION = 96  # slices of every head that is held out
FOLDS = 10  # a tenth of the heads, at least one, is held out


@dataclass(frozen=True)
class Source:
    """What a run's images are made of; ``key`` is the hash of its label maps.

    Attributes
    ----------
    data, licence, key : str
        Of the label maps.
    ranges : Ranges
    """

    data: str
    licence: str
    key: str
    ranges: Ranges


def make_record(size: int, context: int, sides: bool) -> Preprocess:
    """How such a network wants its slices: coronal, pixels of 1 mm, percentiles of the foreground."""
    # 0.5: what is nearly black in the foreground must stay apart from background. 99: fat and vessels may be cut.
    return Preprocess(size, "coronal", context, "percentile", 0.5, 99.0, 0.5, label_names(sides))


def make_split(maps: LabelMaps) -> dict[str, list[str]]:
    """Which heads train and which validate: a tenth, at least one."""
    return split(maps.names, folds=max(2, min(FOLDS, len(maps.names))))[0]


def fit(
    settings: Settings,
    source: Source,
    maps: LabelMaps,
    folder: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    compiled: bool | None = None,
    log: Log = lambda row: None,
) -> Network:
    """Train a network on generated images; the run folder gets what `monet_train.train.fit` writes, and `synth.json`.

    Parameters
    ----------
    settings : Settings
        The recipe's ``epoch_steps`` must be given: generated images have no end.
    source : Source
    maps : LabelMaps
    folder, resume, device, compiled, log
        As for `monet_train.train.fit`.

    Returns
    -------
    Network
        With the weights to export, also in `<folder>/final.safetensors`.

    Raises
    ------
    OutputError
        If ``folder`` holds a run already, or one with other settings or label maps.
    MonetError
        If there is no such device, or the recipe has no ``epoch_steps``.
    """
    recipe = settings.recipe
    if not recipe.epoch_steps:
        raise MonetError("epoch_steps must be at least 1: generated images have no end at which an epoch could be over")
    place, part = choose_device(device or ""), make_split(maps)
    set_up_torch(settings, place)
    _check_source(folder, source)
    state = start(settings, part, folder, place, resume=resume)
    describe(settings, part, folder)
    with atomic_write(folder / SOURCE, overwrite=True) as file:
        file.write(_to_json(source).encode())
    compiled = place.type == "cuda" if compiled is None else compiled
    maps = maps.to(place)
    training = Generator(maps.choose(part["train"]), settings.preprocess, source.ranges, compiled)
    held = Generator(maps.choose(part["val"]), settings.preprocess, source.ranges)
    sample = training.slices(settings.seed, 8)
    if recipe.prior and not state.history:
        start_at_prior(state, sample)
    epoch = _epochs(settings, state, training, Step(settings, state, sample, 1, compiled), compiled)
    # the seed of validation is its own: two runs of different seeds are held to the same images
    return run_epochs(settings, state, epoch, held.slices(0, VALIDATION), folder, log=log)


def _epochs(settings: Settings, state: State, generator: Generator, step: Step, compiled: bool) -> Callable[[int], float]:
    """What trains the epoch of a number and tells its mean loss."""
    recipe, classes = settings.recipe, settings.preprocess.classes
    encode = torch.compile(one_hot) if compiled else one_hot

    def epoch(number: int) -> float:
        torch.manual_seed(settings.seed + number)  # of the dropout
        state.network.train()
        losses = []
        for i, (images, labels) in enumerate(generator.batches([settings.seed, number], recipe.epoch_steps, recipe.batch)):
            done = number * recipe.epoch_steps + i
            if recipe.schedule == "one-cycle":
                state.rate = recipe.rate * one_cycle(done / (recipe.epochs * recipe.epoch_steps))
            losses.append(step.learn(images, encode(labels, classes), done))
        return float(torch.stack(losses).mean())

    return epoch


def export(run: Path, output: Path, command: str = "") -> Weights:
    """Fold a finished run into a weights file; errors as `monet_train.export.export`.

    Its file tells no appearance of training scans: there were none, and any contrast is welcome.
    """
    try:
        source = json.loads((run / SOURCE).read_text())
        licence = source["licence"]
        about: dict[str, Any] = {
            "modality": "MRI, any contrast",
            "licence": licence,
            "data": {"name": source["data"], "reference": "label maps only, images generated", "licence": licence},
            "generated": source,
        }
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{run}: not a run of monet-train synth, its {SOURCE} cannot be read ({error})") from None
    return export_run(run, output, about, lambda names: None, command)


def _check_source(folder: Path, source: Source) -> None:
    path = folder / SOURCE
    if path.exists() and path.read_text() != _to_json(source):
        raise OutputError(f"{folder} was started with other label maps or ranges (see its {SOURCE}). Use the same, or another --output.")


def _to_json(source: Source) -> str:
    return json.dumps(asdict(source), indent=1)


def make_settings(data: str, net: str, record: Preprocess, recipe: Recipe, seed: int) -> Settings:
    """Settings of a run on the label maps of a name."""
    return Settings(data, net, record, False, recipe, seed, False)
