"""Two small trainings, squeezed and in millimetres, on scans as other scanners would have them; and the page that tells it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_dataset

from benchmarks import spacing, tables
from monet_edge import formats

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "spacing.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("spacing") / "data", 2, "nnunet")


@pytest.mark.parametrize(
    "change", [lambda *both: spacing.in_field(*both, mm=90.0), lambda *both: spacing.in_field(*both, mm=30.0), spacing.cut_to_head]
)
def test_another_field_of_view_leaves_every_voxel_where_it_is(folder, change):
    scan = formats.read(folder / "imagesTr" / "case_000_0000.nii.gz")
    voxels = scan.voxels.copy(order="F")
    voxels[:5] = voxels[-3:] = voxels[:, :4] = 0  # the phantom's air is noise, that of a stripped head is not
    scan = replace(scan, voxels=voxels)
    truth = formats.read(folder / "labelsTr" / "case_000.nii.gz").voxels
    copy, labels = change(scan, truth)
    assert copy.shape == labels.shape != scan.shape
    assert copy.shape[2] == scan.shape[2]
    places = np.argwhere(np.ones(copy.shape, bool))
    world = np.c_[places, np.ones(len(places))] @ copy.affine.T
    there = np.rint((world @ np.linalg.inv(scan.affine).T)[:, :3]).astype(int)
    inside = ((there >= 0) & (there < scan.shape)).all(axis=1)
    for made, given, air in ((copy.voxels, scan.voxels, scan.voxels.min()), (labels, truth, 0)):
        found = made[tuple(places.T)]
        assert np.array_equal(found[inside], given[tuple(there[inside].T)])
        assert (found[~inside] == air).all()
    if change is spacing.cut_to_head:
        assert labels.sum() == truth.sum()


def test_both_are_trained_alike_and_scored_on_every_copy(folder, tmp_path):
    rows = spacing.measured(folder, tmp_path, size=16, mm=3.6, epochs=1, steps=1)
    assert [row["copy"] for row in rows] == list(spacing.COPIES)
    assert all(len(row[name]) == 1 and 0 <= row[name][0] <= 1 for row in rows for name in ("squeezed", "millimetres"))
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("squeezed", "millimetres"))
    assert {key for key in one["preprocess"] if one["preprocess"][key] != other["preprocess"][key]} == {"spacing"}
    assert {key for key in one if one[key] != other[key]} == {"preprocess"}


def test_a_training_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    def stop(row):
        raise KeyboardInterrupt

    size = {"size": 16, "mm": 3.6, "epochs": 2, "steps": 1}
    monkeypatch.setattr(spacing, "fit", partial(spacing.fit, log=stop))
    with pytest.raises(KeyboardInterrupt):
        spacing.measured(folder, tmp_path, **size)
    monkeypatch.undo()
    assert len(spacing.measured(folder, tmp_path, **size)) == len(spacing.COPIES)


def test_the_page_tells_what_is_recorded():
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else None
    assert f"<!-- results: spacing -->\n{tables.spacing(recorded)}\n<!-- end -->" in page, "see docs/generate.py"
