"""Scans and results as nibabel images."""

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, head, nifti
from scans import DTYPES, GZ, RAW

from monet_edge import formats
from monet_edge.errors import ScanError


def test_an_image_from_a_file_is_read_with_every_check(put):
    good = formats.from_image(nibabel.load(put(GZ, "good.nii.gz")))
    np.testing.assert_array_equal(good.voxels, head())
    for name in ("bad.nii.gz", "BAD.NII.GZ"):
        with pytest.raises(ScanError, match="damaged"):
            formats.from_image(nibabel.load(put(GZ[:-8] + bytes(8), name)))


@pytest.mark.parametrize("dtype", [*DTYPES, ">i2"])
def test_an_image_in_memory(dtype):
    voxels = head().astype(dtype)
    image = nibabel.Nifti1Image(voxels, OBLIQUE, dtype=np.int16)
    scan = formats.from_image(image)
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_array_equal(scan.affine, image.affine)
    mask = formats.to_image((voxels > 50).astype(np.uint8), scan)
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.get_sform(coded=True)[1] == image.get_sform(coded=True)[1]


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_lengths_are_in_the_headers_unit(tmp_path, unit, mm):
    """A world in mm inside; a result has the numbers and the unit of its scan."""
    image = nibabel.Nifti1Image(head(), OBLIQUE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    loaded = nibabel.load(tmp_path / "scan.nii")
    for scan in (formats.read(tmp_path / "scan.nii"), formats.from_image(loaded), formats.from_image(image)):
        np.testing.assert_allclose(scan.affine[:3], OBLIQUE[:3] * mm, rtol=1e-6, atol=1e-6 * mm)
        assert bool(scan.warnings) == (mm != 1)
        mask = formats.to_image((head() > 50).astype(np.uint8), scan)
        np.testing.assert_allclose(mask.affine, loaded.affine, rtol=1e-6, atol=1e-6)
        assert mask.header.get_xyzt_units()[0] == unit


def test_an_affine_changed_after_loading_counts(put):
    image = nibabel.load(put(RAW))
    moved = nibabel.Nifti1Image(image.dataobj, image.affine + np.array([[0, 0, 0, 5], *[[0] * 4] * 3]), image.header)
    np.testing.assert_array_equal(formats.from_image(moved).affine, moved.affine)


def test_an_image_that_is_no_scan():
    for voxels in (np.zeros((4, 4, 4, 2), np.int16), np.zeros((4, 4, 4), np.complex64), np.zeros(4, np.int16)):
        with pytest.raises(ScanError):
            formats.from_image(nibabel.Nifti1Image(voxels, np.eye(4)))
    with pytest.raises(ScanError, match=r"singular|affine"):
        formats.from_image(nibabel.spatialimages.SpatialImage(head(), np.diag([1, 1, 0, 1])))


def test_a_huge_sentinel_is_infinite_in_memory_as_it_is_in_a_file(put):
    """Its square would overflow: the SD infinite, every mask empty. The caller's array stays as it is."""
    voxels = head().astype(np.float64)
    voxels[2, 3, 4] = -1e300
    kept = voxels.copy()
    comp = formats.from_image(nibabel.Nifti1Image(voxels, OBLIQUE)).voxels
    np.testing.assert_array_equal(comp, formats.read(put(nifti(voxels))).voxels)
    assert np.isinf(comp[2, 3, 4])
    assert not comp.flags.writeable
    np.testing.assert_array_equal(voxels, kept)
