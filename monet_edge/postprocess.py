"""Remove stray pieces from a mask: connected components, by the library connected-components-3d (extra `components`), or by slices."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from .errors import MonetError


def library() -> ModuleType:
    """The library, or what to do without it.

    Raises
    ------
    MonetError
        If it is not installed.
    """
    try:
        import cc3d
    except ImportError:
        raise MonetError(
            "connected-components-3d is not installed", "What finds connected pieces needs it: pip install 'monet-edge[components]'"
        ) from None
    return cc3d


def remove_pieces(mask: np.ndarray, voxel_ml: float, *, keep_largest: bool, min_volume: float) -> np.ndarray:
    """The mask without its small pieces; voxels that share a face, an edge or a corner, and a label, are one piece.

    Parameters
    ----------
    mask : (X, Y, Z) uint8
    voxel_ml : float
        Volume of a voxel in ml.
    keep_largest : bool
        Keep only the largest piece of every label.
    min_volume : float
        Remove pieces smaller than this, ml.

    Returns
    -------
    (X, Y, Z) uint8
        A new mask.
    """
    cc3d = library()
    kept = np.zeros_like(mask)
    box = _bounding_box(mask)
    if box is None:
        return kept
    inside = mask[box]  # pieces are numbered in 2 or 4 bytes a voxel: within the box only
    pieces = cc3d.connected_components(inside, connectivity=26)
    sizes = np.bincount(pieces.ravel(order="F"))
    sizes[0] = 0
    labels = np.zeros(len(sizes), np.uint8)
    labels[pieces.ravel(order="F")] = inside.ravel(order="F")
    wanted = sizes * voxel_ml >= min_volume
    if keep_largest:
        largest = np.zeros(len(sizes), bool)
        for label in np.unique(labels[1:]):
            largest[np.argmax(np.where(labels == label, sizes, 0))] = True
        wanted &= largest
    wanted[0] = False
    kept[box] = np.where(wanted[pieces], inside, 0)
    return kept


def remove_lone(slices: np.ndarray) -> None:
    """Clear, in place, every piece of a mask that lies in one slice only; of a scan of one slice nothing is known, and all stays.

    Pixels of a label that share an edge or a corner are one piece of a slice. It stays if any pixel of that label in the slice before
    or after shares a face, an edge or a corner with it.

    Parameters
    ----------
    slices : (Z, H, W) uint8
        Any strides.
    """
    if len(slices) < 2:
        return
    nothing = np.zeros(slices.shape[1:], np.uint8)
    before, here = nothing, slices[0].copy()
    for z in range(len(slices)):
        after = slices[z + 1].copy() if z + 1 < len(slices) else nothing
        if highest := here.max():  # a fifth of the time of any()
            window = _window(here)
            for label in range(1, highest + 1):
                piece, near = here[window] == label, (before[window] == label) | (after[window] == label)
                slices[z][window][piece & ~_reached(piece, _spread(near))] = 0
        before, here = here, after


def _window(labels: np.ndarray) -> tuple[slice, slice]:
    """What holds every labelled pixel of (H, W), and a pixel more on each side."""
    rows, columns = (np.flatnonzero(labels.max(axis)) for axis in (1, 0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _reached(pixels: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Which of some pixels (H, W) bool belong to pieces that hold any of ``start``."""
    found, now = 0, start & pixels
    while found < (count := int(np.count_nonzero(now))):  # most of a piece is there at the first step: it lies in both slices
        found, now = count, _spread(now) & pixels
    return now


def _spread(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: these pixels and all that share an edge or a corner with one."""
    wide = pixels.copy()
    wide[:, 1:] |= pixels[:, :-1]
    wide[:, :-1] |= pixels[:, 1:]
    high = wide.copy()
    high[1:] |= wide[:-1]
    high[:-1] |= wide[1:]
    return high


def solid(inside: np.ndarray) -> np.ndarray:
    """The largest piece of a mask (X, Y, Z) bool, without holes: background that no way of faces leads out of becomes part of it."""
    cc3d = library()
    filled = np.zeros_like(inside)
    box = _bounding_box(inside)
    if box is None:
        return filled
    pieces = cc3d.connected_components(inside[box], connectivity=26)
    sizes = np.bincount(pieces.ravel(order="F"))
    sizes[0] = 0
    around = np.pad(pieces != np.argmax(sizes), 1, constant_values=True)  # so that all that lies outside is one piece
    outside = cc3d.connected_components(around, connectivity=6)
    filled[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return filled


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds every labelled voxel."""
    box = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not filled.size:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)
