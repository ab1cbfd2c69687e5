"""Dice against training patients: fewer are part of more, no training is done twice, page and figure are those of the record."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks import patients, patients_page
from monet_edge import phantom
from monet_train.dataset import read
from monet_train.prepare import prepare

SPLIT = {"train": [f"patient{i}_frame{k}" for i in range(6) for k in (1, 2)], "val": ["patient6_frame1", "patient6_frame2"]}


@pytest.mark.parametrize("seed", [0, 1])
def test_fewer_patients_are_part_of_more_with_all_of_their_scans(seed):
    parts = [patients.subset(SPLIT, count, seed) for count in (1, 2, 5)]
    names = [part["train"] for part in parts]
    assert list(map(len, names)) == [2, 4, 10]
    assert names[0] == names[1][:2]
    assert names[1] == names[2][:4]
    assert {name[:-1] for name in names[0]} == {names[0][0][:-1]}
    assert all(part["val"] == SPLIT["val"] for part in parts)


def test_another_seed_is_another_order():
    assert len({tuple(patients.subset(SPLIT, 5, seed)["train"]) for seed in range(4)}) > 1


@pytest.mark.slow
def test_no_training_is_done_twice(tmp_path):
    folder = tmp_path / "data"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    names = ("patient0_frame1", "patient1_frame1")
    for seed, name in enumerate(names):
        image, mask = phantom.make(seed, (4, 32, 32))
        phantom.save(image, folder / "imagesTr" / f"{name}.nii.gz")
        phantom.save(mask, folder / "labelsTr" / f"{name}.nii.gz")
    (folder / "dataset.json").write_text('{"name": "hearts", "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}', "utf-8")
    prepare(read(folder), folder / "prepared")
    (folder / "splits.json").write_text(json.dumps([{"train": names[:1], "val": names[1:]}]), "utf-8")
    words = ["run", str(folder / "prepared"), "--splits", str(folder / "splits.json"), "-o", str(tmp_path / "out"), "--count", "1"]
    words += ["--seed", "3", "--steps", "1", "--size", "32", "--device", "cpu"]
    first, second = (CliRunner().invoke(patients.app, words, catch_exceptions=False).output for _ in range(2))
    assert "scratch-1-seed3: Dice" in first
    assert "abdomen-mr-1-seed3: Dice" in first
    assert not second
    rows = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "out").iterdir()]
    assert {row["start"] for row in rows} == {"scratch", "abdomen-mr"}
    assert all(list(row["dice"]["lesion"]) == ["patient1_frame1"] for row in rows)
    assert "| 1 | 3 |" in patients_page.page(rows)


def test_page_and_figure_are_those_of_the_record(tmp_path):
    found = json.loads(patients.RESULTS.read_text("utf-8"))
    assert patients.PAGE.read_text("utf-8") == patients_page.page(found)
    patients_page.draw(found, tmp_path / "p.svg")
    for path in (patients.FIGURE, tmp_path / "p.svg"):
        assert all(title in path.read_text("utf-8") for title, _ in patients_page.LINES.values())
