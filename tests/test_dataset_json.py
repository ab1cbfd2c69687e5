"""What dataset.json lists is what is read, from where it says; what would not be read is refused by the name of its entry."""

import codecs
import json
import os

import nibabel
import numpy as np
import pytest

from monet_edge.errors import DatasetError
from monet_train.dataset import load, read
from monet_train.dataset_json import LEAST

LABELS = {"0": "background", "1": "lesion"}


def put(path, value):
    """A scan of 4x4x4 voxels that all are ``value``, by which a test knows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), value, np.uint8), np.eye(4)), path)


def write(folder, files, **about):
    """A data set of such scans, by their values; with a dataset.json that says what is given."""
    for name, value in files.items():
        put(folder / name, value)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, **about}))
    return folder


def entry(image, label):
    return {"image": image, "label": label}


def voxels(dataset):
    """By case: the values of its scan and of its labels."""
    cases = {name: load(dataset, name) for name in dataset.pairs}
    return {name: (int(case.images[0].stored.max()), int(case.label.max())) for name, case in cases.items()}


TWO = {"imagesTr/a.nii.gz": 10, "imagesTr/b.nii.gz": 20, "labelsTr/a.nii.gz": 0, "labelsTr/b.nii.gz": 0}


@pytest.mark.parametrize("spelled", ["./labelsTr2/a.nii.gz", "labelsTr2/a.nii.gz", "imagesTr/../labelsTr2//a.nii.gz"])
def test_labels_are_read_from_where_the_list_says(tmp_path, spelled):
    write(tmp_path, {**TWO, "labelsTr2/a.nii.gz": 1}, training=[entry("imagesTr/a.nii.gz", spelled)])
    assert voxels(read(tmp_path)) == {"a": (10, 1)}


def test_the_least_that_a_missing_file_should_say_is_enough(tmp_path):
    write(tmp_path, {"imagesTr/a.nii.gz": 3, "labelsTr/a.nii.gz": 1})
    (tmp_path / "dataset.json").write_text(LEAST)
    assert voxels(read(tmp_path)) == {"a": (3, 1)}


def test_an_absolute_path_within_the_folder_is_taken(tmp_path):
    write(tmp_path, TWO, training=[entry(str(tmp_path / "imagesTr" / "b.nii.gz"), "labelsTr/b.nii.gz")])
    assert voxels(read(tmp_path)) == {"b": (20, 0)}


def test_pairs_have_names_of_their_own_and_a_validation_list_is_read(tmp_path):
    files = {f"imagesTr/img{i:04d}.nii.gz": i for i in range(1, 4)} | {f"labelsTr/label{i:04d}.nii.gz": i % 2 for i in range(1, 4)}
    listed = [entry(f"imagesTr/img{i:04d}.nii.gz", f"labelsTr/label{i:04d}.nii.gz") for i in range(1, 4)]
    write(tmp_path, files, training=listed[:2], validation=listed[2:], test=["imagesTs/img0009.nii.gz"], numTraining=2)
    found = read(tmp_path)
    assert voxels(found) == {"img0001": (1, 1), "img0002": (2, 0), "img0003": (3, 1)}
    assert found.validation == ("img0003",)
    assert found.warnings == ()


def test_files_of_one_name_in_several_folders_are_several_cases(tmp_path):
    files = {f"sub-0{i}/{part}.nii.gz": value for i in (1, 2) for part, value in (("image", 10 * i), ("label", 1))}
    write(tmp_path, files, training=[entry(f"sub-0{i}/image.nii.gz", f"sub-0{i}/label.nii.gz") for i in (1, 2)])
    assert voxels(read(tmp_path)) == {"sub-01_image": (10, 1), "sub-02_image": (20, 1)}


def test_nnunets_table_of_cases_is_read(tmp_path):
    files = {"x/flair.nii.gz": 10, "x/t1.nii.gz": 11, "y/labels.nii.gz": 1, "imagesTr/other_0000.nii.gz": 3}
    table = {"Smith": {"images": ["x/flair.nii.gz", "x/t1.nii.gz"], "label": "y/labels.nii.gz"}}
    write(tmp_path, files, dataset=table, channel_names={"0": "FLAIR", "1": "T1"})
    assert voxels(read(tmp_path)) == {"Smith": (10, 1)}
    found = read(tmp_path, (1,))
    assert int(load(found, "Smith").images[0].stored.max()) == 11
    assert found.modality == "T1"
    assert found.warnings == ("imagesTr/other_0000.nii.gz is not read: dataset.json means other files",)
    with pytest.raises(DatasetError, match=r"dataset\['Smith'\] has no volume 2; it lists 2"):
        read(tmp_path, (2,))


def test_a_listed_scan_with_nnunets_channels_is_found(tmp_path):
    files = {"imagesTr/a_0000.nii.gz": 10, "imagesTr/a_0001.nii.gz": 11, "labelsTr/a.nii.gz": 1}
    write(tmp_path, files, training=[entry("imagesTr/a.nii.gz", "labelsTr/a.nii.gz")])
    assert int(load(read(tmp_path), "a").images[0].stored.max()) == 10
    assert int(load(read(tmp_path, (1,)), "a").images[0].stored.max()) == 11
    assert read(tmp_path).warnings == ()  # another channel of a case is none of its own
    write(tmp_path, files, training=[entry("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")])
    assert voxels(read(tmp_path)) == {"a": (10, 1)}


A, B = entry("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"), entry("imagesTr/b.nii.gz", "labelsTr/b.nii.gz")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"training": [A, entry("imagesTr/b.nii.gz", "labelsTr9/b.nii.gz")]}, r"b has no labels: training\[1\] says labelsTr9/b.nii.gz"),
        ({"training": [entry("imagesTr/c.nii.gz", "labelsTr/a.nii.gz")]}, r"c has no scan: training\[0\]"),
        ({"training": [A], "validation": [entry("b.nii.gz", "labelsTr/b.nii.gz")]}, r"validation\[0\] says b.nii.gz"),
        ({"training": [entry("imagesTr", "labelsTr/a.nii.gz")]}, r"training\[0\] says imagesTr, and there is no such file"),
        ({"training": [A, entry("../out/b.nii.gz", "labelsTr/b.nii.gz")]}, r"training\[1\] says ../out/b.nii.gz, which lies outside"),
        ({"training": [entry("imagesTr/a.nii.gz", "/etc/hosts")]}, r"training\[0\] says /etc/hosts, which lies outside"),
        ({"training": [entry("imagesTr/a.nii.gz", "labelsTr/../../d2/a.nii.gz")]}, "lies outside"),
        ({"training": [A, entry("./imagesTr/a.nii.gz", "labelsTr/b.nii.gz")]}, r"training\[0\] and training\[1\] are the same scan"),
        ({"training": [A, A]}, "are the same scan"),
        ({"training": [A], "validation": [A]}, r"training\[0\] and validation\[0\] are the same scan"),
        ({"training": [entry("imagesTr/a.nii.gz", "imagesTr/a.nii.gz")]}, r"training\[0\] gives .* as scan and as labels"),
        ({"training": [A, "imagesTr/b.nii.gz"]}, r"training must list every case .* found training\[1\] 'imagesTr/b.nii.gz'"),
        ({"training": [{"image": "imagesTr/a.nii.gz"}]}, r"training\[0\]"),
        ({"training": [entry("imagesTr/a.nii.gz", None)]}, r"training\[0\] must name files, found None"),
        ({"training": [entry("imagesTr/a.nii.gz", "")]}, r"training\[0\] must name files"),
        ({"training": [entry([], "labelsTr/a.nii.gz")]}, r"training\[0\] must name files"),
        ({"training": "imagesTr"}, "training must list every case"),
        ({"validation": {"a": 1}}, "validation must list every case"),
        ({"dataset": {"../x": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}}, r"dataset\['../x'\]"),
        ({"dataset": {"x": {"images": ["imagesTr/a.nii.gz"]}}}, r"dataset\['x'\]: expected"),
        ({"training": [A], "dataset": {"x": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/b.nii.gz"}}}, "are the same scan"),
    ],
)
def test_an_entry_that_would_not_be_read_is_named(tmp_path, about, words):
    with pytest.raises(DatasetError, match=words):
        read(write(tmp_path / "d", TWO, **about))


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_scan_under_two_names_is_no_two_cases(tmp_path, link):
    """Else it could train under one and validate under the other."""
    write(tmp_path, TWO, training=[A], validation=[entry("imagesTr/c.nii.gz", "labelsTr/b.nii.gz")])
    link(tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "imagesTr" / "c.nii.gz")
    with pytest.raises(DatasetError, match=r"training\[0\] and validation\[0\] are the same scan"):
        read(tmp_path)


def test_two_entries_of_one_name_are_refused(tmp_path):
    files = {"a/b_c.nii.gz": 1, "a_b/c.nii.gz": 2, "a/c.nii.gz": 3, "l.nii.gz": 1}
    listed = [entry(name, "l.nii.gz") for name in ("a/b_c.nii.gz", "a_b/c.nii.gz", "a/c.nii.gz")]
    with pytest.raises(DatasetError, match=r"training\[0\] and training\[1\] would both be called a_b_c"):
        read(write(tmp_path, {**files, "a/b_c.nii.gz": 1}, training=listed))


def test_what_is_not_read_is_said(tmp_path):
    files = {**TWO, "imagesTr/c.nii.gz": 1, "labelsTr/c.nii.gz": 1, "imagesTr/old.nii": 1}
    found = read(write(tmp_path, files, training=[A, B], numTraining=3, test=[entry("imagesTs/t.nii.gz", "labelsTs/t.nii.gz")]))
    assert list(found.pairs) == ["a", "b"]
    assert found.warnings == (
        "dataset.json: numTraining says 3, there are 2 cases",
        "dataset.json: the 1 entries of test are not read; cases are listed under training or validation",
        "imagesTr/c.nii.gz, imagesTr/old.nii, labelsTr/c.nii.gz are not read: dataset.json means other files",
    )
    found = read(write(tmp_path / "n", {f"{name[:10]}_0000.nii.gz" if "images" in name else name: 1 for name in TWO}, numTraining=5))
    assert found.warnings == ("dataset.json: numTraining says 5, there are 2 cases",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_json_is_read_in_every_encoding_it_may_have(tmp_path, encoding):
    write(tmp_path, TWO)
    text = json.dumps({"labels": LABELS, "name": "Röntgen"}, ensure_ascii=False)
    (tmp_path / "dataset.json").write_bytes(text.encode(encoding))
    assert (codecs.BOM_UTF8 in text.encode(encoding)) == (encoding == "utf-8-sig")
    assert read(tmp_path).name == "Röntgen"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ('{"background": 0, "a": 1, "b": 1}', "without gaps"),
        ('{"background": 0, "a": 1.7}', "must map"),
        ('{"background": 0, "a": true}', "must map"),
        ('{"background": 0, "whole": [1, 2]}', "must map"),
        ('{"0": "background", "1": "a", "2": "a"}', "of its own"),
        ('{"0": "background", "1": "a", "1": "b"}', "'1' stands twice"),
        ('{"0": "background", "2": "a"}', "without gaps"),
        ('{"background": 1, "a": 0}', "0 is the background, whatever its name"),
        ('{"0": "a", "1": "Background"}', "0 is the background, whatever its name"),
        ('{"background": 0, "a": 1e999}', "must map"),
        ('{"0": "background", "1": null}', "must map"),
        ('{"background": 0, "a": 1, "ignore": 1}', "of its own"),
        ('{"0": "background", "1": ["a", "b"]}', "must map"),
        (json.dumps({str(i): f"l{i}" for i in range(257)}), "at most 255 labels"),
    ],
)
def test_a_table_that_means_two_things_is_refused(tmp_path, labels, words):
    write(tmp_path, TWO)
    (tmp_path / "dataset.json").write_text(f'{{"labels": {labels}}}')
    with pytest.raises(DatasetError, match=words):
        read(tmp_path)


def test_a_link_in_the_folder_may_lead_out_of_it(tmp_path):
    write(tmp_path / "real", TWO)
    (tmp_path / "d").mkdir()
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "d" / name).symlink_to(tmp_path / "real" / name)
    write(tmp_path / "d", {}, training=[A])
    assert voxels(read(tmp_path / "d")) == {"a": (10, 0)}
