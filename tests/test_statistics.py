"""Numbers of a mask against the plainest way to count them, and the two forms of their table."""

import csv
import io
import json
import re
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from types import MappingProxyType

import nibabel
import numpy as np
import pytest

from monet_edge import errors, formats, pipeline, postprocess, volume
from monet_edge.cli.shared import describe as one_line
from monet_edge.job import Job
from monet_edge.model import Segmentation
from monet_edge.options import Options
from monet_edge.quality import Expected
from monet_edge.report import page, preview, statistics
from monet_edge.report.slices import Finding
from monet_edge.report.statistics import axis_codes, describe, measure
from monet_edge.runs import record
from monet_edge.runs.table import write_table
from monet_edge.text import quantity
from monet_edge.volume import geometry

AFFINE = np.array([[-0.8, 0.1, 0, 20], [0.05, 0.9, -0.2, -30], [0, 0.1, 3.0, 5], [0, 0, 0, 1]])


def outcome(labels, warnings=(), times=MappingProxyType({})):
    return pipeline.Outcome(Job(Path("a.nii"), Path("m.nii")), labels, warnings, times)


def scan_of(voxels, affine=AFFINE, slope=1.0, inter=0.0):
    scan = formats.from_image(nibabel.Nifti1Image(voxels, affine))
    return volume.Scan(None, scan.voxels, slope, inter, scan.affine, scan.header, ())


def random_mask(rng, shape=(9, 8, 7)):
    return np.asfortranarray(rng.integers(0, 3, shape, dtype=np.uint8))


def test_equals_the_plain_way(rng):
    scan = scan_of(rng.integers(-500, 3000, (9, 8, 7), dtype=np.int16), slope=0.5, inter=-7.0)
    mask = random_mask(rng)
    for one in measure(scan, mask, ("a", "b")):
        inside = mask == one.label
        values = scan.voxels[inside] * 0.5 - 7.0
        where = np.argwhere(inside)
        assert one.voxels == len(where)
        assert one.ml == pytest.approx(len(where) * abs(np.linalg.det(AFFINE[:3, :3])) / 1000)
        assert np.array_equal(one.box, [where.min(0), where.max(0)])
        np.testing.assert_allclose(one.centroid_mm, nibabel.affines.apply_affine(scan.affine, where).mean(0), atol=1e-5)
        np.testing.assert_allclose(
            [one.mean, one.sd, one.minimum, one.maximum], [values.mean(), values.std(), values.min(), values.max()], rtol=1e-12
        )


def test_a_small_spread_on_a_large_mean_survives(rng):
    """A sum of squares in float64 would have lost it: 1e8 squared has 16 digits."""
    voxels = 1e8 + rng.normal(0, 1, (20, 20, 5))
    (one,) = measure(scan_of(voxels), np.ones((20, 20, 5), np.uint8, order="F"), ("a",))
    assert one.sd == pytest.approx(voxels.std(), rel=1e-6)


def test_nan_is_left_out_and_absent_labels_have_no_numbers():
    voxels = np.array([1, np.nan, 3, np.inf], np.float32).reshape(4, 1, 1)
    mask = np.array([1, 1, 1, 2], np.uint8).reshape(4, 1, 1)
    one, two, three = describe(measure(scan_of(voxels), mask, ("a", "only infinite", "absent")))
    assert (one["voxels"], one["mean"], one["maximum"]) == (3, 2.0, 3.0)
    assert (two["voxels"], two["mean"], two["box_first"]) == (1, None, [3, 0, 0])
    assert (three["voxels"], three["ml"], three["centroid_mm"], three["touches"]) == (0, 0.0, None, [])


def test_touches_names_the_same_end_in_all_48_axis_orders():
    base = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([1, 1, 1, 1]))  # right, anterior, superior
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[1:3, 2:4, 5] = 1  # superior
    voxels[0, 2, 4] = 1  # left
    for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        turned = nibabel.Nifti1Image(voxels, base.affine).as_reoriented(np.column_stack([axes, flips]))
        scan = formats.from_image(turned)
        assert axis_codes(scan) == "".join(nibabel.aff2axcodes(turned.affine))
        (one,) = measure(scan, np.asfortranarray(turned.dataobj), ("a",))
        assert set(one.touches) == {"S", "L"}


@pytest.fixture
def entries(rng):
    scan = scan_of(rng.integers(0, 100, (9, 8, 7), dtype=np.int16))
    labels = measure(scan, random_mask(rng), ("=HYPERLINK(1)", "b", "absent"))
    return [
        record.entry(1, None, outcome(labels, ("one", "two"), {"read": 0.1})),
        record.entry(2, None, errors.ScanError("DOE^JOHN.nii: truncated")),
    ]


