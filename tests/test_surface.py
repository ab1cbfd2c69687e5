"""The surface of a label: closed, seen from outside, where the label is, of its volume."""

import struct
from itertools import product

import numpy as np
import pytest

from monet_edge.report import surface as module
from monet_edge.report.surface import surface, to_mz3

OBLIQUE = np.array([[-0.9, 0.1, 0.2, 40], [0.15, 1.1, -0.3, -60], [0.1, 0.35, 2.4, 12.5], [0, 0, 0, 1]])


def ball(radius=12.0, shape=(40, 34, 37), centre=(18, 17, 19)):
    return sum(np.square(axis - middle) for axis, middle in zip(np.ogrid[tuple(map(slice, shape))], centre, strict=True)) < radius**2


def volume(points, triangles):
    """Enclosed, by the divergence theorem; positive if the triangles look outwards."""
    a, b, c = np.moveaxis(points.astype(np.float64)[triangles], 1, 0)
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


def open_edges(triangles):
    """Directed edges without their opposite: none of a closed surface, all triangles of which are turned alike."""
    edges = {(a, b) for triangle in triangles.tolist() for a, b in zip(triangle, triangle[1:] + triangle[:1], strict=True)}
    return [edge for edge in edges if edge[::-1] not in edges]


@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_a_ball_keeps_place_and_volume_and_looks_outwards(flips, order):
    affine = OBLIQUE @ np.diag([*flips, 1])[[*order, 3]]
    inside = ball()
    points, triangles = surface(inside, affine)
    assert open_edges(triangles) == []
    assert volume(points, triangles) == pytest.approx(inside.sum() * abs(np.linalg.det(affine[:3, :3])), rel=0.01)
    assert np.allclose(points.mean(axis=0), affine[:3, :3] @ (18, 17, 19) + affine[:3, 3], atol=0.3)


def test_it_is_round_where_the_voxels_are_cubes():
    points, _ = surface(ball(), np.eye(4))
    distances = np.linalg.norm(points - (18, 17, 19), axis=1)
    assert distances.std() < 0.2  # of the voxels' own corners 0.3
    assert abs(distances.mean() - 12) < 0.2


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (3, 3, 3)])
def test_a_label_that_fills_the_scan_is_closed(shape):
    points, triangles = surface(np.ones(shape, bool), np.eye(4))
    assert len(triangles) == 4 * (shape[0] * shape[1] + shape[1] * shape[2] + shape[0] * shape[2])
    assert open_edges(triangles) == []
    assert volume(points, triangles) > 0


def test_an_empty_label_has_no_surface():
    points, triangles = surface(np.zeros((4, 5, 6), bool), np.eye(4))
    assert points.shape == triangles.shape == (0, 3)
    assert len(to_mz3(points, triangles)) == 16


def test_a_rough_shape_becomes_coarser_where_it_is_too_large(monkeypatch):
    inside = ball()
    fine = surface(inside, OBLIQUE)
    monkeypatch.setattr(module, "MOST", 1000)
    points, triangles = surface(inside, OBLIQUE)
    assert len(triangles) <= 2 * 1000 < len(fine[1])
    assert np.allclose(points.mean(axis=0), fine[0].mean(axis=0), atol=1.5)
    assert volume(points, triangles) == pytest.approx(volume(*fine), rel=0.35)


def test_the_file_is_as_its_format_says():
    points, triangles = surface(ball(4, (12, 12, 12), (5, 6, 6)), OBLIQUE)
    data = to_mz3(points, triangles)
    magic, attributes, faces, vertices, skip = struct.unpack("<HHIII", data[:16])
    assert (magic, attributes, faces, vertices, skip) == (0x5A4D, 3, len(triangles), len(points), 0)
    assert np.array_equal(np.frombuffer(data, "<i4", 3 * faces, 16).reshape(-1, 3), triangles)
    assert np.array_equal(np.frombuffer(data, "<f4", 3 * vertices, 16 + 12 * faces).reshape(-1, 3), points)
