"""Whole generated heads, slice by slice, to see how sure a network is of them and how right it is: there are no scans to ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from monet_edge.model import Model
from monet_edge.preprocess import Preprocess
from monet_edge.quality import Agreement

from ..quality.calibration import Pair
from .draw import Draw, draw
from .labels import label_names
from .maps import LabelMaps
from .ranges import Ranges
from .render import render

STEP = 4  # mm from one slice to the next


@torch.no_grad()
def pairs(model: Model, maps: LabelMaps, ranges: Ranges, count: int, seed: int = 0) -> Iterator[list[Pair]]:
    """Segment generated heads, each of one contrast, resolution, deformation and so on, and compare them with their labels.

    Parameters
    ----------
    model : Model
        That was trained on generated images.
    maps : LabelMaps
        Those that did not train.
    ranges : Ranges
    count : int
        Heads.
    seed : int

    Yields
    ------
    list of Pair
        A head's, of the labels that were found in it.
    """
    record = model.weights.sliced
    for number in range(count):
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        one = draw(maps, generator, 1, record.size, record.context, record.labels == label_names(True), ranges)
        agreement = Agreement(len(record.labels))
        sums = np.zeros((3, len(record.labels) + 1), np.int64)
        for drawn in _slices(one, maps, generator):
            images, labels = render(maps.ids, drawn, record.low, record.high)
            probability = model.predict(images.numpy())[0]
            agreement.add(probability)
            sums += _count(probability.argmax(0), labels[0].numpy(), record)
        yield [
            Pair(f"{maps.names[int(one.head)]} {number}", label, agreed, float(2 * both / (predicted + true)))
            for label, agreed, both, predicted, true in zip(record.labels, agreement.dice, *sums[:, 1:], strict=True)
            if predicted
        ]


def _slices(one: Draw, maps: LabelMaps, generator: torch.Generator) -> Iterator[Draw]:
    """A draw of one slice, moved through its head; texture and grain are drawn anew for every slice."""
    first, last = maps.brains[int(one.head)].tolist()
    for z in range(first, last, STEP):
        centre = one.centre.clone()
        centre[:, 0] = z
        texture, grain = (torch.randn(noise.shape, generator=generator) for noise in (one.texture, one.grain))
        yield replace(one, centre=centre, texture=texture, grain=grain)


def _count(predicted: np.ndarray, true: np.ndarray, record: Preprocess) -> np.ndarray:
    """Pixels of every label, background first: in both, in the prediction, in the truth."""
    masks = np.where(predicted == true, true, 0), predicted, true
    return np.stack([np.bincount(mask.ravel(), minlength=len(record.labels) + 1) for mask in masks])
