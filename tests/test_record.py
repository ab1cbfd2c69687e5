"""What a run leaves behind besides masks: tables, records, pictures and pages, and nobody's name in any of them."""

import csv
import io
import json
import os
from pathlib import Path
from types import MappingProxyType

import nibabel
import numpy as np
import pytest
from scans import blob, image_of
from typer.testing import CliRunner

import monet_edge
from monet_edge import errors
from monet_edge.cli import app
from monet_edge.job import Job
from monet_edge.pipeline import Outcome
from monet_edge.report.statistics import LabelStatistics
from monet_edge.runs import record
from monet_edge.runs.table import write_table

runner = CliRunner()
NAME = "DOE^JOHN"


def outcome(labels, warnings=(), times=MappingProxyType({})):
    return Outcome(Job(Path("a.nii"), Path("m.nii")), labels, warnings, times)


@pytest.fixture
def call(weights_file):
    return lambda *arguments: runner.invoke(app, ["segment", *map(str, arguments), "-m", str(weights_file)])


@pytest.fixture
def folder(tmp_path, rng):
    """Five scans, the third of them broken, in a folder and with headers that hold a name."""
    folder = tmp_path / f"{NAME} 1954"
    folder.mkdir()
    for i in range(5):
        image = image_of(blob(rng))
        image.header["descrip"] = image.header["db_name"] = image.header["aux_file"] = image.header["intent_name"] = NAME
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", NAME.encode()))
        nibabel.save(image, folder / f"{NAME}_{i}.nii.gz")
    broken = folder / f"{NAME}_2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    return folder


def everything(folder, tmp_path, *more):
    out = tmp_path / "out"
    asked = ["--preview", "--report", out, "--stats", tmp_path / "s.json", "--run-record", tmp_path / "run.json"]
    return [folder, "-o", out, *asked, *more], out


