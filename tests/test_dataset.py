"""Data sets as they come: both dialects read as they are, every fault named with its case."""

import json
import struct

import nibabel
import numpy as np
import pytest
from fuzz.build import mha, nrrd
from fuzz.mgh import mgh
from synthetic import SHAPE, write_dataset

from monet_edge import phantom, volume
from monet_edge.errors import DatasetError, MonetError
from monet_edge.volume.geometry import displacement
from monet_train.dataset import check, load, read
from monet_train.prepare import VERSION, key


@pytest.mark.parametrize("dialect", ["decathlon", "nnunet"])
@pytest.mark.parametrize("channel", [0, 1])
def test_both_dialects_are_read_as_they_are(tmp_path, dialect, channel):
    dataset = read(write_dataset(tmp_path / "d", 2, dialect), (channel,))
    assert list(dataset.pairs) == ["case_000", "case_001"]
    assert dataset.labels == ("lesion",)
    image, mask = phantom.make(1, SHAPE)
    case = load(dataset, "case_001")
    np.testing.assert_array_equal(case.images[0].stored, image if channel == 0 else np.flip(image, 2))
    np.testing.assert_array_equal(case.label, mask)
    assert case.spacing == pytest.approx(phantom.SPACING)
    assert [severity for _, severity, _ in check(dataset)] == ["ok", "ok"]


def _break(folder, fault):
    path = folder / "labelsTr" / "case_001.nii.gz"
    image = nibabel.load(path)
    voxels, affine = np.asarray(image.dataobj).copy(), image.affine.copy()
    if fault == "shape":
        voxels = voxels[:-1]
    elif fault == "affine":
        affine[0, 3] += 5
    elif fault == "values":
        voxels[0, 0, 0] = 7
    elif fault == "empty":
        voxels[:] = 0
    if fault == "nan":
        path = folder / "imagesTr" / "case_001_0000.nii.gz"
        voxels = np.asarray(nibabel.load(path).dataobj).astype(np.float32)
        voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


@pytest.mark.parametrize(
    ("fault", "severity", "words"),
    [
        ("shape", "error", "shape"),
        ("affine", "error", "affines"),
        ("values", "error", "labels must be 0 to 1"),
        ("nan", "error", "NaN"),
        ("empty", "warning", "no voxel is labelled"),
    ],
)
def test_check_names_the_case_and_the_fault(tmp_path, fault, severity, words):
    folder = write_dataset(tmp_path / "d", 2, "nnunet")
    _break(folder, fault)
    first, second = check(read(folder))
    assert first[1] == "ok"
    assert second[:2] == ("case_001", severity)
    assert words in second[2]
    assert "case_001" not in second[2]  # it is said before


def test_a_label_that_no_case_has_is_told(tmp_path):
    folder = write_dataset(tmp_path / "d", 2)
    about = json.loads((folder / "dataset.json").read_text())
    about["labels"] = {"background": 0, "lesion": 1, "ghost": 2}
    (folder / "dataset.json").write_text(json.dumps(about))
    *cases, last = check(read(folder))
    assert [severity for _, severity, _ in cases] == ["ok", "ok"]
    assert last[1:] == ("warning", "no case has ghost")


def test_a_missing_file_is_an_error_before_any_work(tmp_path):
    folder = write_dataset(tmp_path / "d", 2)
    (folder / "labelsTr" / "case_000.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case_000 has no labels"):
        read(folder)


