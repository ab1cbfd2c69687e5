"""The state of a training on disk: one safetensors file an epoch, its JSON part in the metadata, no pickle.

A file is written whole or not at all, and the one before it is kept, so that there is always a state to go on from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from monet_edge.errors import ModelError
from monet_edge.files import atomic_write

EPOCHS, FINAL = "epoch-*.safetensors", "final.safetensors"  # in a run's folder


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able state into one file."""
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    raw = safetensors.torch.save(host, {"state": json.dumps(state)})
    with atomic_write(path, overwrite=True) as file:
        file.write(raw)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Raises
    ------
    ModelError
        If the file is not intact.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 (not a dict)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: not an intact checkpoint ({error})") from None


def keep_epoch(folder: Path, epoch: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the checkpoint of an epoch and remove all but the one before it."""
    save(_path(folder, epoch), tensors, state)
    for path in _all(folder)[:-2]:
        path.unlink()


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is intact; None where there is none."""
    for path in reversed(_all(folder)):
        try:
            return load(path)
        except ModelError:
            continue
    return None


def is_one(path: Path) -> bool:
    """Whether a file of this name is what a run that is in its folder goes on from, or was trained to."""
    return (path.parent / "config.json").exists() and (path.name == FINAL or path.match(EPOCHS))


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}.safetensors"


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob(EPOCHS))


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors."""
    return {f"{index}.{key}": value for index, entry in optimiser.state_dict()["state"].items() for key, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`, into a fresh optimiser of the same settings."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    # That keeps the file's strides and moves all but the step to the parameters' device. But CUDA's fused AdamW refuses moments that
    # do not lie in memory as their parameter does, and NAdam reads mu_product, one number, on the CPU, where it need not wait for it.
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, entry in state.items():
        parameter = parameters[number]
        for key, value in entry.items():
            if key != "step":
                restored = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                optimiser.state[parameter][key] = restored