def test_a_folder_with_a_broken_scan_gives_one_table(call, folder, tmp_path):
    arguments, out = everything(folder, tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    assert "4 of 5 scans segmented" in result.stdout
    assert len(list(out.glob("*_preview.png"))) == len(list(out.glob("*_report.html"))) == len(list(out.glob("*_seg.nii.gz"))) == 4
    for scans in (json.loads((tmp_path / name).read_text())["scans"] for name in ("s.json", "run.json")):
        assert [scan["scan"] for scan in scans] == [1, 2, 3, 4, 5]
        assert [scan.get("error") for scan in scans] == [None, None, "the scan cannot be read", None, None]
        for i in (0, 4):
            mask = np.asanyarray(nibabel.load(out / f"{NAME}_{i}_seg.nii.gz").dataobj)
            assert scans[i]["labels"][0]["voxels"] == mask.sum()


def test_the_same_folder_as_csv(call, folder, tmp_path):
    call(folder, "-o", tmp_path / "out", "--stats", tmp_path / "s.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [row["scan"] for row in rows] == list("12345")
    assert rows[2]["error"]
    assert rows[2]["voxels"] == ""


def texts(tmp_path, out):
    """What people pass on: tables, records, pictures, pages, and the headers of the masks."""
    files = [tmp_path / "s.json", tmp_path / "run.json", *out.glob("*.png"), *out.glob("*.html")]
    found = {path.name: path.read_bytes() for path in files if path.exists()}
    found |= {path.name: nibabel.load(path).header.binaryblock for path in out.glob("*_seg.nii.gz")}
    assert len(found) == 14
    return found


def test_no_name_gets_into_anything(call, folder, tmp_path):
    arguments, out = everything(folder, tmp_path)
    call(*arguments)
    for name, text in texts(tmp_path, out).items():
        for trace in (NAME, "JOHN", str(tmp_path), "1954"):
            assert trace.encode() not in text, (name, trace)


def test_all_results_are_named_after_the_mask(call, folder, tmp_path):
    (tmp_path / "out").mkdir()
    call(folder / f"{NAME}_0.nii.gz", "-o", tmp_path / "out" / "case7.nii.gz", "--preview", "--probabilities", "--report", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"case7.nii.gz", "case7_preview.png", "case7_prob.nii.gz", "case7_report.html"}


def test_names_are_there_when_asked_for(call, folder, tmp_path):
    arguments, out = everything(folder, tmp_path, "--with-identifiers")
    call(*arguments)
    for name in ("s.json", "run.json"):
        scans = json.loads((tmp_path / name).read_text())["scans"]
        assert scans[0]["path"] == str(folder / f"{NAME}_0.nii.gz")
        assert NAME in scans[2]["error"]
    assert NAME in (out / f"{NAME}_0_report.html").read_text()


def test_the_record_says_what_was_run(call, folder, tmp_path, weights_file):
    scan = folder / f"{NAME}_0.nii.gz"
    call(scan, "--run-record", tmp_path / "run.json", "--threshold", 0.3, "--threads", 2, "--keep-largest")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["model"]["sha256"] == monet_edge.load(weights_file).weights.sha256
    assert run["threads"] == 2
    assert run["options"]["threshold"] == 0.3
    assert run["options"]["keep_largest"] is True
    assert run["versions"]["monet-edge"] == monet_edge.__version__
    assert run["versions"]["numpy"] == np.__version__
    assert set(run["scans"][0]["seconds"]) == {"read", "segment", "clean", "write", "measure", "show"}
    assert run["peak_memory_mb"] > 50
    assert run["cpu"]
    assert "not a medical device" in run["disclaimer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stats", "{folder}/table.txt"], ".json or .csv"),
        (["--stats", "{there}"], "exists already"),
        (["--run-record", "{there}"], "exists already"),
        (["--run-record", "{file}", "--overwrite"], "written as .json. Choose such a name for --run-record"),
        (["--run-record", "{folder}/none/run.json"], "no such folder"),
        (["--stats", "{scan}", "--overwrite"], ".json or .csv"),
        (["--run-record", "{scan}", "--overwrite"], "is the input itself"),
        (["--stats", "{folder}/a.json", "--run-record", "{folder}/a.json"], "Choose another --run-record"),
        (["--stats", "{folder}/none/s.csv"], "choose another --stats"),
        (["--report", "{there}/x/report.html"], "no such folder"),
        (["--report", "{folder}/report.txt"], "neither a folder that exists nor a name in .html"),
        (["-o", "{there}", "--overwrite"], "neither a folder"),
        (["-o", "{file}", "--overwrite"], "cannot be made a folder: File exists"),
        (["-o", "{file}/mask.nii.gz"], "no such folder"),
        (["-o", "{pipe}", "--overwrite"], "is not a regular file. Choose another --output"),
        (["--run-record", "{pipe}", "--overwrite"], "is not a regular file. Choose another --run-record"),
        (["--report", "{file}", "--overwrite"], "cannot be made a folder: File exists"),
        (["--stats", "{file}", "--overwrite"], ".json or .csv"),
        (["-o", "{dangling}"], "cannot be made a folder: File exists"),
        (["-o", "{dangling}/mask.nii.gz"], "a link to nowhere, which is not there"),
        (["-o", "{folder}/mask.npy"], "neither a folder that exists nor a name in .nii.gz or .nii"),
        (["-o", "{folder}/mask.NII.GZ"], "Choose such a name for --output, or make the folder"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(arguments, message, call, folder, tmp_path, monkeypatch):
    scan = folder / f"{NAME}_0.nii.gz"
    there = tmp_path / "there.json"
    there.write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    places = {"there": there, "file": tmp_path / "file", "pipe": tmp_path / "pipe.nii.gz", "dangling": tmp_path / "dangling"}
    monkeypatch.setattr("monet_edge.cli.segment.load_model", lambda *_: pytest.fail("begins"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = call(scan, *(part.format(folder=tmp_path, scan=scan, **places) for part in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_file_in_the_place_of_a_folder_is_noticed_before_the_work_on_many(option, call, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    monkeypatch.setattr("monet_edge.cli.segment.load_model", lambda *_: pytest.fail("begins"))
    result = call(folder, option, tmp_path / "file", "--overwrite")
    assert result.exit_code == 2
    assert f"{tmp_path / 'file'}: cannot be made a folder: File exists" in result.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_the_masks_carry_the_labels_names(call, folder, tmp_path, weights_file):
    scan = folder / f"{NAME}_0.nii.gz"
    call(scan, "-o", tmp_path / "mask.nii.gz")
    for image in (nibabel.load(tmp_path / "mask.nii.gz"), monet_edge.load(weights_file).segment(scan)):
        (extension,) = image.header.extensions
        assert b">blob</Label>" in extension.content


def test_several_reports_need_a_folder(call, folder, tmp_path):
    result = call(folder, "-o", tmp_path / "out", "--report", tmp_path / "report.html")
    assert result.exit_code == 2
    assert "Give a folder as --report" in result.stderr


def test_min_volume_removes_and_says_so(call, folder, tmp_path):
    scan = folder / f"{NAME}_0.nii.gz"
    result = call(scan, "--min-volume", 1000, "--stats", tmp_path / "s.json")
    assert result.exit_code == 0
    assert "every piece was smaller than 1000 ml" in result.stderr
    assert json.loads((tmp_path / "s.json").read_text())["scans"][0]["labels"][0]["voxels"] == 0


def test_every_kind_of_failure_has_words_without_names():
    for error in (errors.ScanError(NAME), errors.OutputError(NAME), errors.ModelError(NAME), MemoryError(NAME), KeyError(NAME)):
        told = record.entry(1, None, error)["error"]
        assert told
        assert NAME not in told


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t"])
def test_no_cell_is_a_formula(first, tmp_path):
    """In a file name, a label or a warning; numbers below zero stay numbers."""
    text = f"{first}1+cmd|' /C calc'!A0"
    label = LabelStatistics(1, text, 1, 0.1, ((0, 0, 0), (0, 0, 0)), (-1.5, 0.0, 2.0), -7.0, 1.0, -8.0, -6.0, ())
    scans = [record.entry(1, Path(text), outcome([label], [text])), record.entry(2, Path("b"), errors.ScanError(text))]
    write_table(tmp_path / "s.csv", "tiny", scans, overwrite=False)
    one, two = csv.DictReader(io.StringIO((tmp_path / "s.csv").read_bytes().decode(), newline=""))
    assert one["path"] == one["name"] == one["warnings"] == two["error"] == f"'{text}"
    assert (one["centroid_mm_x"], one["mean"]) == ("-1.5", "-7.0")


@pytest.mark.parametrize(
    ("value", "told"), [(1234.56789, 1234.57), (0.000123456789, 0.000123457), (-98765432.1, -98765400.0), (np.inf, None)]
)
def test_intensities_and_places_have_six_digits(value, told):
    label = LabelStatistics(1, "a", 1, 0.1, ((0, 0, 0), (0, 0, 0)), (-1.23456, 0.005, 1234.5678), value, value, value, value, ())
    (entry,) = record.entry(1, None, outcome([label]))["labels"]
    assert [entry[key] for key in ("mean", "sd", "minimum", "maximum")] == [told] * 4
    assert entry["centroid_mm"] == [-1.23456, 0.005, 1234.57]  # two decimals would be nothing in a mouse


def test_seconds_have_three_digits():
    assert record.entry(1, None, outcome([], times={"read": 1.23456, "segment": 0.00049}))["seconds"] == {"read": 1.235, "segment": 0.0}
