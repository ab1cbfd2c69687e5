"""Tiles: where they lie, how they count, and what their results are together."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from monet_edge.tiles import Merging, Tiling, gaussian, positions

ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
SHAPES = [(16, 16), (15, 17), (17, 16), (24, 31), (25, 7), (40, 33), (3, 5), (1, 100), (16, 25)]
TILE = (16, 12)


@pytest.mark.parametrize(
    ("side", "tile", "expected"),
    [(5, 8, (0,)), (8, 8, (0,)), (9, 8, (0, 1)), (12, 8, (0, 4)), (13, 8, (0, 2, 5)), (67, 40, (0, 14, 27)), (512, 256, (0, 128, 256)),
     (131, 64, (0, 22, 45, 67))],
)  # fmt: skip
def test_tiles_begin_where_nnunet_puts_them(side, tile, expected):
    """By hand from its formula: ceil((side - tile) / (tile / 2)) + 1 of them, evenly, halves to the even pixel (13.5, 22.33, 2.5)."""
    assert positions(side, tile) == expected


@pytest.mark.parametrize("tile", [(56, 40), (33, 20), (16, 16), (1, 7)])
def test_weights_are_a_gaussian_of_an_eighth(tile):
    delta = np.zeros(tile)
    delta[tile[0] // 2, tile[1] // 2] = 1
    ref = ndimage.gaussian_filter(delta, [side / 8 for side in tile], mode="constant")
    np.testing.assert_allclose(gaussian(tile), ref / ref.max(), rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pixel_lies_in_tiles_of_one_size(shape):
    tiling = Tiling(shape, TILE)
    image = np.random.default_rng(0).random(shape)
    padded = np.zeros(tiling.padded)
    padded[tiling.inside] = image
    before, after = ((tiling.inside[i].start, tiling.padded[i] - tiling.inside[i].stop) for i in (0, 1))
    assert all(0 <= last - first <= 1 for first, last in (before, after))  # in the middle, the odd pixel after it
    seen = np.zeros(tiling.padded, int)
    for window in tiling.windows:
        assert padded[window].shape == TILE
        seen[window] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_of_one_pixel_does_not_see_the_tiles(shape):
    tiling, rng = Tiling(shape, TILE), np.random.default_rng(1)
    image = rng.random((3, *shape), dtype=np.float32)
    padded = np.zeros((3, *tiling.padded), np.float32)
    padded[:, *tiling.inside] = image
    stored = {}
    merging = Merging(tiling, stored.__setitem__)
    for i in range(2 * len(tiling.windows)):
        merging(i, padded[:, *tiling.windows[i % len(tiling.windows)]])
    assert list(stored) == [0, 1]
    for comp in stored.values():
        np.testing.assert_allclose(comp, image, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 33), (17, 16)])
def test_the_mean_is_weighted(shape):
    """Tiles that disagree: by the definition, in float64, tile by tile."""
    tiling, rng = Tiling(shape, TILE), np.random.default_rng(2)
    results = [rng.random((2, *TILE), dtype=np.float32) for _ in tiling.windows]
    total, weights = np.zeros((2, *tiling.padded)), np.zeros(tiling.padded)
    for window, result in zip(tiling.windows, results, strict=True):
        total[:, *window] += result * gaussian(TILE)
        weights[window] += gaussian(TILE)
    stored = {}
    merging = Merging(tiling, stored.__setitem__)
    for i, result in enumerate(results):
        merging(i, result)
    np.testing.assert_allclose(stored[0], (total / weights)[:, *tiling.inside], atol=1e-6)


def test_any_order_and_any_threads_give_the_same_bits():
    tiling, rng = Tiling((70, 50), TILE), np.random.default_rng(3)
    count = 6 * len(tiling.windows)
    results = rng.random((count, 2, *TILE), dtype=np.float32)

    def merged(order, threads):
        stored = {}
        merging = Merging(tiling, lambda i, result: stored.__setitem__(i, result.tobytes()))
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda i: merging(i, results[i]), order))
        assert not merging._sums  # nothing is kept
        return stored

    ref = merged(range(count), 1)
    assert len(ref) == 6
    assert merged(rng.permutation(count), 1) == ref
    assert merged(range(count), 4) == ref


def test_what_is_given_stays_the_callers():
    """An engine's result is valid during the call only."""
    tiling, stored = Tiling((20, 16), (16, 16)), {}
    merging, result = Merging(tiling, stored.__setitem__), np.ones((1, 16, 16), np.float32)
    for i in (1, 0):
        result[:] = i + 1
        merging(i, result)
    result[:] = 9
    assert (stored[0][0, 0] == 1).all()
    assert (stored[0][0, -1] == 2).all()
