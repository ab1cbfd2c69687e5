"""Intensities and geometry before and after the network."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from records import make_record, network_input

from monet_edge import preprocess
from monet_edge.errors import ModelError
from monet_edge.intensities import QUANTILES, Statistics, measure
from monet_edge.preprocess import Preprocess, normalise, resize, to_mask
from monet_edge.volume import Voxels

RECORD = make_record("lesion", size=16)
AXES = [(order, flips) for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)] for flips in [(1, 1, 1), (-1, 1, -1), (1, -1, -1)]]


def head(rng, background=0.0):
    volume = np.full((6, 20, 20), background, np.float32)
    volume[1:5, 4:16, 4:16] = rng.normal(300, 60, (4, 12, 12)).clip(100)
    return volume


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_statistics_equal_those_of_numpy(dtype):
    volume = (head(np.random.default_rng(1)) / 3).astype(dtype)
    found = measure(Voxels(volume, 2.0, -1.0))
    scaled = volume.astype(np.float64) * 2 - 1
    background = scaled.min()  # most of this volume
    floor = background + 0.03 * (np.sort(scaled.ravel())[int(0.995 * (scaled.size - 1))] - background)
    foreground = scaled[scaled > floor]
    assert found.background == background
    assert found.floor == pytest.approx(floor)
    assert (found.mean, found.sd) == pytest.approx((foreground.mean(), foreground.std()), rel=1e-12)
    assert found.foreground == foreground.size / scaled.size
    assert found.quantiles == pytest.approx(np.percentile(foreground, QUANTILES, method="nearest"))


@pytest.mark.parametrize(("share", "background"), [(0.10, 0.0), (0.11, -4.0)])
def test_more_than_a_tenth_of_the_voxels_make_a_background(share, background):
    """A darkest intensity that few voxels share is tissue, or noise: the background is 0 then."""
    values = np.linspace(-3, 300, 1000)
    values[: round(1000 * share)] = -4
    found = measure(Voxels(values.reshape(10, 10, 10)))
    assert found.background == background
    assert found.floor == pytest.approx(background + 0.03 * (np.sort(values)[int(0.995 * 999)] - background), rel=1e-12)
    assert found.foreground == np.mean(values > found.floor)


@pytest.mark.parametrize(("above", "background"), [(0, -900.0), (5, -900.0), (6, 0.0)])
def test_where_nothing_lies_above_zero_the_darkest_is_the_background(above, background):
    """Of 1,000 voxels five are the half per cent that does not count; no two are alike."""
    values = np.concatenate([np.linspace(-900, -20, 1000 - above), np.linspace(30, 50, above)])
    found = measure(Voxels(values.reshape(10, 10, 10)))
    assert found.background == background
    assert not found.constant
    assert (found.foreground > 0.5) == (background < 0)


def test_zero_is_no_background_where_it_is_the_brightest():
    values = np.concatenate([np.linspace(-900, -20, 500), np.zeros(500)])
    assert measure(Voxels(values.reshape(10, 10, 10))).background == -900


def test_a_few_voxels_above_a_background_of_zero_stay_the_foreground():
    """0 is shared by most, some lie below by interpolation: as before, what lies above 0 is what there is to see."""
    values = np.zeros(1000)
    values[:5], values[-3:] = (-3, -2.5, -2, -1.5, -1), (80, 90, 100)
    found = measure(Voxels(values.reshape(10, 10, 10)))
    assert (found.background, found.floor, found.foreground, found.mean) == (0, 0, 0.003, 90)


@pytest.mark.parametrize(("order", "flips"), AXES)
def test_statistics_agree_bit_for_bit_in_any_axis_order(order, flips):
    volume = head(np.random.default_rng(2))
    turned = volume.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    assert measure(Voxels(turned)) == measure(Voxels(volume))
    assert measure(Voxels(np.ascontiguousarray(turned))) == measure(Voxels(volume))


def test_a_negative_slope_measures_the_same_as_its_scaled_volume():
    volume = head(np.random.default_rng(3), background=-4)
    assert measure(Voxels(-volume, -1.0)) == measure(Voxels(volume))


@pytest.mark.parametrize("change", [lambda v: v * 16, lambda v: v / 7, lambda v: v * 0.01])
def test_the_network_sees_the_same_whatever_the_scale(change):
    volume = head(np.random.default_rng(4))
    ref, comp = (network_input(Voxels(v), 2, RECORD, measure(Voxels(v))) for v in (volume, change(volume)))
    np.testing.assert_allclose(comp, ref, atol=1e-5)


def test_a_noise_floor_in_the_background_changes_nothing_much():
    rng = np.random.default_rng(5)
    volume = head(rng)
    noisy = np.where(volume == 0, rng.uniform(0, 8, volume.shape), volume).astype(np.float32)
    ref, comp = (network_input(Voxels(v), 2, RECORD, measure(Voxels(v))) for v in (volume, noisy))
    np.testing.assert_allclose(comp, ref, atol=1e-3)


def test_a_z_scored_volume_keeps_its_background():
    rng = np.random.default_rng(6)
    volume = head(rng)
    scored = np.where(volume == 0, -4.0, (volume - 300) / 60).astype(np.float32)
    found = measure(Voxels(scored))
    assert found.background == -4.0
    seen = normalise(Voxels(scored[2]), RECORD, found)
    assert np.array_equal(seen == 0, volume[2] == 0)


def test_what_lies_at_the_floor_is_background_and_what_lies_above_it_is_not():
    found = Statistics(0.0, 10.0, 30.0, 10.0, (0.0,) * len(QUANTILES), 0.5, 0)
    seen = normalise(Voxels(np.array([[9, 10, 11]], np.int16)), replace(RECORD, low=-3.0, high=6.0), found)
    np.testing.assert_allclose(seen, [[0, 0, 11 / 90]], rtol=1e-6)  # -3 SD are 0, 6 SD 90


def test_nan_and_infinity_count_as_background():
    volume = head(np.random.default_rng(7))
    broken = volume.copy()
    broken[2, 8, 8:11] = np.nan, np.inf, -np.inf
    found = measure(Voxels(broken))
    assert found.nonfinite == 3
    assert np.isfinite(found.mean)
    seen = normalise(Voxels(broken[2]), RECORD, found)
    assert np.isfinite(seen).all()
    assert (seen[8, 8:11] == 0).all()


@pytest.mark.parametrize("volume", [np.zeros((3, 4, 4), np.uint8), np.full((3, 4, 4), 7, np.int16), np.full((2, 2, 2), np.nan)])
def test_a_constant_volume_is_called_constant(volume):
    found = measure(Voxels(volume))
    assert found.constant
    assert not normalise(Voxels(volume[0]), RECORD, found).any()


def test_a_window_is_in_hounsfield_units_after_scaling():
    record = replace(RECORD, intensity="window", low=-150.0, high=200.0)
    raw = np.array([[0, 874, 1024, 1224, 4000]], np.int16)  # stored with the usual offset of 1024
    seen = normalise(Voxels(raw, 1.0, -1024.0), record, measure(Voxels(raw)))
    np.testing.assert_allclose(seen, [[0, 0, 150 / 350, 1, 1]], rtol=1e-6)
    assert seen.dtype == np.float32


def test_percentiles_become_zero_and_one():
    record = replace(RECORD, intensity="percentile", low=1.0, high=99.0)
    volume = head(np.random.default_rng(8))
    found = measure(Voxels(volume))
    low, high, _ = preprocess.span(record, found)
    assert (low, high) == (found.quantiles[QUANTILES.index(1.0)], found.quantiles[QUANTILES.index(99.0)])


@pytest.mark.parametrize("sizes", [(5, 7, 10, 14), (8, 8, 4, 4), (1, 1, 16, 16), (16, 16, 1, 1), (3, 17, 16, 16), (6, 6, 6, 6)])
def test_resize_equals_interpolation_matrices(sizes):
    h, w, height, width = sizes

    def matrix(source, target):
        rows = np.zeros((target, source))
        for i in range(target):
            centre = min(max((i + 0.5) * source / target - 0.5, 0), source - 1)
            lower = min(int(centre), max(source - 2, 0))
            rows[i, lower] += 1 - (centre - lower)
            rows[i, min(lower + 1, source - 1)] += centre - lower
        return rows

    images = np.random.default_rng(9).random((2, h, w), dtype=np.float32)
    ref = matrix(h, height) @ images @ matrix(w, width).T
    comp = resize(images, height, width)
    assert comp.dtype == np.float32
    np.testing.assert_allclose(comp, ref, atol=1e-6)


def test_context_repeats_the_last_slice():
    volume = np.arange(1, 5, dtype=np.float32)[:, None, None] * np.ones((1, 16, 16), np.float32)
    record = replace(RECORD, context=1, intensity="window", low=0.0, high=4.0)
    seen = network_input(Voxels(volume), 0, record, measure(Voxels(volume)))
    assert seen[:, 0, 0].tolist() == [0.25, 0.25, 0.5]
    assert network_input(Voxels(volume), 3, record, measure(Voxels(volume)))[:, 0, 0].tolist() == [0.75, 1, 1]


def test_masks():
    binary = np.array([[[0.2, 0.5, 0.6]]], np.float32)
    assert to_mask(binary, 0.5).tolist() == [[0, 0, 1]]
    assert to_mask(np.array([[[0.5]], [[0.2]], [[0.3]]]), 0.5).tolist() == [[0]]
    assert to_mask(np.array([[[0.1]], [[0.2]], [[0.7]]]), 0.5).dtype == np.uint8


def test_the_record_survives_json():
    assert preprocess.from_json(preprocess.to_json(RECORD)) == RECORD


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": 1.5}, {"slicing": "oblique"}, {"context": -1}, {"intensity": "log"}, {"low": 5.0}, {"high": float("nan")},
     {"high": float("inf")}, {"threshold": 0}, {"threshold": 1.0}, {"labels": ()}, {"labels": ("",)}, {"intensity": "percentile"}],
)  # fmt: skip
def test_an_invalid_record_is_refused(change):
    with pytest.raises(ModelError, match="not valid"):
        Preprocess(**{**asdict(RECORD), **change})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"size": 1}', "[" * 100_000])
def test_text_that_is_no_record_is_refused(text):
    with pytest.raises(ModelError):
        preprocess.from_json(text)


def test_a_record_says_of_single_slices_only_what_records_before_did_not_mean():
    usual, strict = make_record("lesion"), make_record("lesion", lone=False)
    assert "lone" not in json.loads(preprocess.to_json(usual))  # the bytes of before
    assert [preprocess.from_json(preprocess.to_json(record)) for record in (usual, strict)] == [usual, strict]
    for wrong in (None, 0, "false"):
        with pytest.raises(ModelError, match="lone must be true or false"):
            preprocess.from_json(json.dumps({**json.loads(preprocess.to_json(strict)), "lone": wrong}))
