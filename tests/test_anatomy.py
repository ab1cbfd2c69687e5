"""A mask of another thing than the label maps of the training show is warned of, and so is a CT."""

import numpy as np
import pytest
from conftest import random_tensors
from records import make_record
from scans import blob, image_of

import monet_edge
from monet_edge import anatomy, formats, weights
from monet_edge.architectures import monet
from monet_edge.errors import ModelError
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.spec import fold_batchnorm

WHOLE, CT = "does not look like a whole scan of what", "looks like a CT"
KNOWN = {"a": (10.0, 20.0), "b": (1.0, 2.0), "c": (0.0, 1.0), "d": (5.0, 5.0)}


@pytest.mark.parametrize(
    ("ml", "odd"),
    [
        ((15.0, 1.5, 0.5, 5.0), 0),
        ((5.0, 4.0, 0.0, 10.0), 0),  # within twice, either way
        ((15.0, 9.0, 0.5, 5.0), 0),  # one of four may be: a tumour's neighbour
        ((4.9, 4.1, 0.5, 5.0), 2),
        ((0.0, 0.0, 0.0, 0.0), 3),
    ],
)
def test_most_structures_must_be_as_large_as_in_training(ml, odd):
    found = anatomy.strange(KNOWN, dict(zip(KNOWN, ml, strict=True)))
    assert found.startswith(f"of 4 structures {odd} are far from any size in the training (a {ml[0]:g} ml instead of 10 to 20") == bool(odd)
    assert bool(found) == bool(odd)


@pytest.mark.parametrize(
    "record",
    [3, [], {"a": [1, 2]}, {"a": [1, 2], "b": [1, 2], "c": [1, 2]}]
    + [{"a": sizes, "b": [0, 1]} for sizes in (1, [1], [1, 2, 3], [2, 1], [-1, 1], ["1", "2"], [True, 2], [1, 1e999], [1, 10**400])],
)  # fmt: skip
def test_a_record_that_is_none_is_refused(record):
    with pytest.raises(ModelError, match="size"):
        anatomy.check(record, ("a", "b"))
    assert anatomy.check({}, ("a", "b")) == {}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of one structure, which is as large in `blob`s as in its training."""
    spec = fold_batchnorm(monet(filters=4, depth=1))
    path = tmp_path_factory.mktemp("anatomy") / "tiny.safetensors"
    scan = formats.from_image(image_of(blob(np.random.default_rng(0))))
    weights.save(path, spec, random_tensors(spec), make_record("blob"), {})
    ml = np.count_nonzero(Model(weights.load(path), 1).segment_scan(scan).mask) * scan.voxel_ml
    weights.save(path, spec, random_tensors(spec), make_record("blob"), {"anatomy": {"blob": [0.9 * ml, 1.1 * ml]}})
    return Model(weights.load(path), 1)


@pytest.mark.parametrize(("spacing", "warned"), [(None, False), ((0.8, 0.9, 3.0), False), (0.5, True), ((0.8, 0.9, 9.0), True)])
def test_a_mask_of_another_size_is_warned_of(model, spacing, warned):
    scan = formats.from_image(image_of(blob(np.random.default_rng(0))))
    assert any(WHOLE in warning for warning in model.segment_scan(scan, Options(spacing=spacing)).warnings) == warned


def test_a_ct_is_warned_of(model):
    voxels = blob(np.random.default_rng(0))
    for air, warned in ((0, False), (-1000, True)):
        scan = formats.from_image(image_of(np.where(voxels == 0, np.int16(air), voxels)))
        assert any(CT in warning for warning in model.segment_scan(scan).warnings) == warned


def test_brain_knows_that_a_box_of_noise_is_no_head(rng):
    image = image_of(rng.normal(500, 120, (30, 20, 30)).astype(np.int16), np.diag([-2.0, -2.0, 2.0, 1.0]))
    ready = monet_edge.load("brain", threads=1)
    assert set(ready.weights.provenance.anatomy) == set(ready.weights.preprocess.labels)
    assert any(WHOLE in warning for warning in ready.segment_scan(formats.from_image(image)).warnings)
