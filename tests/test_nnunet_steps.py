"""The steps of nnU-Net's way one by one, against SciPy and NumPy."""

import numpy as np
import pytest
from conftest import GENUINE, needs_genuine

from monet_edge.nnunet.case import Images, bounding_box, filled
from monet_edge.nnunet.predict import Prediction, Sums
from monet_edge.nnunet.record import Channel, Record, Resampling
from monet_edge.nnunet.resample import Change, along, new_length, separate_axis
from monet_edge.tiles import Tiling
from monet_edge.volume import Voxels

ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("count", "length"), [(1, 4), (3, 100), (53, 71), (40, 17), (37, 37), (2, 1)])
def test_an_axis_is_resampled_as_by_scipy(order, count, length, rng):
    values = rng.standard_normal((4, count))
    ref = ndimage.zoom(values, (1, length / count), order=order, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(along(values, 1, length, order), ref, rtol=0, atol=1e-13)


def resize(volume, shape, order):
    """scikit-image's resize with mode "edge": SciPy's zoom, held to the range of its input."""
    found = ndimage.zoom(volume, np.divide(shape, volume.shape), order=order, mode="nearest", grid_mode=True)
    return np.clip(found, volume.min(), volume.max())


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_slices_are_resampled_as_the_volume_is(axis, rng):
    """By a spline of all three axes, or of two of them and the nearest along the third."""
    volume = rng.standard_normal((5, 9, 7)).round().astype(np.float32)  # flat tops: a spline leaves the range there
    change = Change((9, 7), (14, 12), Resampling(order=3), axis)
    found = np.stack([Images([Channel(name="a", scheme="none")], [Voxels(volume)], change)(z)[0] for z in range(5)])
    if axis is None:
        ref = resize(volume, (5, 14, 12), 3)
    else:
        shape = [side for i, side in enumerate((5, 14, 12)) if i != axis]
        ref = np.moveaxis(np.stack([resize(one, shape, 3) for one in np.moveaxis(volume, axis, 0)]), 0, axis)
        ref = ndimage.zoom(ref, np.divide((5, 14, 12), ref.shape), order=0, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, ref, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("current", "new", "separate", "axis"),
    [
        ((4, 1, 1), (4, 1, 1), None, 0),
        ((3, 1, 1), (3, 1, 1), None, None),
        ((1, 1, 3.5), (1, 1, 1), None, 2),
        ((1, 1, 1), (1, 3.5, 1), None, 1),
        ((0.2, 1, 1), (0.2, 1, 1), None, None),  # two share the largest
        ((4, 1, 1), (4, 1, 1), False, None),
        ((1.2, 1, 1), (4, 1, 1), True, 0),
        ((4, 1, 1), (1, 1, 5), None, 0),  # the current one counts first
    ],
)
def test_an_axis_goes_on_its_own_where_nnunet_says_so(current, new, separate, axis):
    assert separate_axis(Resampling(order=3, separate=separate), current, new) == axis


def test_lengths_are_rounded_to_the_even_one():
    assert [new_length(n, 0.5, 1.0) for n in (1, 3, 5, 7)] == [0, 2, 2, 4]


def test_the_box_holds_what_any_image_has(rng):
    images = [np.zeros((6, 8, 9), np.int16) for _ in range(2)]
    images[0][2, 3, 4], images[1][4, 1, 4] = 5, -1
    assert bounding_box([Voxels(image) for image in images]) == (slice(2, 5), slice(1, 4), slice(4, 5))
    assert bounding_box([Voxels(np.zeros((2, 3, 4)))]) == (slice(0, 2), slice(0, 3), slice(0, 4))
    assert bounding_box([Voxels(images[0], 1.0, -5.0)])[0] == slice(0, 6)  # what is stored as 0 is -5


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.9])
def test_holes_are_filled_as_by_scipy(share, rng):
    inside = rng.random((7, 9, 8)) < share
    assert np.array_equal(filled([Voxels(inside.astype(np.uint8))]), ndimage.binary_fill_holes(inside))


@pytest.mark.parametrize("masked", [False, True])
def test_schemes_are_nnunets(masked, rng):
    volume = rng.normal(100, 30, (5, 6, 7)).astype(np.float32)
    volume[:, 0] = volume[0] = 0
    inside = volume != 0
    ct = Channel(name="a", scheme="ct", low=60.0, high=120.0, mean=90.0, sd=20.0)
    counted = volume[inside] if masked else volume
    expected = {
        "zscore": np.where(inside | (not masked), (volume - counted.mean()) / counted.std(), volume),
        "none": volume,
        "rescale": (volume - volume.min()) / (volume.max() - volume.min()),
        "rgb": volume / 255,
    }
    same = Change((6, 7), (6, 7), Resampling(order=3), None)
    channels = {name: Channel(name="a", scheme=name, masked=masked and name == "zscore") for name in expected} | {"ct": ct}
    expected["ct"] = (np.clip(volume, 60, 120) - 90) / 20
    for name, channel in channels.items():
        found = Images([channel], [Voxels(volume)], same)
        np.testing.assert_allclose(np.stack([found(z)[0] for z in range(5)]), expected[name], rtol=0, atol=3e-6, err_msg=name)


@needs_genuine
def test_the_gaussian_is_nnunets_in_float16():
    (stored,) = np.load(GENUINE / "intermediate" / "gaussian_half.npz").values()
    assert np.array_equal(Sums(Tiling((56, 40), (56, 40)))._gaussian, stored)


def test_tiles_that_come_in_any_order_give_the_same_bits(rng):
    """Their sums are float16: another order would give other ones."""
    sides = {"patch": (8, 6), "spacing": (1.0, 1.0), "transpose": (0, 1, 2), "reorient": False}
    record = Record(channels=(Channel(name="a", scheme="none"),), labels=("a", "b"), regions=(), mirror=(0, 1), folds=1,
                    image=Resampling(order=3), logits=Resampling(order=1), **sides)  # fmt: skip
    tiling, images, written = Tiling((15, 13), (8, 6)), rng.standard_normal((2, 1, 15, 13)).astype(np.float32), []
    for order in (np.arange, rng.permutation):
        kept = {}
        prediction = Prediction(record, images.__getitem__, tiling, True, kept.__setitem__)
        for item in order(2 * prediction.per_slice):
            tile = np.empty((1, 8, 6), np.float32)
            prediction.load(item, tile)
            prediction.store(item, np.repeat(tile, 3, 0) * np.float32([[[1]], [[2]], [[-1]]]) + np.float32(item % 7))
        written.append(np.stack([kept[z] for z in (0, 1)]))
    assert np.array_equal(*written)
