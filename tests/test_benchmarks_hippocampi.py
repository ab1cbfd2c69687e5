"""Crops of hippocampi put into heads: where they land, how bright they are, how they end."""

import numpy as np
import pytest

from benchmarks.hippocampi import FADE, middle, put


def test_the_middle_is_that_of_the_largest_piece():
    found = np.zeros((20, 20, 20), bool)
    found[2:4, 2:4, 2:4] = True
    found[10:15, 8:11, 6:9] = True
    assert middle(found).tolist() == [12, 9, 7]


def test_a_crop_lands_where_the_hippocampus_was_and_is_as_bright():
    rng = np.random.default_rng(0)
    head = rng.uniform(100, 200, (40, 44, 48)).astype(np.float32)
    crop = rng.uniform(0, 1, (16, 18, 20))
    traced = np.zeros(crop.shape, bool)
    traced[5:10, 6:11, 7:12] = True
    before = head.copy()
    result, place = put(crop, traced, head, np.array([20.2, 21.4, 22.0]))
    assert np.array_equal(head, before)
    assert [axis.start for axis in place] == [13, 13, 13]
    outside = np.ones(head.shape, bool)
    outside[place] = False
    assert np.array_equal(result[outside], head[outside])
    inner = tuple(slice(FADE - 1, 1 - FADE) for _ in range(3))
    assert np.corrcoef(result[place][inner].ravel(), crop[inner].ravel())[0, 1] == pytest.approx(1)
    assert np.percentile(result[place][inner], [15, 85]) == pytest.approx(np.percentile(head[place], [15, 85]), abs=3)


def test_an_edge_is_a_quarter_the_crop():
    head, crop = np.full((30, 30, 30), 100.0), np.linspace(0, 100, 16**3).reshape(16, 16, 16)
    head[::2] = 200
    traced = np.ones(crop.shape, bool)
    result, place = put(crop, traced, head, np.array([15.0, 15.0, 15.0]))
    dark, bright = np.percentile(crop, [15, 85])
    alike = np.maximum((crop - dark) / (bright - dark) * 100 + 100, 0)
    for depth in range(FADE):
        share = (depth + 1) / FADE
        comp, old = result[place][8, 8, depth], head[place][8, 8, depth]
        assert comp == pytest.approx(old + share * (alike[8, 8, depth] - old), rel=1e-5)
