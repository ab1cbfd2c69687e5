"""The server's state between the rounds of a federated training: how it begins, and how it is written to the folder and read again."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monet_edge.errors import OutputError
from monet_edge.files import atomic_write

from .. import checkpoint
from ..config import Settings
from ..config_text import from_json, to_json
from ..state import new_state
from .compress import Tensors
from .settings import Federation

ROUNDS, MODEL, ERROR = "rounds.json", "model.safetensors", "error.txt"  # what a run leaves in its folder


@dataclass
class Run:
    """The server's state; everything in it is in the checkpoints.

    Attributes
    ----------
    id : str
        A random name of this run. Sites forget what they kept of a run with another one.
    tensors : dict of str to float32 array
        The network's state dict.
    step : dict of str to float32 array
        How the last round that gave a new network moved its trained weights; momentum adds a share of it to the next average.
    history : list of dict
        One entry a round: ``kept`` (whether it gave a new network), ``seconds``, ``epsilon`` where there is noise, and
        ``sites``, each with ``node``, ``sent`` and ``received`` bytes, and either ``refused`` (why) or ``name``, ``examples``,
        ``loss`` and ``norm``.
    scores : list of dict
        What every site finds of the final network on its own validation patients.
    """

    id: str
    tensors: Tensors
    step: Tensors
    history: list[dict[str, Any]]
    scores: list[dict[str, Any]]

    @property
    def last_kept(self) -> int:
        """Number of the last round that gave a new network, 0 if none did."""
        return max((number for number, row in enumerate(self.history, 1) if row["kept"]), default=0)


def start(federation: Federation, settings: Settings, folder: Path, resume: bool) -> Run:
    """A new run with an untrained network, or that of the folder after its last whole round.

    Raises
    ------
    OutputError
        If the folder holds a run and ``resume`` is not said, or one with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = stored(folder)
    if found is None:
        network = new_state(settings, torch.device("cpu")).network
        tensors = {name: tensor.contiguous().numpy().copy() for name, tensor in network.state_dict().items()}
        return Run(secrets.token_hex(8), tensors, {}, [], [])
    run, state = found
    if not resume:
        raise OutputError(f"{folder} holds a run already. Say --resume to go on with it, or choose another --output.")
    if state["federation"] != asdict(federation) or from_json(state["settings"]) != settings:
        raise OutputError(f"{folder} was started with other settings. Use the same ones, or another --output.")
    return run


def stored(folder: Path) -> tuple[Run, dict[str, Any]] | None:
    """The run in a folder as it was after its last whole round.

    Returns
    -------
    run : Run
    state : dict
        Among others ``federation`` and ``settings``, with which it was started.

    Raises
    ------
    OutputError
        If it is no federated run.
    """
    found = checkpoint.newest(folder)
    if found is None:
        return None
    tensors, state = found
    if "federation" not in state:
        raise OutputError(f"{folder} holds another kind of run. Choose another --output.")
    parts: dict[str, Tensors] = {"network": {}, "step": {}}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = tensor.numpy()
    return Run(state["run"], parts["network"], parts["step"], state["history"], []), state


def write(run: Run, federation: Federation, settings: Settings, folder: Path) -> None:
    """Keep a round: its checkpoint, and every round's figures as `rounds.json`."""
    state = {"run": run.id, "federation": asdict(federation), "settings": to_json(settings), "history": run.history}
    parts = {"network": run.tensors, "step": run.step}
    tensors = {f"{part}.{name}": torch.from_numpy(array) for part, arrays in parts.items() for name, array in arrays.items()}
    checkpoint.keep_epoch(folder, len(run.history), tensors, state)
    with atomic_write(folder / ROUNDS, overwrite=True) as file:
        file.write(json.dumps({"federation": asdict(federation), "rounds": run.history, "scores": run.scores}, indent=1).encode())
