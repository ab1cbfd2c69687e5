"""A scan unlike those of the training is told from one that is like them."""

import json

import nibabel
import numpy as np
import pytest
from conftest import DATA, needs_data
from records import make_record

import monet_edge
from monet_edge import fingerprint, phantom
from monet_edge.errors import ModelError
from monet_edge.intensities import measure
from monet_edge.volume import Voxels

RECORD = make_record("lesion", size=64)
WARNING = "does not look like"


def row(volume):
    return fingerprint.features(fingerprint.look([Voxels(volume)], RECORD, [measure(Voxels(volume))]))


@pytest.fixture(scope="module")
def heads():
    return np.stack([row(phantom.make(seed, (8, 64, 64))[0]) for seed in range(40)])


def test_a_new_head_is_known_and_everything_else_is_foreign(heads, rng):
    usual = fingerprint.learn(heads)
    new = [row(phantom.make(seed, (8, 64, 64))[0]) for seed in range(100, 110)]
    assert sum(map(usual.is_foreign, new)) <= 2  # the limit lets 1.5 % of the training scans lie beyond it
    noise = rng.normal(500, 100, (8, 64, 64)).astype(np.int16)
    upside_down = phantom.make(100, (8, 64, 64))[0][:, :, ::-1].transpose(0, 2, 1)
    wide = np.repeat(phantom.make(100, (8, 64, 64))[0][:, 20:44], 3, axis=1)[:, :64]
    for foreign in (noise, upside_down, wide):
        assert usual.is_foreign(row(foreign))


def test_a_variant_is_known_where_it_was_learned(heads):
    variant = heads + np.linspace(1, 2, heads.shape[1])
    assert fingerprint.learn(heads).is_foreign(variant[0])
    assert not fingerprint.learn(heads, [variant]).is_foreign(variant[0])


@pytest.mark.parametrize("scans", [1, 2])
def test_too_few_scans_cannot_tell_what_is_usual(heads, scans):
    assert fingerprint.learn(heads[:scans], [heads[:scans] + 1]) is None


def test_three_scans_can(heads):
    usual = fingerprint.from_record(fingerprint.to_record(fingerprint.learn(heads[:3])))
    assert 0 < usual.limit < np.inf
    assert not usual.is_foreign(heads[1])


def test_quantiles_and_histogram_are_numpys_bit_for_bit(rng):
    """Weights files hold features that np.percentile and np.histogram made."""
    for count, digits in ((1, 7), (2, 2), (17, 1), (4000, 2), (4096, 7)):
        slices = np.zeros((1, fingerprint.SIDE, fingerprint.SIDE), np.float32)
        slices.ravel()[:count] = np.maximum(rng.random(count).round(digits), 1e-6)
        inside, found = slices[slices > 0], fingerprint.features(slices[None])
        assert np.array_equal(found[:5], np.percentile(inside, (10, 25, 50, 75, 90)))
        assert np.array_equal(found[-10:], np.histogram(inside, 10, (0, 1))[0] / inside.size)


def test_the_record_survives_json(heads):
    usual = fingerprint.learn(heads, [heads + 1])
    again = fingerprint.from_record(json.loads(json.dumps(fingerprint.to_record(usual))))
    for features in (*heads, heads[0] + 3):
        assert again.distance(features) == pytest.approx(usual.distance(features), rel=1e-3)


def test_the_record_has_six_digits(heads):
    usual = fingerprint.learn(heads)
    record = fingerprint.to_record(usual)
    for name, array in (("means", usual.means), ("inverses", usual.inverses), ("limit", usual.limit)):
        told, ref = np.array(record[name]).ravel(), np.array(array).ravel()
        np.testing.assert_allclose(told, ref, rtol=5.1e-6)
        assert all(number == float(f"{number:.5e}") for number in told)
        assert (told != ref).any()


@pytest.mark.parametrize("record", [{}, 3, {"means": [], "inverses": [], "limit": 1}, {"means": [["a"]], "inverses": [], "limit": 1}])
def test_a_record_that_is_none_is_refused(record):
    with pytest.raises(ModelError, match="fingerprint"):
        fingerprint.from_record(record)


def test_numbers_that_are_none_are_refused(heads):
    record = fingerprint.to_record(fingerprint.learn(heads))
    record["means"][0][0] = float("nan")
    with pytest.raises(ModelError, match="finite"):
        fingerprint.from_record(record)


def test_the_model_warns_of_noise(rng):
    image = nibabel.Nifti1Image(rng.normal(500, 100, (64, 64, 3)).astype(np.int16), np.diag([-1, -1, 5, 1.0]))
    found = monet_edge.load("brain-flair").segment_scan(monet_edge.formats.from_image(image))
    assert any(WARNING in warning for warning in found.warnings)


@needs_data
@pytest.mark.parametrize(("model", "folder", "foreign"), [("brain-flair", "pancreas-ct", True), ("pancreas-ct", "pancreas-ct", False)])
def test_real_scans_are_told_apart(model, folder, foreign):
    path = sorted((DATA / folder / "imagesTr").glob("*.nii.gz"))[0]
    found = monet_edge.load(model).segment_scan(monet_edge.formats.read(path))
    assert any(WARNING in warning for warning in found.warnings) == foreign
