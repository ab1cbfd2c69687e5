"""What a site does: it holds its own scans, trains the network it is sent on them, and remembers what is its own.

Nothing here sends anything: `client_app` does, and only what `Site.train` and `Site.evaluate` return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from monet_edge.errors import DatasetError, ModelError

from .. import checkpoint
from ..config_text import from_json
from ..data import Slices, build
from ..dataset import read_splits, split
from ..options import choose_split
from ..prepare import open_prepared
from ..state import new_state, start_at_prior
from ..step import Step
from ..train import check_split, choose_device, set_up_torch, training_slices
from ..validate import validate
from .compress import Tensors


@dataclass(frozen=True)
class Site:
    """One institution's scans in memory, and a network to train on them: the same `Step` as a pooled training's."""

    step: Step
    validation: Slices

    def train(self, tensors: Mapping[str, np.ndarray], epochs: range, fresh: bool) -> tuple[Tensors, float]:
        """Train a network on this site's scans.

        The optimiser starts anew, so a site needs no past and one that comes back is like any other.

        Parameters
        ----------
        tensors : mapping of str to float32 array
            The state dict that the server sent.
        epochs : range
            Which epochs of the whole training: they decide the learning rate, the order and the augmentation.
        fresh : bool
            The network is untrained.

        Returns
        -------
        tensors : dict of str to float32 array
            Of the trained network.
        loss : float
            Mean of the last epoch.
        """
        state = self.step.state
        self._load(tensors)
        state.optimiser.state.clear()
        if fresh and self.step.settings.recipe.prior:
            start_at_prior(state, self.step.training)
        losses = [self.step.epoch(epoch, rank=0, world=1) for epoch in epochs]
        trained = {name: tensor.cpu().contiguous().numpy().copy() for name, tensor in state.network.state_dict().items()}
        return trained, losses[-1]

    def evaluate(self, tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Validation loss and mean Dice over this site's own validation patients."""
        self._load(tensors)
        return validate(self.step.state.network, self.validation)

    def _load(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.step.state.network.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})


@lru_cache(maxsize=8)  # one process drives all sites of an experiment; a site's worker starts one for every message
def open_site(settings_json: str, folder: str, splits: str, device: str) -> Site:
    """Load a site's prepared scans.

    Parameters
    ----------
    settings_json : str
        As the server sent it.
    folder : str
        What `monet-train prepare` wrote.
    splits : str
        A splits.json; empty: 70 % of the patients train.
    device : str
        Empty: the GPU if there is one.

    Raises
    ------
    MonetError
        If settings or folder are not valid, or the labels are others than the network's.
    """
    settings = from_json(settings_json)
    prepared = open_prepared(Path(folder))
    if not settings.merged and prepared.labels != settings.preprocess.labels:
        raise DatasetError(f"{folder} has the labels {', '.join(prepared.labels)}, the training {', '.join(settings.preprocess.labels)}")
    found = choose_split(read_splits(Path(splits)) if splits else split(list(prepared.keys)), None)
    parts = {part: [name for name in names if name in prepared.keys] for part, names in found.items()}  # others' patients are not here
    check_split(parts, prepared)
    place = choose_device(device)
    set_up_torch(settings, place)
    training = training_slices(settings, prepared, parts["train"], place)
    validation = build(prepared, parts["val"], settings.preprocess, settings.merged, place, False)
    step = Step(settings, new_state(settings, place), training, world=1, compiled=place.type == "cuda")
    return Site(step, validation)


@dataclass
class Memory:
    """What a site keeps to itself from round to round, in one file: its own BatchNorm (FedBN), and what rounding took.

    A site that lost it, or joins late, starts from the server's BatchNorm and has no rounding to make up for.
    """

    path: Path
    run: str
    own: Tensors = field(default_factory=dict)
    residual: Tensors = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, run: str, fresh: bool) -> Memory:
        """What the site remembers of this very run; nothing while the network is untrained."""
        memory = cls(path, run)
        try:
            tensors, state = checkpoint.load(path)
        except ModelError:
            return memory
        if not fresh and state == {"run": run}:
            for name, tensor in tensors.items():
                part, _, key = name.partition(".")
                getattr(memory, part)[key] = tensor.numpy()
        return memory

    def write(self) -> None:
        """Keep it, whole or not at all."""
        tensors = {f"{part}.{key}": torch.from_numpy(array) for part in ("own", "residual") for key, array in getattr(self, part).items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(self.path, tensors, {"run": self.run})
