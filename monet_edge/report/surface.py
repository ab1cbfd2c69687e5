"""The surface of a label as triangles: surface nets (Gibson 1998), then a smoothing that keeps the volume (Taubin 1995).

For looking only: volumes and lengths are measured on the voxels.
"""

from __future__ import annotations

import struct

import numpy as np

MOST = 400_000  # edges of voxels that the surface crosses; a coarser surface beyond, which a laptop's browser still turns smoothly
_ROUNDS = 12
_SHRINK, _GROW = 0.5, -0.53  # Taubin's pair: without the second step the surface would shrink towards its middle


def surface(inside: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed surface of a shape.

    Parameters
    ----------
    inside : (X, Y, Z) bool
    affine : (4, 4) float
        Voxel to world, mm.

    Returns
    -------
    points : (P, 3) float32
        In world coordinates, mm.
    triangles : (T, 3) int32
        Numbers of points, counter-clockwise as seen from outside; none for an empty shape.
    """
    shape, first = _boxed(inside)
    step = 1
    quads, middles = _crossings(shape)
    while len(quads) > MOST:
        step *= 2
        quads, middles = _crossings(_halved(shape, step))
    if not len(quads):
        return np.empty((0, 3), np.float32), np.empty((0, 3), np.int32)
    cells, corners = np.unique(quads, return_inverse=True)
    corners = corners.reshape(-1, 4)
    points = _averages(corners.ravel(), np.repeat(middles, 4, axis=0), len(cells))
    points = _smooth(points, corners) * step + (step - 1) / 2 + first
    if np.linalg.det(affine[:3, :3]) < 0:  # a mirrored grid turns clockwise into counter-clockwise
        corners = corners[:, ::-1]
    world = points @ affine[:3, :3].T + affine[:3, 3]
    triangles = corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return world.astype(np.float32), triangles.astype(np.int32)


def to_mz3(points: np.ndarray, triangles: np.ndarray) -> bytes:
    """Points and triangles as an MZ3 file, Surf Ice's and NiiVue's: a header of 16 bytes, then both arrays, little-endian."""
    header = struct.pack("<HHIII", 23117, 0b11, len(triangles), len(points), 0)  # magic, faces and vertices, their numbers, none skipped
    return header + triangles.astype("<i4").tobytes() + points.astype("<f4").tobytes()


def _boxed(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part that holds the shape, and the place of its first voxel."""
    filled = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not filled[0].size:
        return np.zeros((1, 1, 1), bool), np.zeros(3)
    box = tuple(slice(places[0], places[-1] + 1) for places in filled)
    return inside[box], np.array([places[0] for places in filled], float)


def _halved(shape: np.ndarray, step: int) -> np.ndarray:
    """A voxel for every ``step`` along each axis: inside where any of them is."""
    for axis in range(3):
        shape = np.logical_or.reduceat(shape, np.arange(0, shape.shape[axis], step), axis=axis)
    return shape


def _crossings(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface crosses an edge between two voxels: the four cells around it (Q, 4), by number, and its middle (Q, 3)."""
    shape = np.pad(shape, 1)  # a surface is closed also where the shape ends with the scan
    quads, middles = [], []
    for axis in range(3):
        low = np.moveaxis(shape, axis, 0)[:-1]
        high = np.moveaxis(shape, axis, 0)[1:]
        places = np.argwhere(np.moveaxis(low != high, 0, axis))
        leaving = shape[tuple(places.T)]  # the low end is inside: the surface looks along the axis
        around = np.zeros((4, 3), int)
        around[[1, 2], (axis + 1) % 3] = around[[2, 3], (axis + 2) % 3] = 1
        first = places - (np.arange(3) != axis)
        cells = np.ravel_multi_index(tuple(np.moveaxis(first[:, None] + around, 2, 0)), shape.shape)
        cells[~leaving] = cells[~leaving, ::-1]
        quads.append(cells)
        middles.append(places - 1 + 0.5 * (np.arange(3) == axis))
    return np.concatenate(quads), np.concatenate(middles)


def _averages(number: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The mean of all ``values`` (N, 3) that have the same number: (count, 3)."""
    sums = np.stack([np.bincount(number, values[:, axis], count) for axis in range(3)], axis=1)
    return sums / np.bincount(number, minlength=count)[:, None]


def _smooth(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    here, there = corners.ravel(), np.roll(corners, 1, axis=1).ravel()
    number, other = np.concatenate([here, there]), np.concatenate([there, here])
    for weight in (_SHRINK, _GROW) * _ROUNDS:
        points = points + weight * (_averages(number, points[other], len(points)) - points)
    return points
