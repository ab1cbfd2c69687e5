"""The training loop: one implementation for CPU and GPU, one process or several (torchrun), new runs and resumed ones.

An epoch depends on nothing but the state before it and its number: its random generators start from (seed, epoch, rank). So a
run that was killed goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from monet_edge.architectures import ARCHITECTURES
from monet_edge.errors import DatasetError, OutputError
from monet_edge.files import atomic_write
from monet_edge.spec import Op, Spec

from . import checkpoint
from .augment import augment
from .config import Recipe, Settings
from .data import Slices, build
from .losses import loss, one_hot
from .network import BatchNorm, Network
from .prepare import Prepared

Log = Callable[[dict[str, float]], None]


@dataclass
class State:
    """What changes during a training; everything in it is in the checkpoints."""

    network: Network
    average: Network
    best: Network
    optimiser: torch.optim.Optimizer
    history: list[dict[str, float]]
    rate: float
    lowest: float = math.inf  # validation loss
    reference: float = math.inf  # what an epoch must better by 1e-4, for the schedule
    bad_epochs: int = 0  # since it did, for the schedule
    waited: int = 0  # epochs since the lowest validation loss, for stopping


def fit(
    settings: Settings,
    prepared: Prepared,
    split: dict[str, list[str]],
    folder: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    compiled: bool | None = None,
    log: Log = lambda row: None,
) -> Network:
    """Train a network; the run folder gets config.json, splits.json, metrics.csv and a checkpoint every epoch.

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
    log : callable
        Called with every epoch's row of metrics.

    Returns
    -------
    Network
        With the weights to export, also in `<folder>/final.safetensors`.

    Raises
    ------
    OutputError
        If ``folder`` holds a run already, or one with other settings.
    DatasetError
        If the split names cases that there are not.
    """
    with _process_group() as (rank, world):
        place = torch.device(device or (f"cuda:{rank}" if torch.cuda.is_available() else "cpu"))
        check_split(split, prepared)
        state = _start(settings, folder, place, resume=resume, rank=rank, split=split)
        set_up_torch(settings, place)
        training = training_slices(settings, prepared, split["train"], place)
        validation = build(prepared, split["val"], settings.preprocess, settings.merged, place, False)
        if settings.recipe.prior and not state.history:
            start_at_prior(state, training)
        compiled = place.type == "cuda" if compiled is None else compiled
        step = Step(settings, state, training, world, compiled)
        while not _finished(settings.recipe, state):
            epoch, started = len(state.history), time.perf_counter()
            trained = step.epoch(epoch, rank, world)
            seconds = time.perf_counter() - started
            scores: dict[str, float] = {}
            if (epoch + 1) % settings.recipe.validate_every == 0 or epoch + 1 == settings.recipe.epochs:
                network = state.average if settings.recipe.average else state.network
                scores = _agreed(validate(network, validation), place, world)
            _after_epoch(settings.recipe, state, {"epoch": epoch, "rate": state.rate, "train_loss": trained, "seconds": seconds, **scores})
            if rank == 0:
                _write_state(folder, epoch, state)
                log(state.history[-1])
        final = state.best if settings.recipe.keep == "best" else (state.average if settings.recipe.average else state.network)
        if rank == 0:
            checkpoint.save(folder / "final.safetensors", final.state_dict(), {"epochs": len(state.history)})
            _draw_curves(folder)
        return final.eval()


@contextmanager
def _process_group() -> Iterator[tuple[int, int]]:
    """This process's rank and the number of processes, as torchrun says; gloo without GPUs."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def check_split(split: dict[str, list[str]], prepared: Prepared) -> None:
    """Raise a DatasetError unless both parts of a split hold cases of this data set, none of them in both."""
    unknown = sorted({*split["train"], *split["val"]} - prepared.keys.keys())
    if unknown:
        raise DatasetError(f"{prepared.folder}: the split names {len(unknown)} cases that it does not hold, such as {unknown[0]}")
    if not split["train"] or not split["val"]:
        raise DatasetError("the split needs at least one case to train on and one to validate")
    both = set(split["train"]) & set(split["val"])
    if both:
        raise DatasetError(f"the split has {min(both)} in both parts; validation must be of other patients")


