"""What a recipe decides between steps and epochs: the learning rate, which weights are the best so far, when to stop."""

from __future__ import annotations

import math

from .config import Recipe
from .state import State

RISE = 0.2  # share of a one-cycle schedule in which the learning rate rises


def one_cycle(progress: float) -> float:
    """Share of the highest learning rate: from 1/25 up along a cosine, then down to 0."""
    if progress < RISE:
        return 1 / 25 + 24 / 25 * (1 - math.cos(math.pi * progress / RISE)) / 2
    return (1 + math.cos(math.pi * (progress - RISE) / (1 - RISE))) / 2


def after_epoch(recipe: Recipe, state: State, row: dict[str, float]) -> None:
    """Note the epoch, keep the best weights, lower the rate on a plateau.

    The rule is Keras's: a validation is bad unless it betters the best loss by 1e-4, and the rate falls after the second bad one. An
    epoch without a validation counts for nothing.
    """
    state.history.append(row)
    if "val_loss" not in row:
        return
    state.bad_epochs, state.waited = state.bad_epochs + 1, state.waited + 1
    if row["val_loss"] < state.lowest:
        state.best.load_state_dict(state.validated(recipe).state_dict())
        state.lowest, state.waited = row["val_loss"], 0
    if row["val_loss"] < state.reference - 1e-4:
        state.reference, state.bad_epochs = row["val_loss"], 0
    if recipe.schedule == "plateau" and state.bad_epochs >= 2:
        state.learning_rate, state.bad_epochs = state.learning_rate / 10, 0


def finished(recipe: Recipe, state: State) -> bool:
    """Whether all epochs are done, or the recipe's patience is at its end."""
    return len(state.history) >= recipe.epochs or bool(recipe.patience and state.waited >= recipe.patience)
