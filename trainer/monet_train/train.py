"""The training loop: one implementation for CPU and GPU, one process or several (torchrun), new runs and resumed ones.

An epoch depends on nothing but the state before it and its number (see `step`). So a run that was killed goes on from its last
checkpoint as if nothing had happened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from monet_edge.files import locked

from . import cases, checkpoint
from . import transfer as transfers
from .checks import check_images, check_memory, check_spacing, check_split
from .config import Settings, effective_settings
from .data import Slices, build
from .device import choose_device, out_of_memory, set_up_torch
from .mix import mixed
from .network import Network
from .prepare import Prepared
from .schedule import after_epoch, finished
from .splits import GIVEN, Split
from .state import State, describe, start, start_at_prior, write
from .step import TrainStep, describe_epoch
from .transfer import Transfer
from .validate import agreed, validate

Log = Callable[[dict[str, float]], None]


def fit(
    settings: Settings,
    prepared: Prepared,
    split: Split,
    folder: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    compiled: bool | None = None,
    checkpoint_every: int = 1,
    rule: str = GIVEN,
    transfer: Transfer | None = None,
    log: Log = lambda row: None,
    announce: Callable[[str], None] = lambda line: None,
) -> Network:
    """Train a network; the run folder gets config.json, splits.json, cases.json, metrics.csv and a checkpoint every epoch.

    Parameters
    ----------
    settings : Settings
    prepared : Prepared
    split : {"train": [...], "val": [...]}
    folder : Path
        The run's; created. One that holds a run already is an error unless ``resume``.
    resume : bool
        Go on from the newest checkpoint.
    device : str, optional
        Default: the GPU if there is one.
    compiled : bool, optional
        Whether to use torch.compile; default: on a GPU.
    checkpoint_every : int
        Epochs from one checkpoint to the next, the last epoch apart: U-Net-64's has 620 MB, as long to write as to train an epoch.
    rule : str
        How the split was made, for splits.json; see `splits`.
    transfer : Transfer, optional
        What it starts from, instead of from nothing; needed to ``resume`` such a run, too.
    log : callable
        Called with every epoch's row of metrics.
    announce : callable
        Called before the first epoch with lines: what it starts from, how long an epoch is and why.

    Returns
    -------
    Network
        With the weights to export, also in `<folder>/final.safetensors`.

    Raises
    ------
    OutputError
        If ``folder`` holds a run already, or one with other settings, patients or data, or another process trains in it.
    DatasetError
        If the split names cases that there are not, or the cases have other images than the network takes.
    ResourceError
        If there is not enough memory.
    MonetError
        If there is no such device.
    """
    with out_of_memory(), _process_group(device or "") as (rank, world), ExitStack() as claim:
        place = choose_device(device or "", rank)
        check_split(split, prepared)
        check_images(settings.preprocess, prepared)
        check_spacing(settings.preprocess, prepared)
        set_up_torch(settings, place)
        check_memory(settings, prepared, split, place)
        if rank == 0:  # a second run in the same folder would replace this one's checkpoints
            claim.enter_context(locked(folder))
        trained_on = cases.of_prepared(prepared, split)
        state = start(settings, split, folder, place, resume=resume, trained_on=trained_on)
        transfers.check(transfer, settings, folder)
        if world > 1:
            dist.barrier()  # no process may find what the first one writes now, and take it for an earlier run
        if rank == 0:
            origin = {transfers.FILE: transfers.to_json(transfer)} if transfer else {}
            describe(settings, split, folder, {cases.FILE: cases.to_json(trained_on), **origin}, rule)
        training = training_slices(settings, prepared, split["train"], place)
        validation = build(prepared, split["val"], settings.preprocess, settings.merged, place, False)
        if transfer is not None:
            begin_from(state, transfer, settings, training)
        if settings.recipe.prior and not state.history and (transfer is None or transfer.new_head(settings)):
            start_at_prior(state, training)
        compiled = place.type == "cuda" if compiled is None else compiled
        step = TrainStep(settings, state, training, world, compiled)
        if rank == 0:
            if transfer is not None:
                announce(transfer.describe(settings))
            announce(describe_epoch(len(training.images), settings.recipe, world))

        def epoch(number: int) -> float:
            return step.epoch(number, rank, world)

        finish = partial(mixed, transfer, settings)
        return run_epochs(settings, state, epoch, validation, folder, rank, world, checkpoint_every, log, finish)


def begin_from(state: State, transfer: Transfer, settings: Settings, training: Slices) -> None:
    """Take over what a new state starts from, and freeze what shall not learn, of a state that goes on, too."""
    if not state.history:
        chosen = torch.linspace(0, len(training.images) - 1, min(transfers.SAMPLE, len(training.images))).long()
        transfers.take_over(transfer, settings, state.network, training.inputs(chosen.to(training.images.device)))
        for copied in (state.average, state.best):
            copied.load_state_dict(state.network.state_dict())
    if transfer.frozen:
        transfers.freeze(state.network)


def run_epochs(
    settings: Settings,
    state: State,
    epoch: Callable[[int], float],
    validation: Slices,
    folder: Path,
    rank: int = 0,
    world: int = 1,
    checkpoint_every: int = 1,
    log: Log = lambda row: None,
    finish: Callable[[Network], Network] = lambda network: network,
) -> Network:
    """Train until the recipe is finished, validate, keep checkpoints; the one loop of every training.

    Parameters
    ----------
    settings, folder, checkpoint_every, log
        As for `fit`.
    state : State
        New, or of a checkpoint: epochs that it has behind it are not trained again.
    epoch : callable
        Trains the epoch of a number and returns its mean loss.
    validation : Slices
    rank, world : int
        Of this process, and how many there are.
    finish : callable
        Makes the network to export of the one that was trained.

    Returns
    -------
    Network
        As from `fit`.
    """
    recipe, place = settings.recipe, validation.images.device
    while not finished(recipe, state):
        number, started = len(state.history), time.perf_counter()
        trained = epoch(number)
        seconds = time.perf_counter() - started
        scores: dict[str, float] = {}
        if (number + 1) % recipe.validate_every == 0 or number + 1 == recipe.epochs:
            scores = agreed(validate(state.validated(recipe), validation), place, world)
        measured = {"epoch": number, "learning_rate": state.learning_rate, "train_loss": trained, "seconds": seconds}
        after_epoch(recipe, state, measured | scores)
        if rank == 0:
            if (number + 1) % checkpoint_every == 0 or finished(recipe, state):
                write(state, folder)
            log(state.history[-1])
    final = finish(state.best if recipe.keep == "best" else state.validated(recipe))
    if rank == 0:
        checkpoint.save(folder / checkpoint.FINAL, final.state_dict(), {"epochs": len(state.history)})
        _draw_curves(folder)
    return final.eval()


@contextmanager
def _process_group(device: str) -> Iterator[tuple[int, int]]:
    """This process's rank and the number of processes, as torchrun says: over NCCL where they train on GPUs, over gloo on the CPU."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("nccl" if choose_device(device).type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def training_slices(settings: Settings, prepared: Prepared, names: list[str], place: torch.device) -> Slices:
    """The slices of cases with all that the recipe's augmentation needs."""
    stripped = effective_settings(settings).recipe.augmentation.skull_strip > 0
    return build(prepared, names, settings.preprocess, settings.merged, place, stripped)


def _draw_curves(folder: Path) -> None:
    from .figures import curves  # Matplotlib takes a second to import

    curves(folder)
