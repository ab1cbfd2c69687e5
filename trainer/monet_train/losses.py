"""Losses and the Dice coefficient, on probabilities. Depends on torch only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N, H, W) to the network's channels (N, C, H, W) float32; C = 1 is the foreground of a binary network."""
    if classes == 1:
        return (labels > 0).float()[:, None]
    return torch.stack([labels == value for value in range(classes)], dim=1).float()


def soft_dice(both: Tensor, either: Tensor) -> Tensor:
    """The soft Dice coefficient from the sum of products, and the sum of probabilities and targets.

    1 is added above and below the fraction, as in the authors' code, so that an empty batch has a loss and a gradient.
    """
    return (2 * both + 1) / (either + 1)


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient over the whole batch, mean over the foreground classes.

    Parameters
    ----------
    probability, target : (N, C, H, W) float
        The target one-hot, see `one_hot`.

    Notes
    -----
    The paper's loss: "the Dice coefficient".
    """
    if probability.shape[1] > 1:
        probability, target = probability[:, 1:], target[:, 1:]
    both, either = (probability * target).sum((0, 2, 3)), (probability + target).sum((0, 2, 3))
    return (1 - soft_dice(both, either)).mean()


def cross_entropy(probability: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of a pixel, binary for one class; arguments as for `dice_loss`."""
    if probability.shape[1] == 1:
        return F.binary_cross_entropy(probability, target)
    return -(target * probability.clamp_min(1e-7).log()).sum(1).mean()


def loss(probability: Tensor, target: Tensor, entropy_weight: float) -> Tensor:
    """The Dice loss plus ``entropy_weight`` times the cross-entropy; arguments as for `dice_loss`."""
    dice = dice_loss(probability, target)
    return dice + entropy_weight * cross_entropy(probability, target) if entropy_weight else dice
