"""Scans in and masks out: what is read is what was stored, or one clear line says why not."""

import gzip
import os
import resource
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, extension, gz, head, nifti
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from monet_edge import volume
from monet_edge.errors import OutputError, ResourceError, ScanError
from monet_edge.preprocess import SLICINGS

ROOT = Path(__file__).parents[1]
DTYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]
ORIENTATIONS = [np.array(list(zip(axes, flips, strict=True))) for axes in permutations(range(3)) for flips in product((1, -1), repeat=3)]


@pytest.fixture
def put(tmp_path):
    """Write bytes to a file and give its path."""

    def write(raw, name="scan.nii"):
        path = tmp_path / name
        path.write_bytes(raw)
        return path

    return write


# ---- what is right is read right ----


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_read_equals_nibabel(put, dtype, order, version):
    raw = nifti(head(dtype=dtype), order=order, version=version)
    for path in (put(raw), put(gz(raw), "scan.nii.gz")):
        ref, comp = nibabel.load(path), volume.read(path)
        assert comp.voxels.dtype == np.dtype(dtype)
        assert comp.voxels.dtype.isnative
        np.testing.assert_array_equal(comp.voxels, np.asarray(ref.dataobj))
        np.testing.assert_array_equal(comp.affine, ref.affine)
        assert not comp.voxels.flags.writeable
        assert comp.voxels.flags.f_contiguous
        assert comp.warnings == ()
        assert volume.peek(path).shape == comp.shape


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 5), (30, 17, 1), (3000, 17, 2), (5, 7), (6, 5, 4, 1, 1)])
def test_any_shape_is_a_volume(put, shape):
    voxels = head((*shape, 1)[: max(len(shape), 3)])
    path = put(nifti(voxels.reshape(shape)))
    np.testing.assert_array_equal(volume.read(path).voxels, voxels.reshape((*shape, 1)[:3], order="F"))


@pytest.mark.parametrize(
    ("slope", "inter", "expected"), [(2.5, -1024, (2.5, -1024)), (0, 7, (1, 0)), (np.nan, np.nan, (1, 0)), (-1, 3, (-1, 3))]
)
def test_scaling(put, slope, inter, expected):
    scan = volume.read(put(nifti(fields={"scl_slope": slope, "scl_inter": inter})))
    assert (scan.slope, scan.inter) == expected
    assert scan.warnings == ()


def test_doubles_beyond_any_intensity_count_as_infinite(put):
    """Row 18: their squares would overflow."""
    voxels = head(dtype=np.float64)
    voxels[0, 0, :3] = 1e300, -1e39, 1e38
    read = volume.read(put(nifti(voxels))).voxels
    np.testing.assert_array_equal(read[0, 0, :3], [np.inf, np.inf, 1e38])
    np.testing.assert_array_equal(read[1:], voxels[1:])


def test_one_volume_of_a_4d_scan(put):
    voxels = np.stack([head(seed=i) for i in range(3)], axis=-1)
    for path in (put(nifti(voxels)), put(gz(nifti(voxels)), "scan.nii.gz")):
        for i in range(3):
            np.testing.assert_array_equal(volume.read(path, i).voxels, voxels[..., i])


def test_a_stream_of_several_gzip_members_is_one_file(put):
    raw = nifti()
    path = put(b"".join(gz(raw[i : i + 100]) for i in range(0, len(raw), 100)) + gz(b""), "scan.nii.gz")
    np.testing.assert_array_equal(volume.read(path).voxels, head())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.Spm99AnalyzeImage, nibabel.AnalyzeImage])
@pytest.mark.parametrize("ending", [".img", ".img.gz"])
def test_a_scan_in_two_files(tmp_path, kind, order, ending):
    """NIfTI and Analyze pairs, either half named."""
    image = kind(head(), OBLIQUE, kind.header_class(endianness=order))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / f"scan{ending}")
    for half in (tmp_path / f"scan{ending}", tmp_path / f"scan{ending.replace('img', 'hdr')}"):
        scan = volume.read(half)
        np.testing.assert_array_equal(scan.voxels * scan.slope + scan.inter, head())
        if kind in (nibabel.Nifti1Pair, nibabel.Nifti2Pair):
            np.testing.assert_array_equal(scan.affine, nibabel.load(half).affine)
            assert scan.warnings == ()
        else:
            np.testing.assert_allclose(scan.spacing, image.header.get_zooms(), rtol=1e-6)
            assert "orientation is unknown" in scan.warnings[0]
        mask = volume.to_image((head() > 50).astype(np.uint8), scan)
        np.testing.assert_array_equal(mask.affine, scan.affine)


