"""Scans in: what is read is what was stored, by whichever way it came."""

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, extension, gz, head, nifti
from scans import DTYPES, ORIENTATIONS, reoriented

from monet_edge import formats
from monet_edge.errors import ScanError
from monet_edge.formats import stem
from monet_edge.runs import find_scans


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_read_equals_nibabel(put, dtype, order, version):
    raw = nifti(head(dtype=dtype), order=order, version=version)
    for path in (put(raw), put(gz(raw), "scan.nii.gz")):
        ref, comp = nibabel.load(path), formats.read(path)
        assert comp.voxels.dtype == np.dtype(dtype)
        assert comp.voxels.dtype.isnative
        np.testing.assert_array_equal(comp.voxels, np.asarray(ref.dataobj))
        np.testing.assert_array_equal(comp.affine, ref.affine)
        assert not comp.voxels.flags.writeable
        assert comp.voxels.flags.f_contiguous
        assert comp.warnings == ()
        assert formats.peek(path).shape == comp.shape


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 5), (30, 17, 1), (3000, 17, 2), (5, 7), (6, 5, 4, 1, 1)])
def test_any_shape_is_a_volume(put, shape):
    voxels = head((*shape, 1)[: max(len(shape), 3)])
    path = put(nifti(voxels.reshape(shape)))
    np.testing.assert_array_equal(formats.read(path).voxels, voxels.reshape((*shape, 1)[:3], order="F"))


@pytest.mark.parametrize(
    ("slope", "inter", "expected"), [(2.5, -1024, (2.5, -1024)), (0, 7, (1, 0)), (np.nan, np.nan, (1, 0)), (-1, 3, (-1, 3))]
)
def test_scaling(put, slope, inter, expected):
    scan = formats.read(put(nifti(fields={"scl_slope": slope, "scl_inter": inter})))
    assert (scan.slope, scan.inter) == expected
    assert scan.warnings == ()


def test_doubles_beyond_any_intensity_count_as_infinite(put):
    """Row 18: their squares would overflow."""
    voxels = head(dtype=np.float64)
    voxels[0, 0, :3] = 1e300, -1e39, 1e38
    read = formats.read(put(nifti(voxels))).voxels
    np.testing.assert_array_equal(read[0, 0, :3], [np.inf, np.inf, 1e38])
    np.testing.assert_array_equal(read[1:], voxels[1:])


def test_one_volume_of_a_4d_scan(put):
    voxels = np.stack([head(seed=i) for i in range(3)], axis=-1)
    for path in (put(nifti(voxels)), put(gz(nifti(voxels)), "scan.nii.gz")):
        for i in range(3):
            np.testing.assert_array_equal(formats.read(path, i).voxels, voxels[..., i])


def test_a_stream_of_several_gzip_members_is_one_file(put):
    raw = nifti()
    path = put(b"".join(gz(raw[i : i + 100]) for i in range(0, len(raw), 100)) + gz(b""), "scan.nii.gz")
    np.testing.assert_array_equal(formats.read(path).voxels, head())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.Spm99AnalyzeImage, nibabel.AnalyzeImage])
@pytest.mark.parametrize("ending", [".img", ".img.gz"])
def test_a_scan_in_two_files(tmp_path, kind, order, ending):
    """NIfTI and Analyze pairs, either half named."""
    if kind is nibabel.Spm99AnalyzeImage:
        pytest.importorskip("scipy", reason="SciPy is not installed")
    image = kind(head(), OBLIQUE, kind.header_class(endianness=order))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / f"scan{ending}")
    for half in (tmp_path / f"scan{ending}", tmp_path / f"scan{ending.replace('img', 'hdr')}"):
        scan = formats.read(half)
        np.testing.assert_array_equal(scan.voxels * scan.slope + scan.inter, head())
        if kind in (nibabel.Nifti1Pair, nibabel.Nifti2Pair):
            np.testing.assert_array_equal(scan.affine, nibabel.load(half).affine)
            assert scan.warnings == ()
        else:
            np.testing.assert_allclose(scan.spacing, image.header.get_zooms(), rtol=1e-6)
            assert "orientation is unknown" in scan.warnings[0]
        mask = formats.to_image((head() > 50).astype(np.uint8), scan)
        np.testing.assert_array_equal(mask.affine, scan.affine)


def test_gzip_is_known_by_its_content(put):
    np.testing.assert_array_equal(formats.read(put(gz(nifti()), "scan.nii")).voxels, head())


def test_valid_extensions_are_passed_over(put):
    path = put(nifti(extensions=extension(16, bytes(8)) + extension(32, bytes(24))))
    np.testing.assert_array_equal(formats.read(path).voxels, head())


