"""The Dice that a mask is expected to have: from how sure the network is, said where it is known, and nowhere else."""

import csv
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from conftest import random_tensors
from records import make_record
from scans import blob, image_of

from monet_edge import fingerprint, formats, pipeline, quality, weights
from monet_edge.architectures import monet
from monet_edge.cli.shared import describe
from monet_edge.errors import ModelError
from monet_edge.extent import Extent
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.quality import LAX, STRICT, Agreement, Expected, expect
from monet_edge.report.statistics import measure
from monet_edge.runs.record import entry
from monet_edge.runs.table import write_table
from monet_edge.spec import fold_batchnorm

KNOWN = {"blob": {"shift": -1.0, "spread": 0.5, "cases": 9}}
LABELS = ("blob", "other")


@pytest.mark.parametrize("background", [False, True])
def test_agreement_is_the_dice_of_what_is_likely_and_what_is_certain(rng, background):
    volume = rng.random((5, len(LABELS) + background, 8, 9), np.float32) ** 0.3
    agreement = Agreement(len(LABELS))
    for z in rng.permutation(5):
        agreement.add(volume[z])
    for comp, channel in zip(agreement.dice, range(background, volume.shape[1]), strict=True):
        likely, certain = volume[:, channel] > LAX, volume[:, channel] > STRICT
        assert comp == 2 * (likely & certain).sum() / (likely.sum() + certain.sum())
    assert Agreement(2).dice == (0.0, 0.0)


def test_the_dice_lies_a_shift_below_the_agreement_in_log_odds():
    (found, nothing) = expect(KNOWN, LABELS, (0.9, 0.9), familiar=True)
    assert nothing is None
    for dice, odds in ((found.dice, 9 * np.exp(-1)), (found.low, 9 * np.exp(-1.5)), (found.high, 9 * np.exp(-0.5))):
        assert dice == pytest.approx(odds / (1 + odds))
    for extreme in (0.0, 1.0):
        (found, _) = expect(KNOWN, LABELS, (extreme, extreme), familiar=True)
        assert 0 < found.low < found.dice < found.high < 1


def test_of_a_scan_unlike_the_trainings_nobody_knows_how_low_it_may_be():
    (usual, _), (strange, _) = (expect(KNOWN, LABELS, (0.9, 0.9), familiar=familiar) for familiar in (True, False))
    assert strange == replace(usual, low=0.0)


BAD = {
    "no object": [],
    "another label": {"liver": KNOWN["blob"]},
    "a number": {"blob": 0.8},
    "no spread": {"blob": {"shift": 0.0, "cases": 3}},
    "another key": {"blob": {**KNOWN["blob"], "colour": 1}},
    "text": {"blob": {**KNOWN["blob"], "shift": "-1"}},
    "true": {"blob": {**KNOWN["blob"], "shift": True}},
    "far": {"blob": {**KNOWN["blob"], "shift": -1e9}},
    "no float": {"blob": {**KNOWN["blob"], "shift": 10**400}},
    "no number": {"blob": {**KNOWN["blob"], "shift": float("nan")}},
    "a negative width": {"blob": {**KNOWN["blob"], "spread": -0.1}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_calibration_that_is_none_is_refused(name):
    with pytest.raises(ModelError, match="expected Dice"):
        quality.check(BAD[name], LABELS)


def model_of(provenance, looks=None, name="tiny", tmp_path=None):
    """One of random weights that marks a part of the scan."""
    spec = fold_batchnorm(monet(filters=4, depth=1))
    raw = weights.pack(name, spec, random_tensors(spec), make_record("blob"), provenance, looks)
    return Model(weights.parse(name, raw), 1)


@pytest.fixture
def path(tmp_path, rng):
    nibabel.save(image_of(blob(rng)), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_a_file_with_a_calibration_says_what_to_expect_in_line_table_and_page(path, tmp_path):
    outcome = pipeline.segment(path, model=model_of({"quality": KNOWN}), report=tmp_path / "page.html")
    (label,) = outcome.labels
    (agreement,) = model_of({}).segment_scan(formats.read(path)).agreement
    assert label.voxels
    assert (label.expected,) == expect(KNOWN, ("blob",), (agreement,), familiar=True)
    assert f" ml (Dice ≈ {label.expected})" in describe(outcome)
    assert str(label.expected) == f"{label.expected.dice:.2f}, {label.expected.low:.2f}–{label.expected.high:.2f}"
    write_table(tmp_path / "table.csv", "tiny", [entry(1, None, outcome)], overwrite=False)
    (row,) = csv.DictReader((tmp_path / "table.csv").open())
    for part in ("dice", "low", "high"):
        value = round(getattr(label.expected, part), 3)
        assert float(row[f"expected_{part}"]) == value
        assert f"<td>{value}</td>" in (tmp_path / "page.html").read_text()


def test_a_file_without_one_says_nothing(path, tmp_path):
    outcome = pipeline.segment(path, model=model_of({}))
    assert outcome.labels[0].expected is None
    assert "Dice" not in describe(outcome)
    assert entry(1, None, outcome)["labels"][0]["expected_dice"] is None


@pytest.mark.parametrize("options", [Options(threshold=0.6), Options(flip=True)])
def test_of_a_mask_that_was_made_another_way_nothing_is_expected(path, options):
    model = model_of({"quality": KNOWN})
    assert model.segment_scan(formats.read(path)).expected != (None,)
    assert model.segment_scan(formats.read(path), options).expected == (None,)
    assert model.segment_scan(formats.read(path), Options(threshold=0.5)).expected != (None,)  # its own


def test_of_what_was_not_found_nothing_is_expected(path):
    scan = formats.read(path)
    (label,) = measure(scan, np.zeros(scan.shape, np.uint8), ("blob",), (Expected(0.5, 0.4, 0.6),))
    assert label.expected is None


def test_a_scan_that_is_warned_of_may_have_any_dice_below(path):
    count = fingerprint.COUNT
    looks = fingerprint.Fingerprint(np.zeros((1, count)), np.zeros((1, count, count)), 9.0, Extent(2))
    found = model_of({"quality": KNOWN}, looks).segment_scan(formats.read(path))
    assert any("too large" in warning for warning in found.warnings)
    assert found.expected[0].low == 0.0 < found.expected[0].dice


def test_it_travels_in_the_weights_file_and_a_bad_one_is_refused():
    assert model_of({"quality": KNOWN}).weights.provenance.quality == KNOWN
    assert model_of({}).weights.provenance.quality == {}
    with pytest.raises(ModelError, match="expected Dice"):
        model_of(json.loads(json.dumps({"quality": BAD["far"]})))