def test_json_and_csv_say_the_same(tmp_path, entries):
    for name in ("out.json", "out.csv"):
        write_table(tmp_path / name, "model", entries, overwrite=False)
    table = json.loads((tmp_path / "out.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["scan"] for row in rows] == ["1", "1", "1", "2"]
    assert "seconds" not in table["scans"][0]  # the same scan gives the same table
    for row, label in zip(rows, table["scans"][0]["labels"], strict=False):
        assert row["voxels"] == str(label["voxels"])
        assert row["centroid_mm_z"] == ("" if label["centroid_mm"] is None else str(label["centroid_mm"][2]))
        assert row["touches"] == "".join(label["touches"])
        assert row["warnings"] == "one; two"
    assert rows[3]["error"] == table["scans"][1]["error"] == "the scan cannot be read"
    assert rows[0]["name"] == "'=HYPERLINK(1)"  # no formula in a spreadsheet


def test_three_digits_are_left_of_every_size():
    told = [quantity(value, "ml") for value in (0, 1.28e-7, 0.00128212, 9.4, 9.996, 41.54, 5000.123)]
    assert told == ["0 ml", "1.28e-07 ml", "0.00128 ml", "9.40 ml", "10.0 ml", "41.5 ml", "5000.1 ml"]


@pytest.mark.parametrize("mm", [0.05, 0.001])
def test_a_mouses_volume_is_told_everywhere(tmp_path, monkeypatch, mm):
    """10,257 voxels of 0.05 mm are 0.00128 ml: in the line, the page, the picture and both tables, with the centroid."""
    voxels, mask = np.zeros((30, 30, 30), np.int16), np.zeros((30, 30, 30), np.uint8, order="F")
    mask.ravel(order="K")[:10257] = 1
    scan = scan_of(voxels, np.diag([mm, mm, mm, 1.0]))
    labels = measure(scan, mask, ("tumour",))
    ml = 10257 * mm**3 / 1000
    drawn = []
    monkeypatch.setattr(preview.ImageDraw.ImageDraw, "text", lambda self, at, text, *_, **__: drawn.append(text))
    finding = Finding(scan, mask, labels, (0.0, 1.0), "axial", "mouse")
    preview.draw(finding)
    line = one_line(pipeline.Outcome(Job(tmp_path / "a.nii", tmp_path / "m.nii", None, None, None), labels, (), {}))
    for text in ("".join(drawn), page.build(finding, "", {}, ""), line):
        assert float(re.search(r"([\d.e-]+) ml", text)[1]) == pytest.approx(ml, rel=5e-3)
    assert "tumour" in drawn
    for name in ("out.json", "out.csv"):
        write_table(tmp_path / name, "model", [record.entry(1, None, outcome(labels))], overwrite=False)
    told = json.loads((tmp_path / "out.json").read_text())["scans"][0]["labels"][0]
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert told["ml"] == float(row["ml"]) == pytest.approx(ml, rel=1e-5)
    assert told["centroid_mm"] == pytest.approx(np.argwhere(mask).mean(0) * mm, rel=1e-2)


def test_of_many_structures_each_has_a_line_and_of_many_scans_each():
    names = [f"{side} part {n}" for n in range(6) for side in ("right", "left")] + ["stem"]
    labels = [statistics.LabelStatistics(n, name, n, 10.0 * n - 9.5, *[None] * 6, ()) for n, name in enumerate(names, 1)]
    labels[2], labels[3] = (replace(one, expected=Expected(0.8, low, low + 0.2)) for one, low in zip(labels[2:4], (0.7, 0.72), strict=True))
    *lines, last = one_line(outcome(labels, times={"read": 1.0})).split("\n")
    assert [line.split("  ")[0] for line in lines] == [*(f"part {n}" for n in range(6)), "stem"]
    assert re.split(r"  +", lines[1]) == ["part 1", "20.5 ml right", "30.5 ml left", "Dice ≈ 0.70–0.92"]
    assert lines[-1].split() == ["stem", "120.5", "ml"]
    assert max(map(len, lines)) <= 80
    assert last == "→ m.nii (1.0 s)"
    labels[-1] = replace(labels[-1], voxels=0)
    assert one_line(outcome(labels), alone=False) == "6 of 7 structures found → m.nii (0.0 s)"


def test_a_tilted_gantrys_volume_is_its_determinant(monkeypatch):
    """Everywhere a ml is computed: shear does not change a volume, the length of an axis does."""
    tilted = np.array([[1.0, 0, 0, 0], [0, 1.0, 0.9, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    scan = scan_of(np.zeros((9, 8, 7), np.int16), tilted)
    assert scan.voxel_ml == geometry.voxel_ml(tilted[:3, :3]) == pytest.approx(0.002)
    assert scan.spacing == pytest.approx((1, 1, np.hypot(0.9, 2)))
    (one,) = measure(scan, np.ones(scan.shape, np.uint8, order="F"), ("a",))
    assert one.ml == pytest.approx(9 * 8 * 7 * 0.002)
    asked = []
    monkeypatch.setattr(postprocess, "remove_pieces", lambda mask, voxel_ml, **_: asked.append(voxel_ml) or mask)
    pipeline._clean(Segmentation(np.ones(scan.shape, np.uint8), None, None, ()), scan, Options(min_volume=0.1))
    assert asked == [pytest.approx(0.002)]


def test_steps_follow_the_voxels_in_all_48_axis_orders(rng):
    """A neighbour along Z, H or W of the turned array lies where its steps say, for a sheared scan too."""
    for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        affine = AFFINE.copy()
        affine[:3, :3] = AFFINE[:3, :3][:, axes] * flips
        where = np.stack(np.meshgrid(*(range(n) for n in (4, 5, 6)), indexing="ij"), -1) @ affine[:3, :3].T  # (X, Y, Z, 3) mm
        orientation = volume.orient(affine, "SPL")
        turned = orientation.turn(where)
        steps = geometry.canonical_steps(affine, orientation)
        for axis in range(3):
            found = np.diff(turned, axis=axis)
            np.testing.assert_allclose(found, np.broadcast_to(steps[:, axis], found.shape), atol=1e-9)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(errors.OutputError, match=r"\.json or \.csv"):
        write_table(tmp_path / "out.xlsx", "model", [], overwrite=False)
