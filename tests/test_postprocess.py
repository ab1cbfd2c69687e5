"""Stray pieces are removed as a plain flood fill would."""

import sys
from itertools import product

import numpy as np
import pytest

from monet_edge import errors
from monet_edge.postprocess import remove_lone, remove_pieces

AROUND = [step for step in product((-1, 0, 1), repeat=3) if any(step)]


def pieces_of(mask):
    """Sets of voxels of one label that share a face, an edge or a corner."""
    left = {tuple(voxel) for voxel in np.argwhere(mask)}
    while left:
        piece, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            piece.add(voxel)
            for step in AROUND:
                other = tuple(np.add(voxel, step))
                if other in left and mask[other] == mask[voxel]:
                    left.remove(other)
                    edge.append(other)
        yield piece


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize(("keep_largest", "min_volume"), [(True, 0.0), (False, 0.004), (True, 0.02), (True, 1.0)])
def test_equals_a_flood_fill(rng, order, keep_largest, min_volume):
    mask = np.zeros((14, 12, 10), np.uint8)
    for label, (x, y, z), side in [(1, (0, 0, 0), 4), (1, (8, 0, 0), 2), (2, (0, 6, 0), 3), (2, (9, 7, 5), 2), (1, (4, 4, 4), 1)]:
        mask[x : x + side, y : y + side, z : z + side] = label  # the last one hangs on the first by a corner
    mask[12:, 10:, 8:] = rng.integers(0, 3, (2, 2, 2))
    mask = np.array(mask, order=order)
    ref = np.zeros_like(mask)
    pieces = list(pieces_of(mask))
    for piece in pieces:
        label = mask[next(iter(piece))]
        rivals = [len(other) for other in pieces if mask[next(iter(other))] == label]
        if len(piece) * 0.001 >= min_volume and (not keep_largest or len(piece) == max(rivals)):
            ref[tuple(np.transpose(list(piece)))] = label
    before = mask.copy()
    comp = remove_pieces(mask, 0.001, keep_largest=keep_largest, min_volume=min_volume)
    assert np.array_equal(comp, ref)
    assert np.array_equal(mask, before)


def test_a_piece_of_just_the_least_volume_stays_whole_up_to_the_volumes_end():
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[3:, 4:, 5:], mask[0, 0, :7] = 1, 2
    kept = remove_pieces(mask, 0.001, keep_largest=False, min_volume=0.008)
    np.testing.assert_array_equal(kept, np.where(mask == 1, 1, 0))


def test_an_empty_mask_stays_empty():
    assert not remove_pieces(np.zeros((3, 3, 3), np.uint8), 1.0, keep_largest=True, min_volume=1.0).any()


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cc3d", None)
    with pytest.raises(errors.MonetError, match=r"pip install 'monet-edge\[components\]'"):
        remove_pieces(np.ones((3, 3, 3), np.uint8), 1.0, keep_largest=True, min_volume=0.0)


def test_pieces_of_one_slice_are_those_whose_flood_fill_never_leaves_it(rng):
    mask = (rng.random((7, 24, 30)) < 0.08).astype(np.uint8) * rng.integers(1, 3, (7, 24, 30), dtype=np.uint8)
    expected = np.zeros_like(mask)
    for label in (1, 2):
        left = {tuple(map(int, place)) for place in np.argwhere(mask == label)}
        while left:
            piece = [left.pop()]
            for place in piece:
                near = left & {tuple(a + b for a, b in zip(place, step, strict=True)) for step in product((-1, 0, 1), repeat=3)}
                piece += near
                left -= near
            if len({z for z, _, _ in piece}) > 1:
                expected[tuple(np.transpose(piece))] = label
    turned = mask.transpose(2, 1, 0).copy(order="F").transpose(2, 1, 0)[:, ::-1]  # as a scan's slices lie in memory
    remove_lone(turned)
    np.testing.assert_array_equal(turned[:, ::-1], expected)
    assert 0 < np.count_nonzero(expected) < np.count_nonzero(mask)


def test_a_scan_of_one_slice_keeps_what_is_found():
    mask = np.ones((1, 3, 3), np.uint8)
    remove_lone(mask)
    assert mask.all()
