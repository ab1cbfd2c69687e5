"""A training on generated images: the loop, the step and the exporter are those of every training, only the batches differ.

An epoch depends on nothing but the state before it and its number, so that a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from monet_edge import limits
from monet_edge.errors import DatasetError, MonetError
from monet_edge.files import locked
from monet_edge.preprocess import Preprocess

from .. import transfer as transfers
from ..config import STRONG, Augmentation, Recipe, Settings
from ..device import choose_device, out_of_memory, set_up_torch, step_memory
from ..losses import one_hot
from ..mix import mixed
from ..network import Network
from ..schedule import one_cycle
from ..splits import Split, patients, split
from ..state import State, describe, start, start_at_prior
from ..step import TrainStep, describe_epoch
from ..train import Log, begin_from, run_epochs
from ..transfer import Transfer
from .generator import Generator
from .labels import label_names
from .maps import LabelMaps
from .origin import FILE, Origin
from .origin import check as check_origin
from .ranges import Ranges
from .traced import taught

# 40,000 steps; everything that an augmentation does, and more, the generator has done already
RECIPE = replace(STRONG, name="synth", epochs=160, epoch_steps=250, validate_every=5, augmentation=Augmentation())
VALIDATION = 96  # slices of every head that is held out
FOLDS = 10  # a tenth of the heads, at least one, is held out


def make_record(size: int, context: int, sides: bool) -> Preprocess:
    """How such a network wants its slices: coronal, pixels of 1 mm, neighbours 1 mm apart, percentiles of the foreground."""
    # 0.5: what is nearly black in the foreground must stay apart from background. 99: fat and vessels may be cut.
    return Preprocess(
        size=size,
        slicing="coronal",
        context=context,
        intensity="percentile",
        low=0.5,
        high=99.0,
        threshold=0.5,
        labels=label_names(sides),
        spacing=1.0,
        thickness=1.0,
        neighbours="linear",  # as the generator makes what lies between a scan's samples
    )


def make_split(maps: LabelMaps) -> tuple[Split, str]:
    """Which heads train and which validate, a tenth, at least one; and the rule that says who is one patient.

    Heads whose map is `lopsided` do neither.

    Raises
    ------
    DatasetError
        If all are of one patient, or all that could train or validate are lopsided.
    """
    found = patients(maps.names)
    count = len({*found.of.values()})
    if count < 2:
        raise DatasetError(f"{maps.data}: expected label maps of at least two patients, one to train on and one to validate; found {count}")
    lopsided = maps.lopsided()
    part = {use: [name for name in names if name not in lopsided] for use, names in split(maps.names, folds=min(FOLDS, count))[0].items()}
    if not all(part.values()):
        name, structure = next(iter(lopsided.items()))
        raise DatasetError(f"{maps.data}: too few label maps are left; in {name} the {structure} is on one side only, or nearly so")
    return part, found.rule


def fit(
    settings: Settings,
    origin: Origin,
    maps: LabelMaps,
    folder: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    compiled: bool | None = None,
    transfer: Transfer | None = None,
    log: Log = lambda row: None,
    announce: Callable[[str], None] = lambda line: None,
) -> Network:
    """Train a network on generated images; the run folder gets what `monet_train.train.fit` writes, with `synth.json` for its `cases.json`.

    Parameters
    ----------
    settings : Settings
        The recipe's ``epoch_steps`` must be given: generated images have no end. It has no augmentation: the generator's `Ranges`
        say what is random.
    origin : Origin
    maps : LabelMaps
    folder, resume, device, compiled, transfer, log, announce
        As for `monet_train.train.fit`.

    Returns
    -------
    Network
        With the weights to export, also in `<folder>/final.safetensors`.

    Raises
    ------
    OutputError
        If ``folder`` holds a run already, or one with other settings or label maps, or another process trains in it.
    DatasetError
        If all label maps are of one patient.
    ResourceError
        If there is not enough memory.
    MonetError
        If there is no such device, or the recipe has no ``epoch_steps``, or has an augmentation.
    """
    recipe = settings.recipe
    if not recipe.epoch_steps:
        raise MonetError("epoch_steps must be at least 1: generated images have no end at which an epoch could be over")
    if recipe.augmentation != Augmentation():
        raise MonetError("augmentation has no effect on generated images: all that is random about them was drawn before")
    place, (part, rule) = choose_device(device or ""), make_split(maps)
    set_up_torch(settings, place)
    _demand(settings, origin.ranges, maps, part, place)
    with out_of_memory(), locked(folder):  # a second run in the same folder would replace this one's checkpoints
        check_origin(folder, origin)
        state = start(settings, part, folder, place, resume=resume)
        transfers.check(transfer, settings, folder)
        texts = {FILE: origin.to_json()} | ({transfers.FILE: transfers.to_json(transfer)} if transfer else {})
        describe(settings, part, folder, texts, rule)
        compiled = place.type == "cuda" if compiled is None else compiled
        heads = [taught(maps.choose(part[use]), origin.ranges).to(place) for use in ("train", "val")]
        training = Generator(heads[0], settings.preprocess, origin.ranges, compiled)
        held = Generator(heads[1], settings.preprocess, origin.ranges)
        sample = training.slices(settings.seed, 8)
        if transfer is not None:
            begin_from(state, transfer, settings, sample)
            announce(transfer.describe(settings))
        if recipe.prior and not state.history and (transfer is None or transfer.new_head(settings)):
            start_at_prior(state, sample)
        epoch = _epochs(settings, state, training, TrainStep(settings, state, sample, 1, compiled), compiled)
        for name, structure in maps.lopsided().items():
            announce(f"left out: {name}, in which the {structure} is on one side only, or nearly so")
        announce(describe_epoch(None, recipe))
        # the seed of validation is its own: two runs of different seeds are held to the same images
        return run_epochs(settings, state, epoch, held.slices(0, VALIDATION), folder, log=log, finish=partial(mixed, transfer, settings))


def _demand(settings: Settings, ranges: Ranges, maps: LabelMaps, part: Split, place: torch.device) -> None:
    """Refuse a training that cannot fit into this machine's memory, as `monet_train.checks.check_memory` does; a GPU has its own."""
    if place.type != "cpu":
        return
    record, batch, times = settings.preprocess, settings.recipe.batch, 2 if ranges.young else 1  # younger heads come beside the others
    held = VALIDATION * times * len(part["val"]) * record.size**2 * (4 * (2 * record.context + 1) + 1)  # float32 images, uint8 labels
    held = times * maps.ids.nbytes + 2 * held  # those that train and those that validate are copies; twice while slices are put together
    what = f"a training on images of {len(maps.names):,} heads, {batch} slices of {record.size}x{record.size} at a time,"
    limits.demand(held + step_memory(settings, batch, place), what)


def _epochs(settings: Settings, state: State, generator: Generator, step: TrainStep, compiled: bool) -> Callable[[int], float]:
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
                state.learning_rate = recipe.learning_rate * one_cycle(done / (recipe.epochs * recipe.epoch_steps))
            losses.append(step.learn(images, encode(labels, classes), done))
        return float(torch.stack(losses).mean())

    return epoch


def make_settings(data: str, net: str, record: Preprocess, recipe: Recipe, seed: int) -> Settings:
    """Settings of a run on the label maps of a name."""
    return Settings(dataset=data, net=net, preprocess=record, merged=False, recipe=recipe, seed=seed, deterministic=False)
