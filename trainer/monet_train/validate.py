"""How good a network is during its training: at its own size, on the device, quickly. `evaluate` measures what users get."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .data import Slices
from .losses import one_hot, soft_dice
from .network import Network


@torch.no_grad()
def validate(network: Network, data: Slices, batch: int = 64) -> dict[str, float]:
    """Soft Dice loss over all slices, and the mean Dice over patients, at the network's size.

    Parameters
    ----------
    network : Network
        Left in evaluation mode.
    data : Slices
    batch : int
        Slices at a time.

    Returns
    -------
    dict of str to float
        ``val_loss``, and ``val_dice_1``, ``val_dice_2``, ... by label. A patient in whom neither truth nor prediction has a
        label counts as 1, one in whom it is missed or invented as 0.
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
    soft = 1 - soft_dice(totals[0], totals[1] + totals[2])
    return {"val_loss": float(soft.mean()), **{f"val_dice_{k + 1}": value for k, value in enumerate(dice)}}


def agreed(scores: dict[str, float], place: torch.device, world: int) -> dict[str, float]:
    """The first process's scores, for all: the last bits differ between GPUs, and with them could the learning rates."""
    if world == 1:
        return scores
    values = torch.tensor(list(scores.values()), dtype=torch.float64, device=place)
    dist.broadcast(values, 0)
    return dict(zip(scores, values.tolist(), strict=True))
