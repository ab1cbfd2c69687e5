"""What changes during a training, how it begins, and its way to the run folder and back. No training happens here."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monet_edge.errors import OutputError
from monet_edge.files import atomic_write

from . import cases, checkpoint
from .cases import Cases
from .config import Recipe, Settings, training_spec
from .config_text import read_settings, renamed
from .data import Slices
from .network import BatchNorm, Network
from .splits import Split, read_splits

NETWORKS = ("network", "average", "best")
SCALARS = ("history", "learning_rate", "lowest", "reference", "bad_epochs", "waited")


@dataclass
class State:
    """What changes during a training; everything in it is in the checkpoints.

    Attributes
    ----------
    network, average, best : Network
        The one that is trained, the running average of its weights, and what was best by the validation loss.
    optimiser : Optimizer
    history : list of dict
        A row of metrics an epoch.
    learning_rate : float
    lowest : float
        The best validation loss.
    reference : float
        The validation loss that the next validation must better by 1e-4, for the plateau schedule.
    bad_epochs : int
        Validations since one was better by that much.
    waited : int
        Validations since the best one: the recipe's patience counts them.
    """

    network: Network
    average: Network
    best: Network
    optimiser: torch.optim.Optimizer
    history: list[dict[str, float]]
    learning_rate: float
    lowest: float = math.inf
    reference: float = math.inf
    bad_epochs: int = 0
    waited: int = 0

    def validated(self, recipe: Recipe) -> Network:
        """The network that is validated: the average where the recipe keeps one."""
        return self.average if recipe.ema_decay else self.network


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
    return State(network, average, best, make_optimiser(recipe, network), [], recipe.learning_rate)


def make_optimiser(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser."""
    parameters = list(network.parameters())
    if recipe.optimiser == "nadam":
        return torch.optim.NAdam(parameters, recipe.learning_rate)
    return torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=parameters[0].is_cuda)


@torch.no_grad()
def start_at_prior(state: State, training: Slices) -> None:
    """Let the untrained network answer with the classes' frequencies.

    The head's BatchNorm gives its logits mean 0, and Adam moves its bias by one learning rate a step at most: from 0 it takes
    a thousand steps until the background is predicted.
    """
    classes = state.network.spec.classes
    share = torch.bincount(training.labels.flatten().int(), minlength=max(classes, 2)).float() / training.labels.numel()
    logits = share.clamp_min(1e-4).log() if classes > 1 else torch.logit(share[1:2].clamp(1e-4, 0.5))
    for network in (state.network, state.average, state.best):
        head = network.get_submodule("head")
        bias = head.get_submodule("bn").bias if "bn" in dict(head.named_children()) else head.bias
        bias.copy_(logits)  # type: ignore[operator]


def start(settings: Settings, split: Split, folder: Path, place: torch.device, *, resume: bool, trained_on: Cases | None = None) -> State:
    """A fresh state, or that of the run folder's newest checkpoint; nothing is written.

    Raises
    ------
    OutputError
        If the folder holds a run and ``resume`` is not said, or one with other settings, patients or data.
    """
    config, splits = folder / "config.json", folder / "splits.json"
    if not resume and (config.exists() or splits.exists()):
        raise OutputError(f"{folder} holds a run already. Say --resume to go on with it, or choose another --output.")
    for path, same in ((config, lambda: read_settings(folder) == settings), (splits, lambda: read_splits(splits) == [split])):
        if path.exists() and not same():
            raise OutputError(f"{folder} was started with other settings (see its {path.name}). Use the same ones, or another --output.")
    what = cases.changes(cases.read(folder), trained_on) if trained_on and config.exists() else ""
    if what:
        raise OutputError(f"{folder} cannot go on with this data: {what}. Use the same data, or another --output.")
    state = new_state(settings, place)
    found = checkpoint.newest(folder) if resume else None
    if found is not None:
        _restore(state, *found)
    return state


def describe(settings: Settings, split: Split, folder: Path, trained_on: Mapping[str, str], rule: str) -> None:
    """Write what it is trained on, `splits.json` and `config.json`, which make a folder one of this run; created if need be.

    ``trained_on`` is text by its file's name: `cases.json`, or what a training without scans has instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # the configuration last: a folder that has one says all the rest too
    texts = {
        **trained_on,
        "splits.json": json.dumps([{**split, "rule": rule}], indent=1),
        "config.json": json.dumps(asdict(settings), indent=1),
    }
    for name, text in texts.items():
        with atomic_write(folder / name, overwrite=True) as file:
            file.write(text.encode())


def write(state: State, folder: Path) -> None:
    """Keep an epoch: its checkpoint, and every epoch's metrics as `metrics.csv`."""
    tensors = {f"optimiser.{name}": tensor for name, tensor in checkpoint.optimiser_tensors(state.optimiser).items()}
    for part in NETWORKS:
        tensors |= {f"{part}.{name}": tensor for name, tensor in getattr(state, part).state_dict().items()}
    scalars = {key: getattr(state, key) for key in SCALARS}
    checkpoint.keep_epoch(folder, len(state.history) - 1, tensors, scalars)
    keys = max(state.history, key=len).keys()
    lines = [",".join(keys), *(",".join(f"{row[key]:.6g}" if key in row else "" for key in keys) for row in state.history)]
    with atomic_write(folder / "metrics.csv", overwrite=True) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _restore(state: State, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    for name in NETWORKS:
        getattr(state, name).load_state_dict(part(f"{name}."))
    checkpoint.restore_optimiser(state.optimiser, part("optimiser."))
    scalars = renamed(scalars)
    for key in SCALARS:
        setattr(state, key, scalars[key])
    state.history = [renamed(row) for row in state.history]
