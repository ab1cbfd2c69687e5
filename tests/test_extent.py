"""A scan that is far larger than those of the training is warned of, in millimetres where both are known, else by its slices."""

import json

import nibabel
import numpy as np
import pytest
from conftest import random_tensors
from records import make_record

from monet_edge import fingerprint, formats, weights
from monet_edge.architectures import monet
from monet_edge.doubts import unlike
from monet_edge.errors import ModelError
from monet_edge.extent import Extent, extent_of, largest
from monet_edge.intensities import measure
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.spec import fold_batchnorm
from monet_edge.volume import Voxels

WORDS = "too large for crops"


def test_the_largest_of_every_measure_counts():
    scans = [extent_of((10, 40, 30), (5.0, 1.0, 1.0)), extent_of((20, 20, 60), (1.0, 1.0, 1.0))]
    assert largest(scans) == Extent(20, (50.0, 40.0, 60.0))
    assert largest([*scans, extent_of((30, 9, 9), None)]) == Extent(30)


@pytest.mark.parametrize(
    ("scan", "usual", "words"),
    [
        (Extent(112), Extent(15), "has 112 slices, and none that it was trained on more than 15"),
        (Extent(30), Extent(15), ""),
        (Extent(300, (60.0, 60.0, 60.0)), Extent(40, (40.0, 50.0, 40.0)), ""),  # thinner slices of no more than a crop
        (Extent(40, (40.0, 50.0, 160.0)), Extent(40, (40.0, 50.0, 40.0)), "measures 40 x 50 x 160 mm, and none that it was trained on"),
        (Extent(160), Extent(40, (40.0, 50.0, 40.0)), "has 160 slices"),
    ],
)
def test_more_than_twice_the_largest_is_too_large(scan, usual, words):
    found = scan.beyond(usual)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def usual(extent):
    count = fingerprint.COUNT
    return fingerprint.Fingerprint(np.zeros((1, count)), np.zeros((1, count, count)), 9.0, extent)


@pytest.mark.parametrize("extent", [None, Extent(15), Extent(40, (40.5, 50.0, 40.0))])
def test_it_travels_in_the_record(extent):
    record = json.loads(json.dumps(fingerprint.to_record(usual(extent))))
    assert ("extent" in record) == (extent is not None)  # files of before are read, and stay as they were
    assert fingerprint.from_record(record).extent == extent


@pytest.mark.parametrize(
    "extent", [3, {"slices": 3}, {"slices": "many", "mm": None}, {"slices": 3, "mm": [1, 2]}, {"slices": 3, "mm": [1, 2, 1e999]}]
)
def test_a_record_that_is_none_is_refused(extent):
    with pytest.raises(ModelError, match="fingerprint"):
        fingerprint.from_record({**fingerprint.to_record(usual(None)), "extent": extent})


def test_a_model_of_crops_warns_of_a_whole(tmp_path, rng):
    spec = fold_batchnorm(monet(1, 1, 4))
    path = tmp_path / "crops.safetensors"
    weights.save(path, spec, random_tensors(spec), make_record("blob"), {}, usual(Extent(4, (20.0, 32.0, 32.0))))
    model = Model(weights.load(path), threads=1)
    voxels = rng.integers(100, 200, (32, 32, 8)).astype(np.int16)
    scan = formats.from_image(nibabel.Nifti1Image(voxels, np.diag([-1, -1, 5, 1.0])))
    assert not any(WORDS in warning for warning in model.segment_scan(scan).warnings)
    whole = model.segment_scan(scan, Options(spacing=(1.0, 1.0, 6.0))).warnings
    assert "this scan is too large for crops: it measures 48 x 32 x 32 mm" in "".join(whole)


@pytest.mark.parametrize(("model", "hint"), [("hippocampus", "the model brain finds hippocampus in whole scans"), ("pancreas-ct", "")])
def test_a_whole_scan_points_to_the_model_that_takes_it(model, hint, rng):
    scan = formats.from_image(nibabel.Nifti1Image(rng.integers(1, 200, (160, 200, 160)).astype(np.uint8), np.diag([-1, -1, 1, 1.0])))
    found = weights.load(model)
    warned = [*unlike(found, [scan], [measure(Voxels(scan.voxels))], np.zeros(scan.shape, np.uint8), Options())]
    (large,) = [warning for warning in warned if f"too large for {model}" in warning]
    assert large.endswith(hint or "do not trust the mask")