def write(folder, label, label_affine=None, slope=1.0, labels=None, image=None):
    """One case: its labels, stored as given under a slope, and the table of labels."""
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    image = np.arange(label.size, dtype=np.int16).reshape(label.shape) if image is None else image
    for part, array, where in (("imagesTr", image, affine), ("labelsTr", label, affine if label_affine is None else label_affine)):
        (folder / part).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(array, where), folder / part / "a.nii")
    raw = bytearray((folder / "labelsTr" / "a.nii").read_bytes())
    raw[112:120] = struct.pack("<2f", slope, 0)  # scl_slope, scl_inter
    (folder / "labelsTr" / "a.nii").write_bytes(raw)
    about = {"labels": labels or {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii"}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


TRUTH = np.arange(60).reshape(5, 4, 3) % 3


@pytest.mark.parametrize(
    ("dtype", "factor", "slope"),
    [("i2", 1, 1.0), ("i2", 255, 1 / 255), ("i2", 16383, 1 / 16383), ("u2", 32767, 1 / 32767.1), ("f4", 1.0004, 1.0), ("f8", 0.5, 2.0)],
)
def test_labels_that_are_whole_once_scaled_are_taken(tmp_path, dtype, factor, slope):
    found = load(read(write(tmp_path, (TRUTH * factor).astype(dtype), slope=slope)), "a")
    np.testing.assert_array_equal(found.label, volume.to_canonical(TRUTH, np.diag([-1.0, -1.0, 2.0, 1.0]), "SPL"))
    assert found.label.dtype == np.uint8


@pytest.mark.parametrize(
    ("dtype", "factor", "slope", "words"),
    [("f4", 1.002, 1.0, "found 1.002, 2.004"), ("i2", 1, 0.5, "found 0.5$"), ("i2", -1, 1.0, "found -2, -1"), ("f4", np.nan, 1.0, "nan")],
)
def test_labels_that_are_not_are_refused(tmp_path, dtype, factor, slope, words):
    with pytest.raises(DatasetError, match=f"a: labels must be 0 to 2 as in dataset.json, .*{words}"):
        load(read(write(tmp_path, (TRUTH * factor).astype(dtype), slope=slope)), "a")


@pytest.mark.parametrize("labels", [{"background": 0, "one": 1, "ignore": 2}, {"0": "background", "1": "one", "2": "ignore"}])
def test_voxels_to_ignore_are_not_supported_and_that_is_said(tmp_path, labels):
    dataset = read(write(tmp_path / "d", TRUTH.astype(np.uint8), labels=labels))
    assert dataset.labels == ("one",)
    with pytest.raises(DatasetError, match=r"a: 20 voxels are labelled 2, dataset\.json's 'ignore', which is not supported"):
        load(dataset, "a")
    assert load(read(write(tmp_path / "e", (TRUTH % 2).astype(np.uint8), labels=labels)), "a").label.max() == 1


def turned(angle, shift=0.0):
    """The scan's affine, turned about the z axis by so many radians, and moved along x by so many mm."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[0, 3] = shift
    return turn @ np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("affine", "apart"),
    [
        (turned(0, 0.002), None),
        (turned(0, 0.019), None),
        (turned(1e-5), None),
        (turned(0, 0.03), "0.03"),
        (turned(0.055 / 70.7), "0.0545"),  # the corner (99.5, -0.5) of 100 voxels, and the one across, move the farthest
        (turned(0) * [[1], [1], [1.001], [1]], "0.02"),
        (turned(0) @ np.diag([1, 1, -1, 1]), "59"),
    ],
)
def test_affines_are_compared_by_how_far_a_corner_moves(tmp_path, affine, apart):
    label = np.zeros((50, 50, 30), np.uint8)
    dataset = read(write(tmp_path, label, affine))
    if apart is None:
        assert load(dataset, "a").label.shape == (30, 50, 50)
    else:
        with pytest.raises(DatasetError, match=rf"a corner of the volume lies {apart}\S* voxels away"):
            load(dataset, "a")


def test_a_corners_displacement_is_that_of_its_mapping():
    rng, shape = np.random.default_rng(0), (7, 5, 3)
    scan, label = (np.vstack([rng.normal(0, 1, (3, 4)), [0, 0, 0, 1]]) for _ in range(2))
    corners = [np.array([x, y, z, 1]) for x in (-0.5, 6.5) for y in (-0.5, 4.5) for z in (-0.5, 2.5)]
    ref = max(np.linalg.norm((np.linalg.inv(scan) @ label @ corner - corner)[:3]) for corner in corners)
    assert displacement(scan, label, shape) == pytest.approx(ref)


@pytest.mark.parametrize("dialect", ["decathlon", "nnunet", "3-D"])
def test_a_channel_that_there_is_not_is_refused(tmp_path, dialect):
    folder = write(tmp_path / "d", TRUTH.astype(np.uint8)) if dialect == "3-D" else write_dataset(tmp_path / "d", 1, dialect)
    with pytest.raises(MonetError, match=r"(a|case_000)(: the scan has no volume| has no scan in imagesTr for volume) 7"):
        load(read(folder, (7,)), "a" if dialect == "3-D" else "case_000")


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".mgh"])
def test_a_case_in_another_format_is_the_case_in_nifti(tmp_path, ending):
    """Its labels too; and where header and voxels are two files, both are in its key."""
    image = np.random.default_rng(0).integers(-9, 99, TRUTH.shape).astype(np.int16)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    ref = load(read(write(tmp_path / "nifti", TRUTH.astype(np.uint8), image=image)), "a")
    build = {"n": nrrd, "h": mha, "g": mgh}[ending[1 if ending[1] == "n" else 2]]
    for part, array in (("imagesTr", image), ("labelsTr", TRUTH.astype(np.uint8))):
        folder = tmp_path / "other" / part
        folder.mkdir(parents=True)
        if ending in (".nrrd", ".mha", ".mgh"):
            (folder / f"a{ending}").write_bytes(build(array, affine))
        else:
            header, voxels = build(array, affine, file="a.raw")
            (folder / f"a{ending}").write_bytes(header)
            (folder / "a.raw").write_bytes(voxels)
    about = {"labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ending}
    (tmp_path / "other" / "dataset.json").write_text(json.dumps(about))
    dataset = read(tmp_path / "other")
    comp = load(dataset, "a")
    np.testing.assert_array_equal(comp.images[0].stored, ref.images[0].stored)
    np.testing.assert_array_equal(comp.label, ref.label)
    np.testing.assert_allclose(comp.steps, ref.steps)
    before = key(dataset, "a", VERSION)
    path = tmp_path / "other" / "labelsTr" / ("a.raw" if ending in (".nhdr", ".mhd") else f"a{ending}")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert key(dataset, "a", VERSION) != before
