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
from ..checks import check_images, check_split
from ..config import Settings
from ..config_text import from_json
from ..data import Slices, build
from ..device import choose_device, set_up_torch
from ..prepare import Prepared, open_prepared
from ..provenance import Source
from ..splits import choose_split, read_splits, split
from ..state import new_state, start_at_prior
from ..step import TrainStep
from ..train import training_slices
from ..validate import validate
from .compress import Tensors


@dataclass(frozen=True)
class Site:
    """One institution's scans in memory, what they are, and a network to train on them: the same `TrainStep` as a pooled training's."""

    step: TrainStep
    validation: Slices
    source: Source

    def train(self, tensors: Mapping[str, np.ndarray], epochs: range, fresh: bool, moments: Tensors) -> tuple[Tensors, Tensors, float]:
        """Train a network on this site's scans.

        Parameters
        ----------
        tensors : mapping of str to float32 array
            The state dict that the server sent.
        epochs : range
            Which epochs of the whole training: they decide the learning rate, the order and the augmentation.
        fresh : bool
            The network is untrained.
        moments : dict of str to float32 array
            The optimiser's, of the round before; empty: it starts anew. Adam's first steps are one learning rate long whatever the
            gradient is, and with a fresh start in each of 30 rounds they undo more than averaging gains.

        Returns
        -------
        tensors : dict of str to float32 array
            Of the trained network.
        moments : dict of str to float32 array
            For the next round; they never leave the site.
        loss : float
            Mean of the last epoch.
        """
        state = self.step.state
        self._load(tensors)
        state.optimiser.state.clear()
        checkpoint.restore_optimiser(state.optimiser, {name: torch.from_numpy(array) for name, array in moments.items()})
        if fresh and self.step.settings.recipe.prior:
            start_at_prior(state, self.step.training)
        losses = [self.step.epoch(epoch, rank=0, world=1) for epoch in epochs]
        return _arrays(state.network.state_dict()), _arrays(checkpoint.optimiser_tensors(state.optimiser)), losses[-1]

    def evaluate(self, tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Validation loss and mean Dice over this site's own validation patients."""
        self._load(tensors)
        return validate(self.step.state.network, self.validation)

    def _load(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.step.state.network.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Copies, in the memory of the host."""
    return {name: tensor.cpu().contiguous().numpy().copy() for name, tensor in tensors.items()}


def check_site(settings: Settings, prepared: Prepared) -> None:
    """Refuse a site whose labels, or images of a case, are others than the network's.

    Raises
    ------
    DatasetError
        Saying which.
    """
    ours, theirs = settings.preprocess.labels, prepared.labels
    if not settings.merged and theirs != ours:
        raise DatasetError(f"{prepared.folder} has the labels {', '.join(theirs)}, the training {', '.join(ours)}")
    check_images(settings.preprocess, prepared)


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
        If settings or folder are not valid, or labels or images of a case are others than the network's.
    """
    settings = from_json(settings_json)
    prepared = open_prepared(Path(folder))
    check_site(settings, prepared)
    found = choose_split(read_splits(Path(splits)) if splits else split(list(prepared.keys), listed=prepared.validation), None)
    parts = {part: [name for name in names if name in prepared.keys] for part, names in found.items()}  # others' patients are not here
    check_split(parts, prepared)
    place = choose_device(device)
    set_up_torch(settings, place)
    training = training_slices(settings, prepared, parts["train"], place)
    validation = build(prepared, parts["val"], settings.preprocess, settings.merged, place, False)
    step = TrainStep(settings, new_state(settings, place), training, world=1, compiled=place.type == "cuda")
    return Site(step, validation, Source.of(prepared))


@dataclass
class Memory:
    """What a site keeps to itself from round to round, in two files in turn.

    A site that lost it, or joins late, starts its optimiser anew and has no rounding error to add.
    A round that the server asks for again, because it was killed in it or too few sites answered, begins with what the first try began
    with.

    Attributes
    ----------
    folder : Path
    run : str
        The run's own name.
    slot : {0, 1}
        Which file holds what was read; `write` takes the other one.
    moments, residual : dict of str to float32 array
        The optimiser's moments; what rounding took from the last update.
    """

    folder: Path
    run: str
    slot: int = 1
    moments: Tensors = field(default_factory=dict)
    residual: Tensors = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, run: str, last: int) -> Memory:
        """What the site remembers of this very run.

        Parameters
        ----------
        folder : Path
        run : str
        last : int
            The last round that counts; what the site learnt in later ones was thrown away. With 0 it remembers nothing.
        """
        memory, newest = cls(folder, run), 0
        for slot in (0, 1):
            try:
                tensors, state = checkpoint.load(_path(folder, slot))
            except ModelError:
                continue
            if state.keys() != {"run", "round"} or state["run"] != run or not newest < state["round"] <= last:
                continue
            parts: dict[str, Tensors] = {"moments": {}, "residual": {}}
            for name, tensor in tensors.items():
                part, _, key = name.partition(".")
                parts[part][key] = tensor.numpy()
            memory, newest = cls(folder, run, slot, **parts), state["round"]
        return memory

    def write(self, number: int) -> None:
        """Keep what was learnt in a round, whole or not at all, beside what was read."""
        parts = {"moments": self.moments, "residual": self.residual}
        tensors = {f"{part}.{key}": torch.from_numpy(array) for part, arrays in parts.items() for key, array in arrays.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(_path(self.folder, 1 - self.slot), tensors, {"run": self.run, "round": number})


def _path(folder: Path, slot: int) -> Path:
    return folder / f"memory-{slot}.safetensors"
