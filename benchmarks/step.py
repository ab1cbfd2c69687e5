"""Seconds of a training step: the trainer's own, as `monet-train fit` takes it."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from monet_train.config import Settings
from monet_train.data import build
from monet_train.device import choose_device, set_up_torch
from monet_train.prepare import Prepared
from monet_train.state import new_state
from monet_train.step import TrainStep


def seconds(settings: Settings, prepared: Prepared, names: list[str], steps: int, device: str | None = None) -> dict[str, Any]:
    """Time training steps, each with its augmentation and optimiser.

    Parameters
    ----------
    settings : Settings
    prepared : Prepared
    names : list of str
        The cases whose slices are drawn from.
    steps : int
        How many are timed, after a third as many that are not.
    device : str, optional
        Default: the GPU if there is one; there the step is compiled.

    Returns
    -------
    dict
        ``network``, ``seconds`` (the median), ``min``, ``steps``, ``batch``, ``compiled``.
    """
    place = choose_device(device or "")
    warm = max(1, steps // 3)
    set_up_torch(settings, place)
    torch.compiler.reset()  # what was compiled for another network counts against the limit of recompilations
    data = build(prepared, names, settings.preprocess, settings.merged, place, False)
    step = TrainStep(settings, new_state(settings, place), data, 1, place.type == "cuda")
    step.state.network.train()
    batches = torch.randint(len(data.images), (warm + steps, settings.recipe.batch), generator=torch.Generator().manual_seed(0)).to(place)
    found = []
    for number, index in enumerate(batches):
        if place.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        step.step(index, number)
        if place.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    timed = found[warm:]
    about = {"steps": steps, "batch": settings.recipe.batch, "compiled": place.type == "cuda"}
    return {"network": settings.net, "seconds": median(timed), "min": min(timed), **about}
