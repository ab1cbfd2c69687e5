"""The steps of a training: from slices to batches, losses and new weights, on one device or as one of several processes.

An epoch depends on nothing but the state before it and its number: its random generators start from (seed, epoch, rank).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .augment import augment
from .config import Recipe, Settings, effective_settings, in_pixels
from .data import Slices
from .losses import loss, one_hot
from .schedule import one_cycle
from .state import State

SETTLED = 230  # steps after which a tenth is left of what BatchNorm's statistics began with, at Keras's momentum (0.99^230)


class TrainStep:
    """Takes a state through epochs, step by step; holds what torch.compile made.

    Parameters
    ----------
    settings : Settings
    state : State
        Changed by every step.
    training : Slices
    world : int
        Number of processes; with more than one, gradients are averaged over all.
    compiled : bool
        Whether to use torch.compile: on a GPU it pays.
    """

    def __init__(self, settings: Settings, state: State, training: Slices, world: int, compiled: bool) -> None:
        self.settings, self.state, self.training = settings, state, training
        self.augmentation = in_pixels(effective_settings(settings).recipe.augmentation, settings.preprocess.spacing)
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
        clips = [(image.low, image.high) for image in map(record.of, range(record.images))]
        return augment(images, labels, data.depths[index], data.rims[data.cases[index]], self.augmentation, clips)

    def epoch(self, epoch: int, rank: int, world: int) -> float:
        """Train for the steps of one epoch, as process ``rank`` of ``world``; returns the mean training loss of all."""
        settings, state = self.settings, self.state
        recipe, place = settings.recipe, self.training.images.device
        order = _order(len(self.training.images), recipe, world, settings.seed, epoch)[rank]
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch, rank]).generate_state(1)[0]))
        state.network.train()
        losses = []
        for i, index in enumerate(torch.from_numpy(order).to(place)):
            if recipe.schedule == "one-cycle":
                state.learning_rate = recipe.learning_rate * one_cycle((epoch + i / len(order)) / recipe.epochs)
            losses.append(self.step(index, epoch * len(order) + i))
        if world > 1:
            for buffer in (*state.network.buffers(), *state.average.buffers()):  # every process has its own running statistics
                dist.all_reduce(buffer)
                buffer /= world
        mean = torch.stack(losses).mean()
        if world > 1:
            dist.all_reduce(mean)
        return float(mean) / world

    def step(self, index: Tensor, number: int) -> Tensor:
        """Train on one batch of slices, the run's ``number``-th; returns its loss."""
        with torch.no_grad():
            images, labels = self.prepare(index)
        return self.learn(images, labels, number)

    def learn(self, images: Tensor, labels: Tensor, number: int) -> Tensor:
        """Train on images (N, C, S, S) and their one-hot labels (N, K, S, S), the run's ``number``-th batch; returns the loss."""
        settings, state = self.settings, self.state
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            probability = self.network(images)
        value = self.loss(probability, labels, settings.recipe.cross_entropy)
        state.optimiser.zero_grad(set_to_none=True)
        value.backward()
        for group in state.optimiser.param_groups:
            group["lr"] = state.learning_rate
        state.optimiser.step()
        if settings.recipe.ema_decay:
            # the first weights are forgotten sooner: a young average follows faster
            _follow(state.average, state.network, min(settings.recipe.ema_decay, (1 + number) / (10 + number)))
        return value.detach()


def epoch_shape(count: int, recipe: Recipe, world: int) -> tuple[int, int]:
    """Steps of an epoch over ``count`` slices, and slices of a step and process."""
    batch = min(recipe.batch, max(1, count // world))
    return recipe.epoch_steps or -(-count // (batch * world)), batch


def describe_epoch(count: int | None, recipe: Recipe, world: int = 1) -> str:
    """One line: how many steps an epoch over ``count`` slices has, and why; None: slices are generated without end."""
    endless = count is None
    count = recipe.batch * world if count is None else count
    steps, batch = epoch_shape(count, recipe, world)
    head = f"an epoch is {steps} steps of {batch * world} slices"
    once, _ = epoch_shape(count, replace(recipe, epoch_steps=0), world)
    if endless:
        reason = f"epoch_steps of recipe {recipe.name}; every slice is a new one"
    elif not recipe.epoch_steps:
        reason = f"once over all {count:,}"
    else:
        reason = f"epoch_steps of recipe {recipe.name}; once over all {count:,} is {once}"
    if recipe.schedule == "plateau" and steps < SETTLED:
        reason += f"; fewer than {SETTLED} may be too short for its plateau rule to tell learning from noise: see --set epoch_steps"
    return f"{head} ({reason})"


def _order(count: int, recipe: Recipe, world: int, seed: int, epoch: int) -> np.ndarray:
    """Which slices an epoch takes, in whole batches: (world, steps, batch) int64.

    Once over all: every slice in a new order, the first few twice to fill the last batch. A number of steps: the next part of an
    endless stream of shuffled rounds, in which every slice comes once a round, wherever epochs begin and end.
    """
    steps, batch = epoch_shape(count, recipe, world)
    if not recipe.epoch_steps:
        return np.resize(_shuffled(count, seed, epoch), (steps, world, batch)).swapaxes(0, 1).copy()
    taken = steps * world * batch
    start = epoch * taken
    rounds = range(start // count, (start + taken - 1) // count + 1)
    stream = np.concatenate([_shuffled(count, seed, number) for number in rounds])
    return stream[start - rounds[0] * count :][:taken].reshape(steps, world, batch).swapaxes(0, 1).copy()


def _shuffled(count: int, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(count)


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network, running statistics included."""
    torch._foreach_lerp_(list(average.state_dict().values()), list(network.state_dict().values()), 1 - decay)
