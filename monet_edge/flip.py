"""Average every slice's probabilities with those of its mirror image: twice as many items for the engine, the mean of two stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

Load = Callable[[int, np.ndarray], None]
Store = Callable[[int, np.ndarray], None]


def mirrored(load: Load, store: Store, channels: Sequence[int]) -> tuple[Load, Store]:
    """Twice as many items: 2 z is slice z, 2 z + 1 its mirror image; the mean of both is stored.

    Parameters
    ----------
    load : callable
        ``load(z, image)`` writes slice z into (C, H, W).
    store : callable
        ``store(z, probabilities)``; called by whichever thread has the second of the two.
    channels : sequence of int
        Which channel of a mirror image says what each channel says of the slice: they change places where labels have sides.

    Returns
    -------
    load, store
        The same of items 2 z and 2 z + 1.
    """
    exchanged = list(channels)
    waiting: dict[int, np.ndarray] = {}
    lock = threading.Lock()

    def load_either(i: int, image: np.ndarray) -> None:
        load(i // 2, image[..., ::-1] if i % 2 else image)

    def store_mean(i: int, probability: np.ndarray) -> None:
        straight = probability[exchanged, :, ::-1] if i % 2 else probability
        with lock:
            other = waiting.pop(i // 2, None)
            if other is None:
                waiting[i // 2] = straight.copy()
        if other is not None:
            store(i // 2, (straight + other) / 2)

    return load_either, store_mean
