"""Data sets as they come: both dialects read as they are, every fault named with its case, patients never in both parts."""

import nibabel
import numpy as np
import pytest
from synthetic import SHAPE, write_dataset

from monet_edge import phantom
from monet_edge.errors import DatasetError
from monet_train.dataset import check, load, read
from monet_train.splits import split


@pytest.mark.parametrize("dialect", ["decathlon", "nnunet"])
@pytest.mark.parametrize("channel", [0, 1])
def test_both_dialects_are_read_as_they_are(tmp_path, dialect, channel):
    dataset = read(write_dataset(tmp_path / "d", 2, dialect), channel)
    assert list(dataset.pairs) == ["case_000", "case_001"]
    assert dataset.labels == ("lesion",)
    image, mask = phantom.make(1, SHAPE)
    case = load(dataset, "case_001", channel)
    np.testing.assert_array_equal(case.image, image if channel == 0 else np.flip(image, 2))
    np.testing.assert_array_equal(case.label, mask)
    assert case.spacing == pytest.approx(phantom.SPACING)
    assert [severity for _, severity, _ in check(dataset, channel)] == ["ok", "ok"]


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


def test_a_missing_file_is_an_error_before_any_work(tmp_path):
    folder = write_dataset(tmp_path / "d", 2)
    (folder / "labelsTr" / "case_000.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case_000 has no labels"):
        read(folder)


def test_the_split_is_by_patient_within_each_institution():
    names = [f"TCGA_{place}_{i:04d}" for place, count in (("CS", 16), ("DU", 45), ("EZ", 1), ("HT", 34)) for i in range(count)]
    (part,) = split(names)
    assert (len(part["train"]), len(part["val"])) == (67, 29)
    assert not set(part["train"]) & set(part["val"])
    assert [sum(name[5:7] == place for name in part["train"]) for place in ("CS", "DU", "EZ", "HT")] == [11, 31, 1, 24]
    assert split(names[::-1]) == [part]
    folds = split(names, folds=5)
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(names)
