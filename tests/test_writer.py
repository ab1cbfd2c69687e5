"""Masks out: on the scan's own grid, whole, with nothing of the scan's but its geometry, and never over the scan."""

import gzip
import os

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, head, nifti, nrrd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scans import DTYPES, ORIENTATIONS, RAW, reoriented

from monet_edge import formats
from monet_edge.errors import OutputError
from monet_edge.formats import Seal
from monet_edge.formats.nifti.writer import ENDINGS
from monet_edge.volume.labels import colours


@settings(max_examples=60, deadline=None)
@given(
    shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("<>"),
    version=st.sampled_from([1, 2]),
    orientation=st.sampled_from(ORIENTATIONS),
    scaling=st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)),
    ending=st.sampled_from(ENDINGS),
    seed=st.integers(0, 99),
)
def test_a_result_has_the_grid_of_its_scan(tmp_path_factory, shape, dtype, order, version, orientation, scaling, ending, seed):
    folder = tmp_path_factory.mktemp("round")
    stored, affine = reoriented(head(shape, dtype, seed), OBLIQUE, orientation)
    fields = {"scl_slope": scaling[0], "scl_inter": scaling[1], "qform_code": 2, "sform_code": 4, "xyzt_units": 10}
    (folder / "scan.nii").write_bytes(nifti(stored, affine, order=order, version=version, fields=fields))
    scan = formats.read(folder / "scan.nii")
    np.testing.assert_array_equal(scan.voxels, stored)
    ref = nibabel.load(folder / "scan.nii")
    np.testing.assert_array_equal(scan.voxels.astype(np.float64) * scan.slope + scan.inter, ref.get_fdata())

    rng = np.random.default_rng(seed)
    for name, array in {
        "mask": rng.integers(0, 3, stored.shape, np.uint8),
        "probability": rng.random((*stored.shape, 2), np.float32),
        "single": rng.random(stored.shape, np.float32),
    }.items():
        path = folder / (name + ending)
        formats.write(path, array, scan)
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
        assert formats.is_ours(path)
    assert not formats.is_ours(folder / "scan.nii")


def test_sform_and_qform_that_differ_are_both_kept(put, tmp_path):
    """Row 14: the scan's own bytes, not what an affine would make of them."""
    scan = formats.read(put(nifti(fields={"srow_x": [3, 0, 0, 1], "qoffset_z": 99})))
    formats.write(tmp_path / "mask.nii", np.zeros(scan.shape, np.uint8), scan)
    mask = formats.read(tmp_path / "mask.nii")
    for field in ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_z", "sform_code", "srow_x", "srow_z"):
        assert mask.header[field].tobytes() == scan.header[field].tobytes()
    np.testing.assert_array_equal(mask.header["pixdim"][:4], scan.header["pixdim"][:4])


def test_the_same_result_gives_the_same_bytes(put, tmp_path):
    scan = formats.read(put(RAW))
    for name in ("one.nii.gz", "two.nii.gz"):
        formats.write(tmp_path / name, np.ones(scan.shape, np.uint8), scan)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.nii.gz").read_bytes())[352:] == b"\1" * 720


def test_free_text_of_the_scan_does_not_reach_the_result(put, tmp_path):
    scan = formats.read(put(nifti(fields={"descrip": b"Jane Doe", "aux_file": b"Jane", "db_name": b"Jane", "intent_name": b"Jane"})))
    formats.write(tmp_path / "mask.nii", np.zeros(scan.shape, np.uint8), scan)
    assert b"Jane" not in (tmp_path / "mask.nii").read_bytes()


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_scan_is_never_overwritten(put, tmp_path, link):
    """Row 20: not even when overwriting is allowed."""
    path = put(RAW)
    scan = formats.read(path)
    target = path
    if link:
        target = tmp_path / "link.nii"
        link(path, target)
    with pytest.raises(OutputError, match="is the input itself"):
        formats.write(target, np.zeros(scan.shape, np.uint8), scan, overwrite=True)
    assert path.read_bytes() == RAW