HDR = nifti(fields={"magic": b"ni1", "vox_offset": 0}, data=b"")[:348]
IMG = head().tobytes("F")
PAIRS = {
    "half missing": ({"scan.hdr": HDR}, r"other half scan\.img is missing"),
    "truncated": ({"scan.hdr": HDR, "scan.img": IMG[:-1]}, "promises 12x10x6 int16 .* the file ends after 1,439"),
    "truncated, gzip": ({"scan.hdr": HDR, "scan.img.gz": gz(IMG[:-1])}, "the decompressed data ends after 1,439"),
    "a slice too many": ({"scan.hdr": HDR, "scan.img": IMG + bytes(240)}, "the header is wrong"),
    "header truncated": ({"scan.hdr": HDR[:300], "scan.img": IMG}, "inside its header"),
    "header of a single file": ({"scan.hdr": nifti()[:352], "scan.img": IMG}, r"Expected \.hdr and \.img"),
    "header is text": ({"scan.hdr": b"Dear colleague," * 40, "scan.img": IMG}, "not a NIfTI file"),
    "extension of 7": ({"scan.hdr": HDR + b"\1\0\0\0" + extension(7, bytes(8)), "scan.img": IMG}, "extension of 7 bytes"),
    "offset beyond the end": ({"scan.hdr": nifti(fields={"magic": b"ni1", "vox_offset": 16})[:348], "scan.img": IMG}, "truncated"),
    "half of a pair called .nii": ({"scan.nii": HDR + IMG}, "not a NIfTI file"),
}


@pytest.mark.parametrize("row", PAIRS)
def test_a_pair_is_refused(tmp_path, row):
    files, message = PAIRS[row]
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(ScanError, match=message) as caught:
        volume.read(tmp_path / next(iter(files)))
    assert str(caught.value).startswith(str(tmp_path / "scan."))


def test_gzip_is_known_by_its_content(put):
    np.testing.assert_array_equal(volume.read(put(gz(nifti()), "scan.nii")).voxels, head())


def test_valid_extensions_are_passed_over(put):
    path = put(nifti(extensions=extension(16, bytes(8)) + extension(32, bytes(24))))
    np.testing.assert_array_equal(volume.read(path).voxels, head())


def test_a_volume_is_held_once_and_little_besides(tmp_path):
    """Reading a .nii.gz costs the volume and a few MB; writing a mask costs a slice."""
    code = f"""
import numpy as np
from pathlib import Path
from fuzz.build import gz, nifti
from monet_edge import volume
def high(): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
path = Path({str(tmp_path)!r}) / "scan.nii.gz"
if not path.exists():
    path.write_bytes(gz(nifti(np.zeros((256, 256, 400), np.int16))))
else:
    start = high(); scan = volume.read(path); print(high() - start)
    mask = np.zeros(scan.shape, np.uint8, order="F"); mask[:] = 1
    start = high(); volume.write(path.with_name("mask.nii.gz"), mask, scan); print(high() - start)
"""
    for _ in range(2):  # the second process measures: building the file costs memory too
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    read, write = map(int, done.stdout.split())
    assert read < 256 * 256 * 400 * 2 + 8e6
    assert write < 4e6


def _environment():
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


# ---- what is wrong is refused in one line (the rows of the table of hostile input) ----

RAW = nifti()
GZ = gz(RAW)
FLIPPED = GZ[:400] + bytes([GZ[400] ^ 4]) + GZ[401:]
BOMB = {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}
LONG = nifti(extensions=extension(48, bytes(40)))

