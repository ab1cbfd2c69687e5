"""Prepared cases: the very bits of the scan, done again only where a file changed, turned as the runtime turns them."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from synthetic import write_dataset

from monet_edge import formats, volume
from monet_edge.errors import DatasetError
from monet_edge.preprocess import SLICINGS
from monet_train import prepare as module
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
    assert ref.images[0].stored.dtype == comp.images[0].stored.dtype
    assert np.ascontiguousarray(ref.images[0].stored).tobytes() == comp.images[0].stored.tobytes()
    assert (ref.statistics, ref.spacing) == (comp.statistics, comp.spacing)
    assert (ref.images[0].slope, ref.images[0].inter) == (comp.images[0].slope, comp.images[0].inter)


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
    scan = formats.read(dataset.pairs["case_000"][0], 0)
    for slicing, axes in SLICINGS.items():
        case = oriented(open_prepared(prepared.folder).load("case_000"), slicing)
        orientation = volume.orient(scan.affine, axes)
        np.testing.assert_array_equal(case.images[0].stored, orientation.turn(scan.voxels))
        assert case.spacing == pytest.approx([scan.spacing[axis] for axis in orientation.axes])


def relabel(folder, labels):
    """Change the table of labels."""
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "labels": labels}))


def swap_labels(folder):
    """Give the first case the labels of the second."""
    shutil.copy(folder / "labelsTr" / "case_001.nii.gz", folder / "labelsTr" / "case_000.nii.gz")


@pytest.mark.parametrize(
    ("change", "channel"),
    [
        (lambda folder: None, 1),
        (lambda folder: relabel(folder, {"0": "background", "1": "tumour"}), 0),
        (lambda folder: relabel(folder, {"0": "background", "1": "lesion", "2": "oedema"}), 0),
        (lambda folder: relabel(folder, {"0": "background", "1": "lesion", "2": "ignore"}), 0),
        (swap_labels, 0),
        (lambda folder: shutil.copy(folder / "imagesTr" / "case_001.nii.gz", folder / "imagesTr" / "case_000.nii.gz"), 0),
    ],
    ids=["channel", "name", "one more", "ignore", "labels", "scan"],
)
def test_whatever_decides_a_case_is_in_its_key(tmp_path, change, channel):
    """Without a new key the folder would be kept as it is; and what was opened before does not mix with what is there now."""
    folder = write_dataset(tmp_path / "d", 2)
    before = prepare(read(folder), tmp_path / "p")
    change(folder)
    after = prepare(read(folder, (channel,)), tmp_path / "p")
    assert after.keys["case_000"] != before.keys["case_000"]
    assert after == open_prepared(tmp_path / "p")
    assert (after.channels, after.labels) == ((channel,), read(folder).labels)
    np.testing.assert_array_equal(after.load("case_000").images[0].stored, load(read(folder, (channel,)), "case_000").images[0].stored)
    for read_again in (before.load, lambda name: before.grid(name, "axial")):  # the grid is read first: before anything is written
        with pytest.raises(DatasetError, match=r"case_000\.zip: made of other files, labels or channel"):
            read_again("case_000")


def test_a_table_of_labels_that_fits_no_more_is_refused_and_so_is_the_folder(tmp_path):
    folder = write_dataset(tmp_path / "d", 2, "nnunet")
    image = nibabel.load(folder / "labelsTr" / "case_000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine), folder / "labelsTr" / "case_000.nii.gz")
    relabel(folder, {"background": 0, "a": 1, "b": 2})
    prepare(read(folder), tmp_path / "p")
    relabel(folder, {"background": 0, "a": 1})
    with pytest.raises(DatasetError, match="labels must be 0 to 1"):
        prepare(read(folder), tmp_path / "p")
    with pytest.raises(DatasetError, match="stopped here before it had finished"):
        open_prepared(tmp_path / "p")


def test_an_interrupted_prepare_is_no_mixture(tmp_path, monkeypatch):
    """Killed after its first case, over a folder of another channel: the folder is refused, and right when it is done again."""
    folder = write_dataset(tmp_path / "d", 2)
    prepare(read(folder), tmp_path / "p")
    written = []

    def once(path, case, key, write=module._write):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, case, key)

    monkeypatch.setattr(module, "_write", once)
    with pytest.raises(KeyboardInterrupt):
        prepare(read(folder, (1,)), tmp_path / "p")
    monkeypatch.undo()
    with pytest.raises(DatasetError, match="stopped here before it had finished; run it again"):
        open_prepared(tmp_path / "p")
    again = prepare(read(folder, (1,)), tmp_path / "p")
    for name in again.keys:
        np.testing.assert_array_equal(again.load(name).images[0].stored, load(read(folder, (1,)), name).images[0].stored)


def test_a_folder_of_another_version_is_refused_and_done_again(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "d", 1)
    monkeypatch.setattr(module, "VERSION", module.VERSION - 1)
    before = prepare(read(folder), tmp_path / "p").keys
    monkeypatch.undo()
    with pytest.raises(DatasetError, match="another version"):
        open_prepared(tmp_path / "p")
    assert module.key(read(folder), "case_000", module.VERSION - 1) == before["case_000"]
    assert prepare(read(folder), tmp_path / "p").keys != before


@pytest.mark.parametrize(
    "change", [{"labels": ["other"]}, {"licence": "CC0"}, {"spacing_known": False}, {"validation": ["case_000"]}, {"sha256": ""}], ids=str
)
def test_an_index_that_was_changed_by_hand_is_refused(tmp_path, change):
    folder = write_dataset(tmp_path / "d", 2)
    prepare(read(folder), tmp_path / "p")
    index = tmp_path / "p" / module.INDEX
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(DatasetError, match=r"prepared\.json: not as monet-train prepare wrote it"):
        open_prepared(tmp_path / "p")
    prepare(read(folder), tmp_path / "p")
    assert open_prepared(tmp_path / "p").load("case_000").name == "case_000"


def test_a_damaged_case_is_done_again(tmp_path):
    folder = write_dataset(tmp_path / "d", 1)
    prepare(read(folder), tmp_path / "p")
    path = tmp_path / "p" / "case_000.zip"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="not an intact case"):
        open_prepared(tmp_path / "p").load("case_000")
    prepare(read(folder), tmp_path / "p").load("case_000")


@pytest.mark.parametrize("half", ["hdr", "img", "HDR", "IMG"])
def test_both_halves_of_a_scan_are_in_its_key(tmp_path, half):
    ending = ".IMG" if half.isupper() else ".img"
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / part / "a.img")
        for path in (tmp_path / part).iterdir():
            path.rename(path.with_suffix(path.suffix.upper() if half.isupper() else path.suffix))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "one": 1}, "file_ending": ending}))
    before = module.key(read(tmp_path), "a", module.VERSION)
    path = tmp_path / "imagesTr" / f"a.{half}"
    raw = bytearray(path.read_bytes())
    raw[150 if half.lower() == "hdr" else 9] ^= 1  # a letter of the description, a voxel
    path.write_bytes(raw)
    assert module.key(read(tmp_path), "a", module.VERSION) != before


def test_what_a_version_packs_is_what_it_packed(tmp_path):
    """Whoever changes what `load` makes of a case's files, or what is measured of it, gives `VERSION` a new number, and this test too."""
    folder = write_dataset(tmp_path / "d", 1, "nnunet")
    rng = np.random.default_rng(0)
    scan, label = rng.integers(0, 99, (9, 7, 5)).astype("<i2"), rng.integers(0, 2, (9, 7, 5)).astype(np.uint8)
    affine = np.array([[0, -1, 0, 3], [0, 0, 2, 0], [-1.5, 0, 0, 0], [0, 0, 0, 1.0]])
    for part, array in (("imagesTr/case_000_0000", scan), ("labelsTr/case_000", label)):
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{part}.nii.gz")
    case = prepare(read(folder), tmp_path / "p").load("case_000")
    ref = scan.transpose(0, 2, 1)[::-1, ::-1]
    assert module.VERSION == 6
    np.testing.assert_array_equal(case.images[0].stored, ref)
    np.testing.assert_array_equal(case.label, label.transpose(0, 2, 1)[::-1, ::-1])
    assert case.spacing == (1.5, 2.0, 1.0)
    (found,) = case.statistics
    values = scan[scan > found.floor].astype(float)
    assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std()), rel=1e-6)