@pytest.mark.parametrize("index", [-1, 2])
def test_no_such_volume(put, index):
    with pytest.raises(ScanError, match=f"no volume {index}; it has 2"):
        formats.read(put(nifti(np.zeros((4, 4, 4, 2), np.int16))), index)


def test_without_codes_the_affine_is_nibabels(put):
    """Row 13: everybody's guess, so that results agree with other tools."""
    path = put(nifti(affine=None))
    np.testing.assert_array_equal(formats.read(path).affine, nibabel.load(path).affine)


def test_sform_without_code_is_ignored(put):
    """Row 11: a file that has only a qform is valid."""
    path = put(nifti(fields={"sform_code": 0, "srow_x": np.nan}))
    assert formats.read(path).warnings == ()
    np.testing.assert_allclose(formats.read(path).affine, nibabel.load(path).affine)


@pytest.mark.parametrize("header", ["HEAD.HDR", "HEAD.hdr", "HEAD.Hdr", "HEAD.HDR.GZ", "HEAD.hdr.gz"])
@pytest.mark.parametrize("voxels", ["HEAD.IMG", "HEAD.img", "HEAD.Img", "HEAD.IMG.GZ", "HEAD.IMG.gz"])
def test_a_pair_is_read_whatever_its_endings_are_written_in(tmp_path, header, voxels):
    """What `find_scans` lists is read; and either half may be named."""
    hdr, img = nifti(fields={"magic": b"ni1", "vox_offset": 0}, data=b"")[:348], head().tobytes("F")
    (tmp_path / header).write_bytes(gz(hdr) if header.lower().endswith("gz") else hdr)
    (tmp_path / voxels).write_bytes(gz(img) if voxels.lower().endswith("gz") else img)
    (found,) = find_scans([tmp_path])
    assert found.scan.name == voxels
    for path in (found.scan, tmp_path / header):
        np.testing.assert_array_equal(formats.read(path).voxels, head())
        assert stem(path) == "HEAD"


def test_of_two_pairs_the_halves_are_those_written_alike(tmp_path):
    for seed, (header, voxels) in enumerate([("a.hdr", "a.img"), ("a.HDR", "a.IMG")]):
        (tmp_path / header).write_bytes(nifti(fields={"magic": b"ni1", "vox_offset": 0}, data=b"")[:348])
        (tmp_path / voxels).write_bytes(head(seed=seed).tobytes("F"))
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("this file system does not tell capitals from small letters")
    for seed, names in enumerate([("a.hdr", "a.img"), ("a.HDR", "a.IMG")]):
        for name in names:
            np.testing.assert_array_equal(formats.read(tmp_path / name).voxels, head(seed=seed))


@pytest.mark.parametrize("name", ["scan.nii", "pair.img", "pair.hdr"])
def test_a_volume_that_a_scan_does_not_have_is_refused(put, name):
    """Never ignored: who asks for the seventh volume of a 3-D scan has another scan in mind."""
    put(nifti())
    put(nifti(fields={"magic": b"ni1", "vox_offset": 0}, data=b"")[:348], "pair.hdr")
    path = put(head().tobytes("F"), "pair.img").with_name(name)
    np.testing.assert_array_equal(formats.read(path, 0).voxels, formats.read(path).voxels)
    for index in (1, 7, -1):
        with pytest.raises(ScanError, match=f"has no volume {index}"):
            formats.read(path, index)


def test_a_link_that_leads_nowhere_says_so(tmp_path):
    (tmp_path / "scan.nii").symlink_to("gone.nii")
    (tmp_path / "disk").symlink_to("unmounted")
    expected = {"scan.nii": "no such file: a link to gone.nii, which is not there",
                "disk/scan.nii": f"no such file: {tmp_path / 'disk'} is a link to unmounted, which is not there",
                "none.nii": "no such file$"}  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(ScanError, match=message):
            formats.read(tmp_path / name)


def test_a_quaternion_alone_says_every_orientation(tmp_path):
    """Half-turns, which most converters write, have a quaternion without a real part."""
    for orientation in ORIENTATIONS:
        voxels, affine = reoriented(head(), np.diag([1.5, 2.0, 3.0, 1.0]), orientation)
        image = nibabel.Nifti1Image(voxels, affine)
        image.set_sform(affine, 0)
        image.set_qform(affine, 1)
        nibabel.save(image, tmp_path / "scan.nii")
        np.testing.assert_allclose(formats.read(tmp_path / "scan.nii").affine, affine, rtol=0, atol=1e-5)
