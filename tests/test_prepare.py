"""Prepared cases: the very bits of the scan, done again only where a file changed, turned as the runtime turns them."""

import nibabel
import numpy as np
import pytest
from synthetic import write_dataset

from monet_edge import volume
from monet_edge.preprocess import SLICINGS
from monet_train.dataset import load, oriented, read
from monet_train.prepare import open_prepared, prepare


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f4", "<f8"])
def test_prepared_voxels_are_the_same_bits(tmp_path, dtype):
    folder = write_dataset(tmp_path / "d", 1, "nnunet")
    rng = np.random.default_rng(0)
    voxels = (rng.normal(0, 90, (9, 11, 5)) if "f" in dtype else rng.integers(0, 250, (9, 11, 5))).astype(dtype)
    if "f" in dtype:
        voxels[0, 0, 0] = -0.0
    for part, array in (("imagesTr/case_000_0000", voxels), ("labelsTr/case_000", np.zeros(voxels.shape, np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{part}.nii.gz")
    dataset = read(folder)
    ref, comp = load(dataset, "case_000"), prepare(dataset, tmp_path / "p").load("case_000")
    assert ref.image.dtype == comp.image.dtype
    assert np.ascontiguousarray(ref.image).tobytes() == comp.image.tobytes()
    assert (ref.statistics, ref.slope, ref.inter, ref.spacing) == (comp.statistics, comp.slope, comp.inter, comp.spacing)


def test_prepare_redoes_only_what_changed(small, tmp_path):
    folder = write_dataset(tmp_path / "d", 2)
    prepare(read(folder), tmp_path / "p")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.zip")}
    nibabel.save(nibabel.load(folder / "labelsTr" / "case_001.nii.gz"), folder / "labelsTr" / "case_000.nii.gz")
    prepare(read(folder), tmp_path / "p")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.zip")}
    assert after["case_001.zip"] == before["case_001.zip"]
    assert after["case_000.zip"] != before["case_000.zip"]


def test_oriented_turns_as_the_runtime_does(small):
    dataset, prepared = small
    scan = volume.read(dataset.pairs["case_000"][0], 0)
    for slicing, axes in SLICINGS.items():
        case = oriented(open_prepared(prepared.folder).load("case_000"), slicing)
        ref, orientation = volume.to_canonical(scan.voxels, scan.affine, axes)
        np.testing.assert_array_equal(case.image, ref)
        assert case.spacing == pytest.approx([scan.spacing[axis] for axis in orientation.axes])
