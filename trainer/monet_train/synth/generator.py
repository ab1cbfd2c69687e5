"""Batches of generated slices by seed, for training, and a fixed set of them, to validate on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from monet_edge.preprocess import Preprocess

from ..data import Slices
from .draw import draw
from .labels import label_names
from .maps import LabelMaps
from .ranges import Ranges
from .render import render

Batch = tuple[Tensor, Tensor]


class Generator:
    """Makes batches of label maps.

    Parameters
    ----------
    maps : LabelMaps
        On the device that makes the batches.
    record : Preprocess
        Of intensity "percentile", in coronal slices; its labels say whether sides are told apart.
    ranges : Ranges
    compiled : bool
        Whether to use torch.compile: on a GPU it pays.
    """

    def __init__(self, maps: LabelMaps, record: Preprocess, ranges: Ranges, compiled: bool = False) -> None:
        self.maps, self.record, self.ranges = maps, record, ranges
        self.sides = record.labels == label_names(True)
        self.render: Callable[..., Batch] = torch.compile(render) if compiled else render

    @torch.no_grad()
    def batches(self, seed: list[int], count: int, batch: int) -> Iterator[Batch]:
        """So many batches: images (N, C, S, S) float32 and labels (N, S, S) uint8; a seed repeats them all on a device of its kind."""
        generator = torch.Generator(self.maps.ids.device)
        generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        record = self.record
        for _ in range(count):
            drawn = draw(self.maps, generator, batch, record.size, record.context, self.sides, self.ranges)
            yield self.render(self.maps.ids, drawn, record.low, record.high)

    @torch.no_grad()
    def slices(self, seed: int, count: int) -> Slices:
        """A fixed set of slices as `validate` takes them, so many of every head."""
        parts, labels = [], []
        for head, name in enumerate(self.maps.names):
            alone = Generator(self.maps.choose([name]), self.record, self.ranges)
            images, truth = next(alone.batches([seed, head], 1, count))
            parts.append(images)
            labels.append(truth)
        images, device = torch.cat(parts), self.maps.ids.device
        return Slices(
            images,
            torch.cat(labels),
            torch.zeros(1, dtype=torch.uint8, device=device),
            torch.arange(len(images), device=device)[:, None],  # an image has its neighbours as channels already
            torch.arange(len(self.maps.names), device=device).repeat_interleave(count),
            torch.zeros(len(self.maps.names), 1, 1, 2, device=device),
            self.maps.names,
        )
