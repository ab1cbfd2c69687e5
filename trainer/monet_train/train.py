"""The training loop: one implementation for CPU and GPU, one process or several (torchrun), new runs and resumed ones.

An epoch depends on nothing but the state before it and its number (see `step`). So a run that was killed goes on from its last
checkpoint as if nothing had happened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist

from monet_edge import limits
from monet_edge.errors import DatasetError, MonetError, ResourceError
from monet_edge.files import locked
from monet_edge.preprocess import Preprocess
from monet_edge.spec import infer_shapes

from . import cases, checkpoint
from . import transfer as transfers
from .config import Settings, effective_settings, training_spec
from .data import Slices, build, memory_of
from .dataset import image_names
from .network import Network
from .prepare import Prepared
from .schedule import after_epoch, finished
from .splits import GIVEN, Split
from .state import State, describe, start, start_at_prior, write
from .step import TrainStep, describe_epoch
from .transfer import Transfer
from .validate import agreed, validate

_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "start new thread")  # in the words of PyTorch and Python
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
        demand(settings, prepared, split, place)
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

        return run_epochs(settings, state, epoch, validation, folder, rank, world, checkpoint_every, log)


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
    final = state.best if recipe.keep == "best" else state.validated(recipe)
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


@contextmanager
def out_of_memory() -> Iterator[None]:
    """What NumPy, PyTorch and the system say when memory runs out, as a ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error).partition("\n")[0]
        # PyTorch has a class of its own for a GPU's memory only
        if not isinstance(error, MemoryError) and not any(words in message.lower() for words in _NO_MEMORY):
            raise
        raise ResourceError(f"the memory ran out while training: {message or 'no more can be had'}") from None


def demand(settings: Settings, prepared: Prepared, split: Split, place: torch.device) -> None:
    """Refuse a training that cannot fit into this machine's memory, before anything of it is loaded.

    Raises
    ------
    ResourceError
        With what it needs at least, and what there is.
    """
    size = settings.preprocess.size
    training, validation, held = memory_of(prepared, split["train"], split["val"], settings.preprocess)
    batch = min(settings.recipe.batch, training)
    what = f"a training on {training + validation:,} slices of {size}x{size}, {batch} at a time,"
    limits.demand(held + step_memory(settings, batch, place), what)


def step_memory(settings: Settings, batch: int, place: torch.device) -> int:
    """Bytes of this machine's memory that a step on so many slices takes at least: none on a GPU."""
    size, spec = settings.preprocess.size, training_spec(settings)
    # a step's values wait for their gradients: the U-Nets keep 0.84 to 0.96 of these bytes, MoNet twice as many
    return 4 * batch * sum(prod(shape) for shape in infer_shapes(spec, size, size).values()) if place.type == "cpu" else 0


def choose_device(name: str = "", rank: int = 0) -> torch.device:
    """The device of a name: cpu, cuda:0, cuda:1, ...; cuda is this process's own GPU, nothing that one or else the CPU.

    Raises
    ------
    MonetError
        If there is no such device.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    # a GPU with its index, without which torch.cuda.set_device refuses it
    meant = f"cuda:{rank}" if name == "cuda" or (not name and gpus) else name or "cpu"
    if meant not in ("cpu", *gpus):
        raise MonetError(f"device {name}: expected one of {', '.join(('cpu', *gpus))}, which PyTorch finds here")
    return torch.device(meant)


def check_split(split: Split, prepared: Prepared) -> None:
    """Raise a DatasetError unless both parts of a split hold cases of this data set, once each, and no copies of one in both."""
    unknown = sorted({*split["train"], *split["val"]} - prepared.keys.keys())
    if unknown:
        raise DatasetError(f"{prepared.folder}: the split names cases that it does not hold: {len(unknown)}, such as {unknown[0]}")
    if not split["train"] or not split["val"]:
        raise DatasetError("the split needs at least one case to train on and one to validate")
    both = set(split["train"]) & set(split["val"])
    if both:
        raise DatasetError(f"the split has {min(both)} in both parts; validation must be of other patients")
    for part in ("train", "val"):
        if len({*split[part]}) < len(split[part]):
            raise DatasetError(f"the split has {max(split[part], key=split[part].count)} twice in {part}")
    trained = {prepared.keys[name]: name for name in split["train"]}
    for name in split["val"]:
        if (original := trained.get(prepared.keys[name])) is not None:
            raise DatasetError(f"the split validates on {name}, whose files are copies of {original}'s, which trains")


def check_images(record: Preprocess, prepared: Prepared) -> None:
    """Raise a DatasetError where the cases of a data set have other images than a network takes, or the same in another order."""
    found = image_names(prepared)
    if len(found) != record.images or (record.images > 1 and found != record.names):
        there, wanted = (f"{len(names)} ({', '.join(names)})" if len(names) > 1 else "1" for names in (found, record.names))
        raise DatasetError(
            f"{prepared.folder}: the images of a case are {there}, the network takes {wanted}; prepare it with other volumes"
        )


def check_spacing(record: Preprocess, prepared: Prepared) -> None:
    """Raise a DatasetError where a model would work in millimetres and nobody knows how many a voxel measures."""
    if record.in_mm and not prepared.spacing_known:
        raise DatasetError(
            f"{prepared.name}: its dataset.json says that the spacing is unknown, so no model in millimetres can be trained on it;"
            " expected no spacing and no thickness"
        )


def set_up_torch(settings: Settings, place: torch.device) -> None:
    """Torch's global switches for a training."""
    torch.use_deterministic_algorithms(settings.deterministic)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def training_slices(settings: Settings, prepared: Prepared, names: list[str], place: torch.device) -> Slices:
    """The slices of cases with all that the recipe's augmentation needs."""
    stripped = effective_settings(settings).recipe.augmentation.skull_strip > 0
    return build(prepared, names, settings.preprocess, settings.merged, place, stripped)


def _draw_curves(folder: Path) -> None:
    from .figures import curves  # Matplotlib takes a second to import

    curves(folder)