def set_up_torch(settings: Settings, place: torch.device) -> None:
    """Torch's global switches for a training."""
    torch.use_deterministic_algorithms(settings.deterministic)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def _start(settings: Settings, folder: Path, place: torch.device, *, resume: bool, rank: int, split: dict[str, list[str]]) -> State:
    """A fresh state, or that of the newest checkpoint."""
    config = json.dumps(asdict(settings), indent=1)
    known = folder / "config.json"
    if known.exists() and not resume:
        raise OutputError(f"{folder} holds a run already. Say --resume to go on with it, or choose another --output.")
    if known.exists() and known.read_text() != config:
        raise OutputError(f"{folder} was started with other settings (see its config.json). Use the same ones, or another --output.")
    state = new_state(settings, place)
    found = checkpoint.newest(folder) if resume else None
    if found is not None:
        _restore(state, *found)
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("config.json", config), ("splits.json", json.dumps([split], indent=1))):
            with atomic_write(folder / name, overwrite=True) as file:
                file.write(text.encode())
    return state


def new_state(settings: Settings, place: torch.device) -> State:
    """An untrained network, its copies and its optimiser: the same everywhere for the same settings."""
    recipe = settings.recipe
    torch.manual_seed(settings.seed)
    network = Network(training_spec(settings)).to(place)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.momentum = recipe.momentum
    average, best = copy.deepcopy(network), copy.deepcopy(network)
    return State(network, average, best, make_optimiser(recipe, network), [], recipe.rate)


def training_spec(settings: Settings) -> Spec:
    """The Spec that a run trains: the architecture for its channels and classes, with the recipe's dropout."""
    record = settings.preprocess
    spec = ARCHITECTURES[settings.net](2 * record.context + 1, record.classes)

    def adjusted(op: Op) -> Op:
        return replace(op, attrs={**op.attrs, "dropout": op["dropout"] * settings.recipe.dropout}) if "dropout" in op.attrs else op

    return replace(spec, ops=tuple(adjusted(op) for op in spec.ops))


def training_slices(settings: Settings, prepared: Prepared, names: list[str], place: torch.device) -> Slices:
    """The slices of cases with all that the recipe's augmentation needs."""
    stripped = settings.recipe.augmentation.strip > 0 and settings.preprocess.intensity == "zscore"
    return build(prepared, names, settings.preprocess, settings.merged, place, stripped)


@torch.no_grad()
def start_at_prior(state: State, training: Slices) -> None:
    """Let the untrained network answer with the classes' frequencies.

    The head's BatchNorm gives its logits mean 0, and Adam moves its bias by one learning rate a step at most: from 0 it takes
    a thousand steps until the background is predicted (phantom, 40 epochs: see the commit).
    """
    classes = state.network.spec.classes
    share = torch.bincount(training.labels.flatten().int(), minlength=max(classes, 2)).float() / training.labels.numel()
    logits = share.clamp_min(1e-4).log() if classes > 1 else torch.logit(share[1:2].clamp(1e-4, 0.5))
    for network in (state.network, state.average, state.best):
        head = network.get_submodule("head")
        bias = head.get_submodule("bn").bias if "bn" in dict(head.named_children()) else head.bias
        bias.copy_(logits)  # type: ignore[operator]


