"""Which label of a model is which of a data set: by name, whatever their numbers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monet_edge.errors import DatasetError
from monet_edge.sides import side


@dataclass(frozen=True)
class Pair:
    """One structure that both sides know.

    Attributes
    ----------
    name : str
    predicted, truth : tuple of int
        Its numbers in the model's masks and in the data set's: several where labels count as one.
    """

    name: str
    predicted: tuple[int, ...]
    truth: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """The structures to score, and the names that only one side has: those are told and not scored."""

    pairs: tuple[Pair, ...]
    model_only: tuple[str, ...] = ()
    data_only: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What is not scored, in words; empty if everything is."""
        model_only = [f"{name} (only the model has it)" for name in self.model_only]
        return ", ".join([*model_only, *(f"{name} (only the data set has it)" for name in self.data_only)])

    def masks(self, truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two masks (uint8, any shape) in one numbering: the pairs count from 1, all else is background."""
        tables = np.zeros((2, 256), np.uint8)
        for number, pair in enumerate(self.pairs, 1):
            tables[0, list(pair.truth)] = tables[1, list(pair.predicted)] = number
        return tables[0][truth], tables[1][predicted]


def match(known: Sequence[str], labels: Sequence[str], merged: bool = False, sides_as_one: bool = False) -> Match:
    """Find the labels of a data set that a model knows.

    Parameters
    ----------
    known, labels : sequence of str
        The model's and the data set's: names of 1, 2, ...
    merged : bool
        The model was trained on all labels as one: its own is all of the data set's.
    sides_as_one : bool
        "left X" and "right X" together count as X, on the side that has both, where the other one has both, too, or X itself.

    Raises
    ------
    DatasetError
        If they have no name in common.
    """
    if merged:
        return Match((Pair(known[0], (1,), tuple(range(1, len(labels) + 1))),))
    model, data = (_numbers(names) for names in (known, labels))
    if sides_as_one:
        model, data = _joined(model, data), _joined(data, model)
    pairs = tuple(Pair(name, numbers, data[name]) for name, numbers in model.items() if name in data)
    if not pairs:
        raise DatasetError(f"the model and the data set have no label in common: {', '.join(known)} and {', '.join(labels)}")
    return Match(pairs, tuple(name for name in model if name not in data), tuple(name for name in data if name not in model))


def _numbers(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {name: (number,) for number, name in enumerate(names, 1)}


def _joined(names: dict[str, tuple[int, ...]], other: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names of one side with both sides' X as one, where the other one can be compared with all of X."""
    joined: dict[str, tuple[int, ...]] = {}
    for name, numbers in names.items():
        whole = side(name)[1]
        as_one = whole if _is_whole(whole, names) and _is_whole(whole, other) else name
        joined[as_one] = (*joined.get(as_one, ()), *numbers)
    return joined


def _is_whole(name: str, names: dict[str, tuple[int, ...]]) -> bool:
    """Whether these hold a structure as such or both its sides."""
    sides = {at for at, structure in map(side, names) if at and structure == name}
    return name in names or len(sides) == 2
