"""What a way of a case is made of: to add one, write its file and name it in `ways.WAYS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from ..engine import Engine
from ..errors import ScanError
from ..formats import Header
from ..intensities import Statistics
from ..options import Options
from ..passes import Progress
from ..quality import Expected
from ..volume import Scan, geometry
from ..weights import Weights

Grid = Header | Scan  # what is known of a scan before, and after, it is read
# Who waits for it computes when others are done. What it yields, if anything, ends it early: once all slices are given to threads, others
# may take those that have none
Turn = AbstractContextManager[Callable[[], None] | None]


@dataclass(frozen=True)
class Segmentation:
    """What a model says of one case, on its scan's own grid.

    Attributes
    ----------
    mask : (X, Y, Z) uint8
        Labels, 0 is background.
    probability : (X, Y, Z) or (X, Y, Z, classes) float32, or None
        If asked for.
    statistics : Statistics
        Of the scan's intensities; of several scans the first one's.
    warnings : tuple of str
        What to tell the user.
    agreement : tuple of float
        Of every label, see `quality.Agreement`; empty from a way that does not count it.
    expected : tuple of Expected or None
        The Dice that every label can be expected to have; empty where nobody knows.
    """

    mask: np.ndarray
    probability: np.ndarray | None
    statistics: Statistics
    warnings: tuple[str, ...]
    agreement: tuple[float, ...] = ()
    expected: tuple[Expected | None, ...] = ()


@dataclass(frozen=True)
class Way:
    """How the scans of a case become its mask, for weights whose record is of one kind.

    Attributes
    ----------
    record : type
        Of `Weights.preprocess`.
    memory : callable
        ``memory(weights, engine, grids, options)``: bytes that segmenting scans of these grids takes at its worst moment, they included.
    segment : callable
        ``segment(weights, engine, scans, options, progress, turn)``: the `Segmentation`; the scans lie on one grid, see `check_case`.
        ``turn`` is entered while the network runs, and for nothing else.
    """

    record: type
    memory: Callable[[Weights, Engine, Sequence[Grid], Options], int]
    segment: Callable[[Weights, Engine, Sequence[Scan], Options, Progress | None, Turn], Segmentation]


def check_case(grids: Sequence[Grid], images: int) -> None:
    """Refuse scans that are not the images of one case: they would be laid one on the other all the same, voxel by voxel.

    nnU-Net itself only warns of images that lie in different places.

    Raises
    ------
    ScanError
        If there are more, or fewer, than a model takes, their grids differ, or a corner lies further away than `geometry.APART`.
    """
    if len(grids) != images:
        raise ScanError(f"the model takes {images} image{'s' if images > 1 else ''} of a case, found {len(grids)}")
    first, *others = grids
    for number, other in enumerate(others, 1):
        one, two = _words(first), _words(other)
        if one != two:
            raise ScanError(f"the images of a case must have one grid: image 0 has {one}, image {number} {two}", "Register them first.")
        away = geometry.displacement(first.affine, other.affine, first.shape)
        if not away <= geometry.APART:
            found = f"image {number} lies {away:.3g} voxels from image 0 at a corner, at most {geometry.APART} are taken for rounding"
            raise ScanError(f"the images of a case must lie in one place: {found}", "Register them first.")


def _words(grid: Grid) -> str:
    return f"{'x'.join(map(str, grid.shape))} voxels of {' x '.join(f'{mm:.4g}' for mm in geometry.spacing(grid.affine))} mm"