def test_a_result_is_not_overwritten_unless_asked(put, tmp_path):
    """Row 21."""
    scan = formats.read(put(RAW))
    mask = np.zeros(scan.shape, np.uint8)
    formats.write(tmp_path / "mask.nii", mask, scan)
    with pytest.raises(OutputError, match="exists already"):
        formats.write(tmp_path / "mask.nii", mask + np.uint8(1), scan)
    assert not formats.read(tmp_path / "mask.nii").voxels.any()
    formats.write(tmp_path / "mask.nii", mask + np.uint8(1), scan, overwrite=True)
    assert formats.read(tmp_path / "mask.nii").voxels.all()


def test_a_result_needs_a_known_ending(put, tmp_path):
    scan = formats.read(put(RAW))
    with pytest.raises(OutputError, match=r"written as \.nii\.gz or \.nii"):
        formats.write(tmp_path / "mask.png", np.zeros(scan.shape, np.uint8), scan)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
@pytest.mark.parametrize("ending", [".nrrd", ".seg.nrrd"])
def test_nrrd_out_lies_on_the_grid_of_its_scan(put, tmp_path, ending, orientation):
    voxels, affine = reoriented(head(), OBLIQUE, orientation)
    scan = formats.read(put(nrrd(voxels, affine), "scan.nrrd"))
    mask = (voxels > 50).astype(np.uint8)
    path = tmp_path / f"mask{ending}"
    formats.write(path, mask, scan, labels=("ball",))
    again = formats.read(path)
    np.testing.assert_array_equal(again.voxels, mask)
    np.testing.assert_array_equal(again.affine, scan.affine)
    assert again.oriented
    assert formats.is_ours(path)
    assert path.read_bytes().count(b"monet-edge") == 1
    assert gzip.decompress(path.read_bytes().partition(b"\n\n")[2]) == mask.tobytes(order="F")


def test_probabilities_as_nrrd_are_volumes(put, tmp_path, rng):
    scan = formats.read(put(RAW))
    probabilities = rng.random((*scan.shape, 2), np.float32)
    formats.write(tmp_path / "p.nrrd", probabilities, scan)
    for i in range(2):
        np.testing.assert_array_equal(formats.read(tmp_path / "p.nrrd", i).voxels, probabilities[..., i])
    with pytest.raises(OutputError, match="holds labels, no probabilities"):
        formats.write(tmp_path / "p.seg.nrrd", probabilities, scan)
    assert not (tmp_path / "p.seg.nrrd").exists()


def test_a_segmentation_has_the_names_colours_and_boxes_of_all_its_labels(put, tmp_path):
    scan = formats.read(put(RAW))
    mask = np.zeros(scan.shape, np.uint8)
    mask[2:5, 3, 1:4], mask[11, 9, 5], mask[11, 0, 5] = 1, 3, 3
    formats.write(tmp_path / "mask.seg.nrrd", mask, scan, labels=("left\nkidney", "back\\slash", "spleen"))
    lines = (tmp_path / "mask.seg.nrrd").read_bytes().partition(b"\n\n")[0].decode().split("\n")
    keys = dict(line.split(":=") for line in lines if ":=" in line)
    assert [keys[f"Segment{i}_Name"] for i in range(3)] == ["left?kidney", r"back\\slash", "spleen"]
    assert [keys[f"Segment{i}_LabelValue"] for i in range(3)] == ["1", "2", "3"]
    assert [keys[f"Segment{i}_Layer"] for i in range(3)] == ["0", "0", "0"]
    assert [keys[f"Segment{i}_Extent"] for i in range(3)] == ["2 4 3 3 1 3", "0 -1 0 -1 0 -1", "11 11 0 9 5 5"]
    found = np.array([[float(part) * 255 for part in keys[f"Segment{i}_Color"].split()] for i in range(3)])
    np.testing.assert_allclose(found, colours(("a", "b", "c")), atol=0.01)


@pytest.mark.parametrize("ending", [".nrrd", ".seg.nrrd"])
def test_a_nrrd_of_ours_says_which_model_made_it_and_whether_it_is_whole(put, tmp_path, ending):
    scan, path = formats.read(put(RAW)), tmp_path / f"mask{ending}"
    formats.write(path, np.ones(scan.shape, np.uint8), scan, labels=("one",), key="0123abcd")
    assert formats.seal(path) == Seal("0123abcd", True)
    path.write_bytes(path.read_bytes()[:-3])
    assert formats.seal(path) == Seal("0123abcd", False)
    path.write_bytes(nrrd())
    assert formats.seal(path) is None