def make_optimiser(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser."""
    parameters = list(network.parameters())
    if recipe.optimiser == "nadam":
        return torch.optim.NAdam(parameters, recipe.rate)
    return torch.optim.AdamW(parameters, recipe.rate, weight_decay=recipe.decay, fused=parameters[0].is_cuda)


class Step:
    """One epoch of steps; holds what compiles."""

    def __init__(self, settings: Settings, state: State, training: Slices, world: int, compiled: bool) -> None:
        self.settings, self.state, self.training = settings, state, training
        self.network: Callable[[Tensor], Tensor] = state.network
        self.prepare = self._batch
        self.loss = loss
        if world > 1:
            self.network = nn.parallel.DistributedDataParallel(state.network, broadcast_buffers=False, gradient_as_bucket_view=True)
        if compiled:
            self.network = torch.compile(self.network)
            self.prepare = torch.compile(self._batch)
            self.loss = torch.compile(loss)

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images (N, C, S, S) and one-hot labels (N, K, S, S) of slices ``index``."""
        data, record = self.training, self.settings.preprocess
        images, labels = data.inputs(index), one_hot(data.labels[index], record.classes)
        settings = self.settings.recipe.augmentation
        if record.intensity != "zscore":
            settings = replace(settings, strip=0.0)
        return augment(images, labels, data.depths[index], data.strips[data.cases[index]], settings, (record.low, record.high))

    def epoch(self, epoch: int, rank: int, world: int) -> float:
        """Train on every slice once; returns the mean training loss."""
        settings, state = self.settings, self.state
        recipe, place = settings.recipe, self.training.images.device
        order = _order(len(self.training.images), recipe.batch, world, settings.seed, epoch)[rank]
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch, rank]).generate_state(1)[0]))
        state.network.train()
        losses = []
        for i, index in enumerate(torch.from_numpy(order).to(place)):
            if recipe.schedule == "one-cycle":
                state.rate = recipe.rate * one_cycle((epoch + i / len(order)) / recipe.epochs)
            losses.append(self.step(index, epoch * len(order) + i))
        if world > 1:
            for buffer in state.network.buffers():  # every process has its own running statistics
                dist.all_reduce(buffer)
                buffer /= world
        mean = torch.stack(losses).mean()
        if world > 1:
            dist.all_reduce(mean)
        return float(mean) / world

    def step(self, index: Tensor, number: int) -> Tensor:
        """Train on one batch, the run's ``number``-th; returns its loss."""
        settings, state = self.settings, self.state
        with torch.no_grad():
            images, labels = self.prepare(index)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            probability = self.network(images)
        value = self.loss(probability, labels, settings.recipe.cross_entropy)
        state.optimiser.zero_grad(set_to_none=True)
        value.backward()
        for group in state.optimiser.param_groups:
            group["lr"] = state.rate
        state.optimiser.step()
        if settings.recipe.average:
            # the first weights are forgotten sooner: a young average follows faster
            _follow(state.average, state.network, min(settings.recipe.average, (1 + number) / (10 + number)))
        return value.detach()


