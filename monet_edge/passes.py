"""All slices of a scan through a network: every tile of each, and with ``flip`` the mirror image of every tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from .engine import Engine
from .errors import ScanError
from .flip import Load, Store, mirrored
from .formats import Header
from .inputs import Grid, Inputs, make_grid
from .options import Options
from .preprocess import SLICINGS, Preprocess
from .tiles import Merging
from .volume import Scan, geometry, orient

Progress = Callable[[int, int], None]  # called with the number of slices done, and of all


def grid_of(record: Preprocess, scan: Header | Scan, options: Options) -> Grid:
    """A model's grid of a scan whose voxels measure what is stated, or else what the scan says, where that is not false.

    Raises
    ------
    ScanError
        As `make_grid`, naming the scan's file.
    """
    depth, height, width = orient(scan.affine, SLICINGS[record.slicing]).axes
    stated = options.voxel_mm or (geometry.spacing(scan.affine) if scan.spacing_known else None)
    spacing = None if stated is None else (stated[depth], stated[height], stated[width])
    try:
        return make_grid(record, (scan.shape[height], scan.shape[width]), spacing)
    except ScanError as error:
        raise (error.about(scan.path) if scan.path else error) from None


def room(grid: Grid, images: int, classes: int, threads: int) -> int:
    """Bytes of the slices that are kept of every image on a model's grid, and of the sums of their tiles, while so many threads work."""
    return 4 * prod(grid.tiling.padded) * images * Inputs.room(grid, threads) + Merging.room(grid.tiling, classes, threads)


def run_slices(
    engine: Engine,
    inputs: Inputs,
    store: Store,
    flip: Sequence[int] | None,
    progress: Progress | None = None,
    dealt: Callable[[], None] | None = None,
) -> None:
    """``store(z, probabilities)`` for every slice z, (classes, H, W) float32 on the grid of ``inputs``.

    Parameters
    ----------
    engine : Engine
    inputs : Inputs
    store : callable
        Called in any of the engine's threads; its probabilities are valid during the call only.
    flip : sequence of int, optional
        Average every tile with its mirror image, whose channels are these, see `flip.mirrored`.
    progress : callable, optional
    dealt : callable, optional
        See `Engine.map`.
    """
    load: Load = inputs.load
    merge: Store = Merging(inputs.grid.tiling, store)
    each = len(inputs.grid.tiling.windows) * (1 if flip is None else 2)  # runs of the network a slice
    if flip is not None:
        load, merge = mirrored(load, merge, flip)

    def report(done: int) -> None:
        if progress is not None:
            progress(done // each, inputs.depth)

    engine.map(each * inputs.depth, inputs.grid.tiling.tile, load, merge, report, dealt)
