"""All slices of a volume through a network: every tile of each, and with ``flip`` the mirror image of every tile."""

from __future__ import annotations

from collections.abc import Callable

from .engine import Engine
from .flip import Load, Store, mirrored
from .inputs import Inputs
from .tiles import Merging

Progress = Callable[[int, int], None]  # called with the number of slices done, and of all


def run_slices(engine: Engine, inputs: Inputs, store: Store, flip: bool, progress: Progress | None = None) -> None:
    """``store(z, probabilities)`` for every slice z, (classes, H, W) float32 on the grid of ``inputs``.

    Parameters
    ----------
    engine : Engine
    inputs : Inputs
    store : callable
        Called in any of the engine's threads; its probabilities are valid during the call only.
    flip : bool
        Average every tile with its mirror image.
    progress : callable, optional
    """
    load: Load = inputs
    merge: Store = Merging(inputs.grid.tiling, store)
    each = len(inputs.grid.tiling.windows) * (2 if flip else 1)  # runs of the network a slice
    if flip:
        load, merge = mirrored(load, merge)

    def report(done: int) -> None:
        if progress is not None:
            progress(done // each, inputs.depth)

    engine.map(each * inputs.depth, load, merge, report)