def _order(count: int, batch: int, world: int, seed: int, epoch: int) -> np.ndarray:
    """Every slice once, shuffled, in whole batches: (world, steps, batch) int64; the first few come twice to fill the last."""
    batch = min(batch, max(1, count // world))
    shuffled = np.random.default_rng([seed, epoch]).permutation(count)
    steps = -(-count // (batch * world))
    return np.resize(shuffled, (steps, world, batch)).swapaxes(0, 1).copy()


def one_cycle(progress: float, up: float = 0.2) -> float:
    """Share of the highest learning rate: from 1/25 up along a cosine in the first fifth, then down to 0."""
    if progress < up:
        return 1 / 25 + 24 / 25 * (1 - math.cos(math.pi * progress / up)) / 2
    return (1 + math.cos(math.pi * (progress - up) / (1 - up))) / 2


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network, running statistics included."""
    torch._foreach_lerp_(list(average.state_dict().values()), list(network.state_dict().values()), 1 - decay)


@torch.no_grad()
def validate(network: Network, data: Slices, batch: int = 64) -> dict[str, float]:
    """Soft Dice loss over all slices, and the mean Dice over patients, at the network's size.

    A patient without a label, found in truth and prediction alike, counts as 1, missed or invented as 0.
    """
    network.eval()
    classes = network.spec.classes
    totals: Tensor = torch.zeros(3, max(1, classes - 1), device=data.images.device, dtype=torch.float64)
    counts: Tensor = torch.zeros(3, len(data.names), max(1, classes - 1), device=data.images.device, dtype=torch.float64)
    for index in torch.arange(len(data.images), device=data.images.device).split(batch):
        images = data.inputs(index).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            probability = network(images)
        target = one_hot(data.labels[index], classes)
        found = (probability > 0.5).float() if classes == 1 else one_hot(probability.argmax(1), classes)
        if classes > 1:
            probability, target, found = probability[:, 1:], target[:, 1:], found[:, 1:]
        for k, value in enumerate((probability * target, probability, target)):
            totals[k] += value.sum((0, 2, 3), dtype=torch.float64)
        for k, value in enumerate((found * target, found, target)):
            counts[k].index_add_(0, data.cases[index], value.sum((2, 3), dtype=torch.float64))
    both, predicted, true = counts
    dice = torch.where(predicted + true > 0, 2 * both / (predicted + true).clamp_min(1), 1.0).mean(0).tolist()
    soft = 1 - (2 * totals[0] + 1) / (totals[1] + totals[2] + 1)
    return {"val_loss": float(soft.mean()), **{f"val_dice_{k + 1}": value for k, value in enumerate(dice)}}


def _finished(recipe: Recipe, state: State) -> bool:
    return len(state.history) >= recipe.epochs or bool(recipe.patience and state.waited >= recipe.patience)


def _after_epoch(recipe: Recipe, state: State, row: dict[str, float]) -> None:
    """Note the epoch, keep the best weights, lower the rate on a plateau.

    The rule is Keras's: an epoch is bad unless it betters the best loss by 1e-4, and the rate falls after the second bad one.
    """
    state.history.append(row)
    if "val_loss" not in row:
        return
    state.bad_epochs, state.waited = state.bad_epochs + 1, state.waited + 1
    if row["val_loss"] < state.lowest:
        state.best.load_state_dict((state.average if recipe.average else state.network).state_dict())
        state.lowest, state.waited = row["val_loss"], 0
    if row["val_loss"] < state.reference - 1e-4:
        state.reference, state.bad_epochs = row["val_loss"], 0
    if recipe.schedule == "plateau" and state.bad_epochs >= 2:
        state.rate, state.bad_epochs = state.rate / 10, 0


def _agreed(scores: dict[str, float], place: torch.device, world: int) -> dict[str, float]:
    """The first process's scores, for all: the last bits differ between GPUs, and with them could the learning rates."""
    if world == 1:
        return scores
    values = torch.tensor(list(scores.values()), dtype=torch.float64, device=place)
    dist.broadcast(values, 0)
    return dict(zip(scores, values.tolist(), strict=True))


def _write_state(folder: Path, epoch: int, state: State) -> None:
    tensors = {f"optimiser.{name}": tensor for name, tensor in checkpoint.optimiser_tensors(state.optimiser).items()}
    for part in ("network", "average", "best"):
        tensors |= {f"{part}.{name}": tensor for name, tensor in getattr(state, part).state_dict().items()}
    scalars = {key: getattr(state, key) for key in ("history", "rate", "lowest", "reference", "bad_epochs", "waited")}
    checkpoint.keep_epoch(folder, epoch, tensors, scalars)
    keys = max(state.history, key=len).keys()
    lines = [",".join(keys), *(",".join(f"{row[key]:.6g}" if key in row else "" for key in keys) for row in state.history)]
    with atomic_write(folder / "metrics.csv", overwrite=True) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _draw_curves(folder: Path) -> None:
    from .figures import curves  # Matplotlib takes a second to import

    curves(folder)


def _restore(state: State, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    for name in ("network", "average", "best"):
        getattr(state, name).load_state_dict(part(f"{name}."))
    checkpoint.restore_optimiser(state.optimiser, part("optimiser."))
    for key, value in scalars.items():
        setattr(state, key, value)
