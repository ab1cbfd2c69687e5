"""FreeSurfer's MGH in: what is read is what nibabel reads, and what is wrong is one clear line."""

import struct

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, gz, head
from fuzz.mgh import TYPES, mgh
from scans import ORIENTATIONS, refused, reoriented
from typer.testing import CliRunner

from monet_edge import formats
from monet_edge.cli import app
from monet_edge.runs import find_scans

NAN = float("nan")


@pytest.mark.parametrize("name", ["scan.mgz", "scan.mgh"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(12, 10, 6), (7, 5, 1), (6, 5, 4, 3)])
def test_what_nibabel_writes_is_read_as_it_reads_it(tmp_path, name, dtype, shape):
    path, voxels = tmp_path / name, head(shape, np.dtype(dtype))
    nibabel.save(nibabel.MGHImage(voxels, OBLIQUE), path)
    header = formats.peek(path)
    scans = formats.read_all(header)
    assert (header.shape, header.volumes) == (shape[:3], (*shape, 1)[3])
    for volume, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.voxels, voxels.reshape(*shape[:3], -1)[..., volume])
        assert scan.voxels.dtype == voxels.dtype
        assert scan.voxels.dtype.isnative
        assert not scan.voxels.flags.writeable
        np.testing.assert_allclose(scan.affine, nibabel.load(path).affine, rtol=0, atol=1e-5)  # its numbers are float32
        assert (scan.warnings, scan.oriented) == ((), True)


def test_every_orientation_lies_where_nifti_puts_it(put):
    for orientation in ORIENTATIONS:
        voxels, affine = reoriented(head(), OBLIQUE, orientation)
        scan = formats.read(put(mgh(voxels, affine), "scan.mgh"))
        np.testing.assert_array_equal(scan.voxels, voxels)
        np.testing.assert_allclose(scan.affine, affine, rtol=0, atol=1e-4)


@pytest.mark.parametrize("behind", [b"", b"1", bytes(200_000)])
@pytest.mark.parametrize("packed", [gz, bytes])
def test_what_freesurfer_writes_behind_the_voxels_is_passed_over(put, behind, packed):
    scan = formats.read(put(packed(mgh(behind=behind)), "scan.mgz"))
    np.testing.assert_array_equal(scan.voxels, head())
    assert scan.warnings == ()


def test_it_is_known_by_its_content(put):
    np.testing.assert_array_equal(formats.read(put(gz(mgh()), "scan.dat")).voxels, head())


def test_without_an_orientation_it_lies_as_freesurfer_lays_it_and_a_warning_says_so(put):
    """Coronal slices of 1 mm, whatever the fields say that are not to be believed."""
    scan = formats.read(put(mgh(fields={"good": 0, "spacing 0": NAN}), "scan.mgh"))
    np.testing.assert_array_equal(scan.affine, [[-1, 0, 0, 6], [0, 0, 1, -3], [0, -1, 0, 5], [0, 0, 0, 1]])
    assert not scan.oriented
    assert scan.warnings == ("its orientation is unknown (goodRASFlag is not 1); left, right, front and back are a guess",)


RAW, GZ = mgh(behind=b""), gz(mgh())
BROKEN = {
    "empty": (b"", "the file is empty"),
    "wrong checksum": (GZ[:-8] + bytes(4) + GZ[-4:], "damaged"),
    "truncated gzip": (GZ[:-9], "truncated"),
    "inside the header": (RAW[:200], "ends after 200 bytes, inside its header"),
    "truncated": (RAW[:-5], r"promises 12x10x6 int16 \(1,440 bytes\), the file ends after 1,435: it is truncated"),
    "bomb": (mgh(fields={"sides 0": 32767, "sides 1": 32767, "sides 2": 32767}), "promises 32767x32767x32767"),
    "bomb, gzip": (gz(mgh(fields={"sides 0": 32767, "sides 1": 32767, "sides 2": 32767})), "compressed bytes cannot hold"),
    "zero side": (mgh(fields={"sides 1": 0}), "12x0x6x1 voxels; every side must be at least 1"),
    "negative side": (mgh(fields={"sides 3": -1}), "12x10x6x-1 voxels"),
    "version": (mgh(fields={"version": 2}), "begins with version 2, expected 1"),
    "type": (mgh(fields={"type": 7}), r"of type 7 \(complex\); expected 8, 16 or 32 bits"),
    "unknown type": (mgh(fields={"type": 99}), r"of type 99 \(unknown\)"),
    "no size": (mgh(fields={"spacing 1": 0}), "voxel size is .*, 0, .*; expected numbers above 0"),
    "nan": (mgh(fields={"spacing 2": NAN}), "voxel size is .*nan; expected numbers above 0"),
    "vast": (mgh(fields={"spacing 2": 1e30}), "gives voxels of .*e\\+30 mm"),
    "singular": (mgh(data=b"", affine=OBLIQUE)[:42] + struct.pack(">9f", *[1, 0, 0] * 3) + RAW[78:], "singular or not finite"),
    "centre": (mgh(fields={"centre": NAN}), "singular or not finite"),
}


@pytest.mark.parametrize("row", BROKEN)
def test_refused(put, row):
    raw, message = BROKEN[row]
    refused(put(raw, "scan.mgz"), message)


def test_a_folder_of_freesurfers_is_segmented_each_mask_on_its_grid(put, tmp_path, weights_file):
    for name in ("orig.mgz", "T1.MGZ", "b.mgh"):
        put(gz(mgh()) if name.lower().endswith("z") else mgh(), name)
    assert [one.scan.name for one in find_scans([tmp_path])] == ["T1.MGZ", "b.mgh", "orig.mgz"]
    result = CliRunner().invoke(app, ["segment", str(tmp_path), "-m", str(weights_file), "--threads", "1"])
    assert result.exit_code == 0, result.stderr
    for name in ("orig", "T1", "b"):
        mask = nibabel.load(tmp_path / f"{name}_seg.nii.gz")
        assert mask.shape == (12, 10, 6)
        np.testing.assert_allclose(mask.affine, OBLIQUE, rtol=0, atol=1e-4)