REFUSED = {
    "1 wrong gzip checksum": (GZ[:-8] + bytes(4) + GZ[-4:], "damaged"),
    "1 wrong gzip size": (GZ[:-4] + bytes(4), "damaged"),
    "1 one flipped bit": (FLIPPED, "damaged|promises|corrupt"),
    "2 truncated gzip": (GZ[:-9], "truncated"),
    "2 gzip ends inside its checksum": (GZ[:-3], "truncated"),
    "2 gzip of a truncated file": (gz(RAW[:-5]), r"12x10x6 int16 \(1,440 bytes\), the decompressed data ends after 1,435: it is truncated"),
    "3 the stream goes on": (gz(nifti(data=head().tobytes("F") + bytes(240))), "the header is wrong"),
    "4 truncated": (RAW[:-5], r"promises 12x10x6 int16 \(1,440 bytes\), the file ends after 1,435: it is truncated"),
    "4 ends inside the header": (RAW[:200], "truncated"),
    "4 ends before the voxels": (RAW[:350], "truncated"),
    "5 allocation bomb": (nifti(fields=BOMB), "promises 32767x32767x32767"),
    "5 allocation bomb, gzip": (gz(nifti(fields=BOMB)), "compressed bytes cannot hold"),
    "6 negative side": (nifti(fields={"dim": [3, 12, -10, 6, 1, 1, 1, 1]}), "at least 1"),
    "6 zero side": (nifti(fields={"dim": [3, 12, 0, 6, 1, 1, 1, 1]}), "at least 1"),
    "6 no dimension": (nifti(fields={"dim": [0, 12, 10, 6, 1, 1, 1, 1]}), "0 dimensions"),
    "6 nine dimensions": (nifti(fields={"dim": [9, 12, 10, 6, 1, 1, 1, 1]}), "9 dimensions"),
    "7 4-D": (nifti(np.zeros((4, 4, 4, 2), np.int16)), r"4-D, 2 volumes of 4x4x4. Choose one with --volume 0 or --volume 1\."),
    "7 5-D": (nifti(np.zeros((4, 4, 4, 2, 3), np.int16)), r"5-D, 6 volumes of 4x4x4. Choose one with --volume 0 to --volume 5\."),
    "8 RGB": (nifti(fields={"datatype": 128, "bitpix": 24}), "RGB"),
    "8 complex": (nifti(fields={"datatype": 32, "bitpix": 64}), "complex64"),
    "8 long double": (nifti(fields={"datatype": 1536, "bitpix": 128}), "float128"),
    "8 unknown": (nifti(fields={"datatype": 77}), "unknown"),
    "8 bitpix of another datatype": (nifti(fields={"bitpix": 8}), "bitpix says 8"),
    "9 slope inf": (nifti(fields={"scl_slope": np.inf, "scl_inter": 0}), "scales intensities by inf"),
    "9 slope 1e38": (nifti(fields={"scl_slope": 1e38, "scl_inter": 0}), r"scales intensities by 1e\+38"),
    "9 inter NaN": (nifti(fields={"scl_slope": 1, "scl_inter": np.nan}), "adds nan"),
    "10 pixdim NaN": (nifti(fields={"pixdim": [1, 1, np.nan, 1, 0, 0, 0, 0]}), "pixdim"),
    "11 sform zero": (nifti(fields={"srow_x": 0, "srow_y": 0, "srow_z": 0}), "sform .* singular"),
    "11 sform NaN": (nifti(fields={"srow_x": np.nan}), "sform .* not finite"),
    "11 sform singular": (nifti(fields={"srow_x": [1, 2, 3, 0], "srow_y": [2, 4, 6, 0]}), "sform .* singular"),
    "11 qform alone, no rotation": (nifti(fields={"sform_code": 0, "quatern_b": 3}), "qform is no rotation"),
    "11 qform alone, NaN": (nifti(fields={"sform_code": 0, "qoffset_x": np.nan}), "qform is singular or not finite"),
    "11 negative code": (nifti(fields={"sform_code": -1}), "sform_code -1"),
    "11 unknown code": (nifti(fields={"sform_code": 9}), "sform_code 9"),
    "15 vox_offset NaN": (nifti(fields={"vox_offset": np.nan}), "byte nan"),
    "15 vox_offset huge": (nifti(fields={"vox_offset": 1e30}), r"byte 1e\+30"),
    "15 vox_offset negative": (nifti(fields={"vox_offset": -352}), "byte -352"),
    "15 vox_offset inside the header": (nifti(fields={"vox_offset": 4}), "byte 4"),
    "15 vox_offset beyond the end": (nifti(fields={"vox_offset": 8192}), "truncated"),
    "16 extension of 0": (nifti(extensions=extension(0, bytes(8))), "extension of 0 bytes at byte 352"),
    "16 extension of -16": (nifti(extensions=extension(-16, bytes(8))), "extension of -16 bytes"),
    "16 extension of 7": (nifti(extensions=extension(7, bytes(8))), "extension of 7 bytes"),
    "16 extension beyond the voxels": (nifti(extensions=extension(64, bytes(8))), "extension of 64 bytes"),
    "16 second extension": (nifti(extensions=extension(16, bytes(8)) + extension(7, bytes(8))), "extension of 7 bytes at byte 368"),
    "17 PNG": (b"\x89PNG\r\n\x1a\n" + bytes(400), "not a NIfTI file"),
    "17 text": (b"Dear colleague, here is the scan. " * 20, "not a NIfTI file"),
    "17 text, gzip": (gz(b"Dear colleague, here is the scan. " * 20), "not a NIfTI file"),
    "17 empty": (b"", "empty"),
    "17 empty gzip": (gz(b""), "empty"),
    "17 gzip magic only": (b"\x1f\x8b", "truncated"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused(put, row):
    raw, message = REFUSED[row]
    path = put(raw, "scan.nii.gz")
    with pytest.raises(ScanError, match=message) as caught:
        volume.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


WARNED = {
    "3 bytes after the gzip stream": (GZ + b"more", "4 bytes after the end"),
    "3 bytes after the voxels": (RAW + b"more", "4 bytes after the end"),
    "10 pixdim negative": (nifti(fields={"pixdim": [1, -2, 1, 1, 0, 0, 0, 0]}), "-2 x 1 x 1 mm; taken as 2 x 1 x 1"),
    "10 pixdim zero": (nifti(fields={"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}), "0 x 1 x 1 mm; taken as 1 x 1 x 1"),
    "10 handedness": (nifti(fields={"pixdim": [5, 1, 1, 1, 0, 0, 0, 0]}), "taken as 1"),
    "11 qform broken beside a good sform": (nifti(fields={"quatern_b": 3}), "the sform is used"),
    "13 no code": (nifti(affine=None), "orientation is unknown"),
    "metres": (nifti(fields={"xyzt_units": 1}), "metres"),
}


@pytest.mark.parametrize("row", WARNED)
def test_read_with_a_warning(put, row):
    raw, message = WARNED[row]
    scan = volume.read(put(raw))
    np.testing.assert_array_equal(scan.voxels, head())
    assert len(scan.warnings) == 1
    assert message in scan.warnings[0]


def test_without_codes_the_affine_is_nibabels(put):
    """Row 13: everybody's guess, so that results agree with other tools."""
    path = put(nifti(affine=None))
    np.testing.assert_array_equal(volume.read(path).affine, nibabel.load(path).affine)


def test_sform_without_code_is_ignored(put):
    """Row 11: a file that has only a qform is valid."""
    path = put(nifti(fields={"sform_code": 0, "srow_x": np.nan}))
    assert volume.read(path).warnings == ()
    np.testing.assert_allclose(volume.read(path).affine, nibabel.load(path).affine)


@pytest.mark.parametrize("name", ["missing.nii.gz", "scan.nii/inside.nii", "nul\0.nii", "x" * 300])
def test_no_such_file(put, tmp_path, name):
    put(RAW)
    with pytest.raises(ScanError, match=r"no such file|cannot be read"):
        volume.read(tmp_path / name)


def test_a_folder_a_pipe_and_a_device_are_no_scans(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (tmp_path, tmp_path / "pipe.nii", Path("/dev/zero")):
        with pytest.raises(ScanError, match=r"a folder|not a regular file"):
            volume.read(path)


@pytest.mark.parametrize("index", [-1, 2])
def test_no_such_volume(put, index):
    with pytest.raises(ScanError, match=f"no volume {index}; it has 2"):
        volume.read(put(nifti(np.zeros((4, 4, 4, 2), np.int16))), index)


def test_more_than_memory_is_refused_before_it_is_asked_for(put, monkeypatch):
    monkeypatch.setattr("monet_edge.memory.available", lambda: 1000)
    with pytest.raises(ResourceError, match=r"scan\.nii: the volume needs 0 MB of memory, 0 MB are available"):
        volume.read(put(RAW))


def test_a_bomb_that_its_size_could_justify_meets_the_memory_limit(tmp_path):
    """Row 5, measured: a file of 2 MB promises 1.6 GB, which gzip could hold, and is read under 1 GB of address space."""
    noise = np.random.default_rng(0).bytes(2_000_000)
    (tmp_path / "bomb.nii.gz").write_bytes(gz(nifti(fields={"dim": [3, 2000, 2000, 200, 1, 1, 1, 1]}, data=noise)))
    code = f"from pathlib import Path; from monet_edge import volume; volume.read(Path({str(tmp_path)!r}) / 'bomb.nii.gz')"

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, env=_environment())
    assert done.stderr.splitlines()[-1].startswith("monet_edge.errors.ResourceError")
    assert "the volume needs 1,600 MB of memory" in done.stderr


# ---- orientation ----


def reoriented(array, affine, orientation):
    """The same volume stored in another axis order, by nibabel."""
    return nibabel.apply_orientation(array, orientation), affine @ inv_ornt_aff(orientation, array.shape)


@pytest.mark.parametrize("axes", SLICINGS.values())
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda ornt: "".join(f"{a}{'+' if f > 0 else '-'}" for a, f in ornt))
def test_every_axis_order_gives_one_canonical_volume(orientation, axes):
    voxels = head((5, 6, 7))
    ref = nibabel.apply_orientation(voxels, ornt_transform(io_orientation(OBLIQUE), axcodes2ornt(axes)))
    stored, affine = reoriented(voxels, OBLIQUE, orientation)
    comp, record = volume.to_canonical(stored, affine, axes)
    np.testing.assert_array_equal(comp, ref)
    assert np.shares_memory(comp, stored)
    back = volume.from_canonical(comp, record)
    assert back.__array_interface__ == stored.__array_interface__  # not merely equal: the very same view


@settings(max_examples=100, deadline=None)
@given(
    voxels=hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=3, max_dims=4, max_side=7)),
    orientation=st.sampled_from(ORIENTATIONS),
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    axes=st.sampled_from(sorted(SLICINGS.values())),
)
def test_there_and_back_is_exact_for_any_rotation(voxels, orientation, angles, axes):
    rotation = np.linalg.multi_dot(
        [np.roll(np.roll([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]], i, 0), i, 1) for i, a in enumerate(angles)]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.5, 1, 4)
    comp, record = volume.to_canonical(voxels, affine, axes)
    assert sorted(record.axes) == [0, 1, 2]
    assert volume.from_canonical(comp, record).__array_interface__ == voxels.__array_interface__


# ---- writing ----


@settings(max_examples=60, deadline=None)
@given(
    shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("<>"),
    version=st.sampled_from([1, 2]),
    orientation=st.sampled_from(ORIENTATIONS),
    scaling=st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)),
    ending=st.sampled_from(volume.ENDINGS),
    seed=st.integers(0, 99),
)
def test_a_result_has_the_grid_of_its_scan(tmp_path_factory, shape, dtype, order, version, orientation, scaling, ending, seed):
    folder = tmp_path_factory.mktemp("round")
    stored, affine = reoriented(head(shape, dtype, seed), OBLIQUE, orientation)
    fields = {"scl_slope": scaling[0], "scl_inter": scaling[1], "qform_code": 2, "sform_code": 4, "xyzt_units": 10}
    (folder / "scan.nii").write_bytes(nifti(stored, affine, order=order, version=version, fields=fields))
    scan = volume.read(folder / "scan.nii")
    np.testing.assert_array_equal(scan.voxels, stored)
    ref = nibabel.load(folder / "scan.nii")
    np.testing.assert_array_equal(scan.voxels.astype(np.float64) * scan.slope + scan.inter, ref.get_fdata())

    rng = np.random.default_rng(seed)
    for name, array in {
        "mask": rng.integers(0, 3, stored.shape, np.uint8),
        "probability": rng.random((*stored.shape, 2), np.float32),
        "single": rng.random(stored.shape, np.float32),
    }.items():
        canonical, record = volume.to_canonical(array, scan.affine, "SPL")
        path = folder / (name + ending)
        volume.write(path, volume.from_canonical(np.ascontiguousarray(canonical), record), scan)
        comp = nibabel.load(path)
        assert type(comp) is type(ref)
        assert comp.get_data_dtype() == array.dtype
        assert comp.header.get_slope_inter() in [(1, 0), (None, None)]
        np.testing.assert_array_equal(np.asarray(comp.dataobj), array)
        np.testing.assert_array_equal(comp.affine, ref.affine)
        for form in ("get_sform", "get_qform"):
            for ours, theirs in zip(getattr(comp, form)(coded=True), getattr(ref, form)(coded=True), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert comp.header.get_xyzt_units() == ref.header.get_xyzt_units()
        assert volume.is_ours(path)
        assert volume.read(path, 0).is_ours
    assert not volume.is_ours(folder / "scan.nii")


def test_sform_and_qform_that_differ_are_both_kept(put, tmp_path):
    """Row 14: the scan's own bytes, not what an affine would make of them."""
    scan = volume.read(put(nifti(fields={"srow_x": [3, 0, 0, 1], "qoffset_z": 99})))
    volume.write(tmp_path / "mask.nii", np.zeros(scan.shape, np.uint8), scan)
    mask = volume.read(tmp_path / "mask.nii")
    for field in ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_z", "sform_code", "srow_x", "srow_z"):
        assert mask.header[field].tobytes() == scan.header[field].tobytes()
    np.testing.assert_array_equal(mask.header["pixdim"][:4], scan.header["pixdim"][:4])


def test_the_same_result_gives_the_same_bytes(put, tmp_path):
    scan = volume.read(put(RAW))
    for name in ("one.nii.gz", "two.nii.gz"):
        volume.write(tmp_path / name, np.ones(scan.shape, np.uint8), scan)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.nii.gz").read_bytes())[352:] == b"\1" * 720


def test_free_text_of_the_scan_does_not_reach_the_result(put, tmp_path):
    scan = volume.read(put(nifti(fields={"descrip": b"Jane Doe", "aux_file": b"Jane", "db_name": b"Jane", "intent_name": b"Jane"})))
    volume.write(tmp_path / "mask.nii", np.zeros(scan.shape, np.uint8), scan)
    assert b"Jane" not in (tmp_path / "mask.nii").read_bytes()


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_scan_is_never_overwritten(put, tmp_path, link):
    """Row 20: not even when overwriting is allowed."""
    path = put(RAW)
    scan = volume.read(path)
    target = path
    if link:
        target = tmp_path / "link.nii"
        link(path, target)
    with pytest.raises(OutputError, match="is the input itself"):
        volume.write(target, np.zeros(scan.shape, np.uint8), scan, overwrite=True)
    assert path.read_bytes() == RAW


def test_a_result_is_not_overwritten_unless_asked(put, tmp_path):
    """Row 21."""
    scan = volume.read(put(RAW))
    mask = np.zeros(scan.shape, np.uint8)
    volume.write(tmp_path / "mask.nii", mask, scan)
    with pytest.raises(OutputError, match="exists already"):
        volume.write(tmp_path / "mask.nii", mask + np.uint8(1), scan)
    assert not volume.read(tmp_path / "mask.nii").voxels.any()
    volume.write(tmp_path / "mask.nii", mask + np.uint8(1), scan, overwrite=True)
    assert volume.read(tmp_path / "mask.nii").voxels.all()


def test_a_result_needs_a_known_ending(put, tmp_path):
    scan = volume.read(put(RAW))
    with pytest.raises(OutputError, match=r"written as \.nii\.gz or \.nii"):
        volume.write(tmp_path / "mask.png", np.zeros(scan.shape, np.uint8), scan)


# ---- nibabel images ----


def test_an_image_from_a_file_is_read_with_every_check(put):
    good = volume.from_image(nibabel.load(put(GZ, "good.nii.gz")))
    np.testing.assert_array_equal(good.voxels, head())
    with pytest.raises(ScanError, match="damaged"):
        volume.from_image(nibabel.load(put(GZ[:-8] + bytes(8), "bad.nii.gz")))


@pytest.mark.parametrize("dtype", [*DTYPES, ">i2"])
def test_an_image_in_memory(dtype):
    voxels = head().astype(dtype)
    image = nibabel.Nifti1Image(voxels, OBLIQUE, dtype=np.int16)
    scan = volume.from_image(image)
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_array_equal(scan.affine, image.affine)
    mask = volume.to_image((voxels > 50).astype(np.uint8), scan)
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.get_sform(coded=True)[1] == image.get_sform(coded=True)[1]


def test_an_affine_changed_after_loading_counts(put):
    image = nibabel.load(put(RAW))
    moved = nibabel.Nifti1Image(image.dataobj, image.affine + np.array([[0, 0, 0, 5], *[[0] * 4] * 3]), image.header)
    np.testing.assert_array_equal(volume.from_image(moved).affine, moved.affine)


def test_an_image_that_is_no_scan():
    for voxels in (np.zeros((4, 4, 4, 2), np.int16), np.zeros((4, 4, 4), np.complex64), np.zeros(4, np.int16)):
        with pytest.raises(ScanError):
            volume.from_image(nibabel.Nifti1Image(voxels, np.eye(4)))
    with pytest.raises(ScanError, match=r"singular|affine"):
        volume.from_image(nibabel.spatialimages.SpatialImage(head(), np.diag([1, 1, 0, 1])))
