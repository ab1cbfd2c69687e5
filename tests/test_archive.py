"""Runs over archives: which scans, which part of them, what is there already, and the records that stay."""

import gzip
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from fuzz.build import gz, head, nifti
from processes import HANGS
from typer.testing import CliRunner

from monet_edge import formats, limits, weights
from monet_edge.cli import app
from monet_edge.errors import MonetError, OutputError, ResourceError
from monet_edge.job import make_job
from monet_edge.model import Model
from monet_edge.options import _BESIDE, Options, RunOptions
from monet_edge.runs import Found, Part, find_scans, make_plan, parse_part
from monet_edge.runs.here import Here
from monet_edge.runs.run import run_all
from monet_edge.runs.summary import Summary
from monet_edge.runs.task import Task, do, prepare
from monet_edge.runs.there import State, state
from monet_edge.terminal import RunProgress
from monet_edge.ways import slices

runner = CliRunner()
SHAPE = (32, 32, 4)


@pytest.fixture
def archive(tmp_path):
    """Six scans in a tree, two of one name, and what is none."""
    folder = tmp_path / "archive"
    for name in ("b/x.nii", "b/deep/x.nii.gz", "b/deep/z.nii", "a/y.nii", "w.nii", "a/more/v.nii"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = nifti(head(SHAPE))
        path.write_bytes(gz(raw) if name.endswith("gz") else raw)
    (folder / "a" / "notes.txt").write_text("none")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "h.nii").write_bytes(nifti(head(SHAPE)))
    return folder


@pytest.fixture
def segment(archive, tmp_path, weights_file):
    """The command over the archive, one thread, into the folder masks."""

    def call(*more, model=weights_file, scans=(archive,), **options):
        arguments = ["segment", *scans, "-o", tmp_path / "masks", "-m", model, "--threads", 1, *more]
        return runner.invoke(app, list(map(str, arguments)), **options)

    return call


def masks(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*_seg.nii.gz"))}


ALL = ["w.nii", "a/y.nii", "a/more/v.nii", "b/x.nii", "b/deep/x.nii.gz", "b/deep/z.nii"]
TREE = {"w_seg.nii.gz", "a/y_seg.nii.gz", "a/more/v_seg.nii.gz", "b/x_seg.nii.gz", "b/deep/x_seg.nii.gz", "b/deep/z_seg.nii.gz"}


# ---- which scans ----


def test_folders_are_walked_and_their_tree_is_kept(archive, segment, tmp_path):
    assert [str(one.scan.relative_to(archive)) for one in find_scans([archive])] == ALL
    result = segment("--report", tmp_path / "pages")
    assert result.exit_code == 0, result.output
    assert set(masks(tmp_path / "masks")) == TREE
    pages = {str(path.relative_to(tmp_path / "pages")) for path in (tmp_path / "pages").rglob("*.html")}
    assert pages == {name.replace("_seg.nii.gz", "_report.html") for name in TREE}


def test_links_are_followed_and_no_folder_is_walked_twice(archive, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.nii").write_bytes(nifti(head(SHAPE)))
    for name, target in (("loop", archive), ("up", tmp_path), ("c", elsewhere), ("d", elsewhere)):
        (archive / "a" / name).symlink_to(target)
    found = [one.scan for one in find_scans([archive])]
    assert len(found) == 7
    assert archive / "a" / "c" / "far.nii" in found


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_list_says_which_scans(archive, ending, tmp_path):
    (tmp_path / "some.txt").write_bytes(f"b/x.nii{ending}{ending}a/y.nii{ending}b/x.nii".encode())
    found = find_scans([archive], tmp_path / "some.txt")
    assert found == [Found(archive / "b/x.nii", archive), Found(archive / "a/y.nii", archive)]
    assert [str(one.branch) for one in found] == ["b", "a"]


def test_a_table_of_scans_has_a_column_of_paths(archive, tmp_path):
    for text in ('\ufeffcase,path\r\n1,"b/x.nii"\r\n2,a/y.nii\r\n', "b/x.nii,1\na/y.nii,2\n"):
        (tmp_path / "some.csv").write_text(text, encoding="utf-8", newline="")
        found = find_scans([archive], tmp_path / "some.csv")
        assert [one.scan for one in found] == [archive / "b/x.nii", archive / "a/y.nii"]


def test_a_list_from_standard_input_names_paths_from_here_or_anywhere(archive, tmp_path, monkeypatch, segment):
    monkeypatch.chdir(archive)
    result = segment("--list", "-", scans=(), input=f"b/x.nii\n{archive / 'a/y.nii'}\n")
    assert result.exit_code == 0, result.output
    assert set(masks(tmp_path / "masks")) == {"b/x_seg.nii.gz", "y_seg.nii.gz"}  # a path from elsewhere has no branch here


def test_a_path_that_leaves_the_folder_leaves_no_result_outside(archive, tmp_path):
    (tmp_path / "some.txt").write_text("../other/x.nii\n")
    (job,) = make_plan([archive], tmp_path / "masks", Options(), RunOptions(list=tmp_path / "some.txt", skip_existing=True)).jobs
    assert job.mask == tmp_path / "masks" / "x_seg.nii.gz"


@pytest.mark.parametrize(
    ("paths", "text", "message"),
    [
        (["{archive}"], None, "this list cannot be read: No such file"),
        (["{archive}"], "\n", "holds no path"),
        (["{archive}/w.nii"], "w.nii", "not a folder; beside a list"),
        ([], None, "no scan. Name scans or folders, or give --list"),
    ],
)
def test_what_is_no_list_is_refused(archive, tmp_path, segment, paths, text, message):
    more = [] if not paths else ["--list", tmp_path / "some.txt"]
    if text is not None:
        (tmp_path / "some.txt").write_text(text)
    result = segment(*more, scans=[path.format(archive=archive) for path in paths])
    assert result.exit_code == 2
    assert message in result.stderr


# ---- parts ----


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_parts_are_everything_and_nothing_twice(count):
    scans = list(range(17))
    parts = [list(Part(i + 1, count).of(scans)) for i in range(count)]
    assert sorted(scan for part in parts for scan in part) == scans
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("first", [0, 1, 5])
def test_an_array_of_slurm_counts_from_wherever_it_likes(first):
    def part(task):
        names = {"ID": task, "COUNT": 4, "MIN": first, "MAX": first + 3}
        return parse_part("slurm", {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in names.items()})

    assert sorted(part(first + i).index for i in range(4)) == [1, 2, 3, 4]
    assert part(first).count == 4


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/3/5", "-1/3", "Slurm"])
def test_no_part_is_guessed(text):
    with pytest.raises(MonetError, match="expected I/N with I from 1 to N"):
        parse_part(text, {})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "are not set: this is no task"),
        ({"ID": "3"}, "are not set"),
        ({"ID": "4", "COUNT": "3", "MIN": "0", "MAX": "4"}, "expected numbers that follow each other"),  # --array=0-4:2
    ],
)
def test_an_array_whose_tasks_might_share_a_part_is_refused(names, message):
    with pytest.raises(MonetError, match=message):
        parse_part("slurm", {f"SLURM_ARRAY_TASK_{name}": number for name, number in names.items()})


def test_a_part_is_done_and_no_more(segment, tmp_path):
    for i in range(4):
        result = segment("--part", f"{i + 1}/4", "--records", tmp_path / "records")
        assert result.exit_code == 0, result.output
        assert len(masks(tmp_path / "masks")) == (2, 4, 5, 6)[i]
    assert segment("--part", "9/9").exit_code == 0  # more parts than scans: nothing to do is no error
    assert len(list((tmp_path / "records").glob("part*of4-*.jsonl"))) == 4


def test_two_results_of_one_name_are_noticed_though_they_are_in_two_parts(tmp_path, weights_file):
    scans = [tmp_path / name / "x.nii" for name in "ab"]
    with pytest.raises(OutputError, match="would both be written"):
        make_plan(scans, tmp_path / "masks", Options(), RunOptions(part="1/2"))


# ---- what is there already ----


def test_what_is_done_is_not_done_again(segment, tmp_path):
    assert segment().exit_code == 0
    before = {name: path.stat().st_ino for name, path in masks(tmp_path / "masks").items()}
    (tmp_path / "masks/a/y_seg.nii.gz").unlink()
    result = segment("--skip-existing", "--stats", tmp_path / "s.json", "--records", tmp_path / "r.jsonl")
    assert result.exit_code == 0, result.output
    assert "5 of 6 scans are done already" in result.stdout
    assert "1 of 1 scans segmented" in result.stdout
    after = {name: path.stat().st_ino for name, path in masks(tmp_path / "masks").items()}
    assert {name for name in after if after[name] != before[name]} <= {"a/y_seg.nii.gz"}
    rows = json.loads((tmp_path / "s.json").read_text())["scans"]
    assert ["its results were there already" in row["warnings"] for row in rows] == [True, False, True, True, True, True]
    assert [json.loads(line).get("scan") for line in (tmp_path / "r.jsonl").read_text().splitlines()] == [None, "a/y.nii"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def grow(path):
    path.write_bytes(path.read_bytes() + b"more")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, grow, empty])
def test_a_damaged_result_is_done_anew(segment, tmp_path, damage):
    segment()
    path = tmp_path / "masks/b/x_seg.nii.gz"
    whole = path.read_bytes()
    damage(path)
    result = segment("--skip-existing")
    assert result.exit_code == 0, result.output
    assert "5 of 6 scans are done already; done anew: 1 damaged" in result.stdout
    assert path.read_bytes() == whole


def test_results_of_other_options_are_refused_or_done_anew_as_one_chooses(segment, tmp_path):
    segment()
    before = masks(tmp_path / "masks")["w_seg.nii.gz"].stat().st_ino
    result = segment("--skip-existing", "--flip")
    assert result.exit_code == 2
    assert "w_seg.nii.gz and 5 more: of another model or other options. Say --overwrite to do these anew" in result.stderr
    assert masks(tmp_path / "masks")["w_seg.nii.gz"].stat().st_ino == before
    result = segment("--skip-existing", "--flip", "--overwrite")
    assert "done anew: 6 of another model or other options" in result.stdout
    assert "6 of 6 scans are done already" in segment("--skip-existing", "--flip").stdout


def test_a_mask_of_somebody_elses_is_never_replaced(segment, tmp_path):
    segment()
    path = tmp_path / "masks/w_seg.nii.gz"
    path.write_bytes(gz(nifti(head(SHAPE))))
    drawn = path.read_bytes()
    result = segment("--skip-existing")
    assert result.exit_code == 1
    assert "w_seg.nii.gz exists already" in result.stderr
    assert path.read_bytes() == drawn


def test_a_picture_that_is_missing_is_drawn_with_its_mask_anew(segment, tmp_path):
    segment("--preview")
    (tmp_path / "masks/a/y_preview.png").unlink()
    result = segment("--skip-existing", "--preview")
    assert "5 of 6 scans are done already; done anew: 1 damaged" in result.stdout
    assert (tmp_path / "masks/a/y_preview.png").exists()


def test_no_picture_of_an_older_mask_stays_beside_a_new_one(archive, tmp_path, weights_file, monkeypatch):
    """Killed between the mask and its picture, the next run would take both for done."""
    model, options = Model(weights.load(weights_file), 1), Options(preview=True)
    job = make_job(archive / "w.nii", tmp_path / "w_seg.nii.gz", options)
    task = Task(0, job, options)
    do(task, model, prepare(task, ""))
    monkeypatch.setattr("monet_edge.pipeline._show", lambda *_: sys.exit("killed"))
    with pytest.raises(SystemExit):
        do(replace(task, anew=True), model, prepare(replace(task, anew=True), ""))
    assert state(job, options.key(model.weights.sha256)) is State.DAMAGED


OTHER_VALUES = {
    "threshold": 0.3,
    "volume": 0,
    "series": "2",
    "flip": True,
    "keep_largest": True,
    "min_volume": 0.5,
    "spacing": (1.0, 2.0, 3.0),
}


def test_every_option_that_decides_a_mask_is_in_its_key():
    deciding = {field.name for field in fields(Options)} - set(_BESIDE)
    assert deciding == set(OTHER_VALUES)
    keys = {Options().key("a"), Options().key("b"), *(Options(**{name: value}).key("a") for name, value in OTHER_VALUES.items())}
    assert len(keys) == 2 + len(OTHER_VALUES)
    assert all(len(key) == 16 for key in keys)
    assert Options(preview=True, overwrite=True).key("a") == Options().key("a")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
@pytest.mark.parametrize("array", [np.ones((5, 4, 3), np.uint8), np.ones((5, 4, 3, 2), np.float32)], ids=["mask", "probability"])
def test_a_seal_says_what_a_header_says(put, version, name, array):
    scan = formats.read(put(nifti(np.zeros((5, 4, 3), np.int16), version=version)))
    path = put(b"", name)
    formats.write(path, array, like=scan, labels=("blob",), key="0123456789abcdef", overwrite=True)
    assert formats.peek(path).ours
    assert formats.seal(path) == formats.Seal("0123456789abcdef", True)
    raw = path.read_bytes()
    for end in (len(raw) - 1, len(raw) - 9, len(raw) - 20):
        path.write_bytes(raw[:end])
        assert formats.seal(path) == formats.Seal("0123456789abcdef", False)
    formats.write(path, array, like=scan, overwrite=True)  # by the library, of no model
    assert formats.seal(path) == formats.Seal("", True)
    assert formats.seal(put(nifti(), "other.nii")) is None


def test_no_file_upsets_a_seal(put, rng):
    """Random bytes, and those of a mask with some of them changed: each is a seal or none."""
    scan = formats.read(put(nifti()))
    path = put(b"", "mask.nii")
    formats.write(path, np.ones(scan.shape, np.uint8), like=scan, key="0123456789abcdef", overwrite=True)
    raw = path.read_bytes()
    for i in range(600):
        data = bytearray(raw)
        for at in rng.integers(0, 400, 3):
            data[at] = rng.integers(256)
        if i % 3 == 0:
            data = bytearray(gzip.compress(bytes(data)))
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        if i % 3 == 1:
            data = data[: rng.integers(len(data))]
        path.write_bytes(data)
        found = formats.seal(path)
        assert found is None or isinstance(found, formats.Seal)


# ---- records ----


def test_records_say_what_became_of_every_scan_to_their_owner_alone(segment, archive, tmp_path):
    (archive / "b" / "x.nii").write_bytes(nifti(head(SHAPE))[:-9])
    old = os.umask(0)
    try:
        result = segment("--records", tmp_path / "run.jsonl", "--stats", tmp_path / "s.csv", "--run-record", tmp_path / "run.json")
    finally:
        os.umask(old)
    assert result.exit_code == 1
    assert result.stderr.count("will hold the scans' paths") == 1
    assert stat.S_IMODE((tmp_path / "run.jsonl").stat().st_mode) == 0o600
    begun, *lines = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    assert (begun["scans"], begun["there"], begun["part"]) == (6, 0, None)
    assert len(begun["sha256"]) == 64
    by_scan = {line["scan"]: line for line in lines}
    assert sorted(by_scan) == sorted(ALL)
    broken = by_scan.pop("b/x.nii")
    assert broken["error"] == "ScanError"
    assert "truncated" in broken["text"]
    for line in by_scan.values():
        assert line["slices"] == 4
        assert set(line["volumes"]) == {"blob"}
        assert sum(line["seconds"].values()) > 0
        assert line["host"]
    for path in ("s.csv", "run.json"):
        assert str(archive) not in (tmp_path / path).read_text()


def test_a_scan_that_fails_alone_is_in_records_and_tables_too(segment, tmp_path):
    scan = tmp_path / "x.nii.gz"
    scan.write_bytes(gz(nifti(head(SHAPE)))[:-9])
    result = segment("--records", tmp_path / "run.jsonl", "--stats", tmp_path / "s.csv", scans=(scan,))
    assert (result.exit_code, result.stderr.count("truncated")) == (2, 1)
    assert Summary([tmp_path / "run.jsonl"]).failed == {str(scan): "ScanError"}
    assert "the scan cannot be read" in (tmp_path / "s.csv").read_text()


def test_records_are_added_to_and_a_line_that_was_cut_costs_itself_only(segment, tmp_path):
    file = tmp_path / "run.jsonl"
    segment("--part", "1/2", "--records", file)
    file.write_bytes(file.read_bytes()[:-30])
    segment("--part", "2/2", "--records", file)
    summary = Summary([file])
    assert (summary.done, summary.left, summary.damaged) == (5, 1, 1)


def test_one_file_of_records_has_one_writer(segment, tmp_path):
    program = f"""
import sys, time
from pathlib import Path
from monet_edge.runs import journal
with journal.opened(Path({str(tmp_path / "run.jsonl")!r}), None):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        result = segment("--records", tmp_path / "run.jsonl")
        holder.stdin.close()
    assert result.exit_code == 2
    assert "another run writes to it. Choose another --records, or a folder" in result.stderr
    assert not masks(tmp_path / "masks")


@pytest.mark.parametrize(("path", "message"), [("run.json", "written to a .jsonl file, or to a folder"), ("file/run.jsonl", "is a file")])
def test_a_place_for_records_that_is_none_is_refused_before_any_work(segment, tmp_path, path, message, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("monet_edge.cli.segment.load_model", lambda *_: pytest.fail("begins"))
    result = segment("--records", tmp_path / path)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_records_of_many_runs_are_summed_up(segment, archive, tmp_path):
    good = (archive / "b/x.nii").read_bytes()
    (archive / "b/x.nii").write_bytes(good[:-9])
    (archive / "a/y.nii").write_bytes(b"")
    for i in (1, 2, 3):
        segment("--part", f"{i}/3", "--records", tmp_path / "records")
    told = runner.invoke(app, ["records", str(tmp_path / "records"), "--slow", "2"]).stdout
    assert "scans: 4 done, 2 failed\n" in told
    assert "failed: 2 ScanError\n" in told
    assert "slices: 16, " in told
    assert told.count("slow: ") == 2
    failed = runner.invoke(app, ["records", str(tmp_path / "records"), "--failed"]).stdout
    assert failed == "a/y.nii\nb/x.nii\n"
    (archive / "b/x.nii").write_bytes(good)
    (tmp_path / "failed.txt").write_text(failed)
    segment("--list", tmp_path / "failed.txt", "--records", tmp_path / "records")
    assert (tmp_path / "masks/b/x_seg.nii.gz").exists()
    summary = Summary([tmp_path / "records"])
    assert (summary.done, summary.failed, summary.left) == (5, {"a/y.nii": "ScanError"}, 0)


def test_what_is_left_is_known_of_a_run_that_was_stopped(segment, archive, tmp_path):
    file = tmp_path / "run.jsonl"
    segment("--records", file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    assert (Summary([file]).done, Summary([file]).left) == (2, 4)
    segment("--skip-existing", "--records", file)
    assert (Summary([file]).there, Summary([file]).left) == (4, 0)


def test_a_name_of_bytes_that_are_no_text_is_fed_back_as_it_is(archive, tmp_path, segment):
    name = os.fsencode(str(archive)) + b"/\xff\xfe.nii"
    with open(name, "wb") as file:
        file.write(b"broken")
    segment("--records", tmp_path / "run.jsonl")
    failed = runner.invoke(app, ["records", str(tmp_path / "run.jsonl"), "--failed"]).stdout_bytes
    assert failed == b"\xff\xfe.nii\n"
    (tmp_path / "failed.txt").write_bytes(failed)
    (found,) = find_scans([archive], tmp_path / "failed.txt")
    assert os.fsencode(str(found.scan)) == name


@pytest.mark.parametrize("text", ["", "none\n", "[1]\n", '{"scan": "x"}\n', '{"begun": 1}\n', '"begun"\n'])
def test_what_is_no_file_of_records_is_one_line(tmp_path, text):
    (tmp_path / "some.jsonl").write_text(text)
    result = runner.invoke(app, ["records", str(tmp_path / "some.jsonl")])
    assert result.exit_code == 2
    assert "not a file of records" in result.stderr


def test_a_folder_without_records_is_one_line(tmp_path):
    result = runner.invoke(app, ["records", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (2, f"monet-edge: {tmp_path}: no records (*.jsonl) in this folder\n")


# ---- several at a time ----


def test_scans_at_a_time_give_the_masks_of_one_after_the_other(segment, tmp_path):
    segment()
    alone = {name: path.read_bytes() for name, path in masks(tmp_path / "masks").items()}
    shutil.rmtree(tmp_path / "masks")
    result = segment("--threads", 3, "--jobs", 3)
    assert result.exit_code == 0, result.output
    assert {name: path.read_bytes() for name, path in masks(tmp_path / "masks").items()} == alone


def test_a_scan_is_measured_while_the_network_runs_over_another(archive, tmp_path, weights_file, monkeypatch):
    measured, another, measure, run_slices = [], threading.Event(), slices.measure, slices.run_slices

    def count(*arguments):
        measured.append(1)
        if len(measured) == 2:
            another.set()
        return measure(*arguments)

    def wait(*arguments):
        assert another.wait(HANGS)
        run_slices(*arguments)

    monkeypatch.setattr(slices, "measure", count)
    monkeypatch.setattr(slices, "run_slices", wait)
    plan = make_plan([archive], tmp_path / "masks")
    assert all(not isinstance(became, Exception) for _, became in run_all(plan, Here(Model(weights.load(weights_file), 1))))


@pytest.mark.parametrize("fails", [False, True])
def test_the_next_scan_may_end_beside_the_last_slices_of_one_and_is_told_after_it(archive, tmp_path, weights_file, monkeypatch, fails):
    """A small one, however the one before it ends: neither is in the other's mask."""
    plan, model = make_plan([archive], tmp_path / "masks"), Model(weights.load(weights_file), 2)
    alone = [model.segment_scan(formats.read(job.scan)).mask for job in plan.jobs]
    begun, real = [], slices.run_slices

    def run_slices(engine, inputs, store, *more):
        def wait(z, probability):
            ends = time.monotonic() + HANGS
            while not plan.jobs[1].mask.exists():
                assert time.monotonic() < ends
                time.sleep(0.01)
            if fails:
                raise OSError("the disk is full")
            store(z, probability)

        begun.append(1)
        real(engine, inputs, wait if len(begun) == 1 else store, *more)

    monkeypatch.setattr(slices, "run_slices", run_slices)
    became = list(run_all(plan, Here(model)))
    assert [job for job, _ in became] == list(plan.jobs)
    assert [isinstance(each, Exception) for _, each in became] == [fails] + [False] * 5
    assert plan.jobs[0].mask.exists() is not fails
    for job, mask in list(zip(plan.jobs, alone, strict=True))[fails:]:
        assert np.array_equal(formats.read(job.mask).voxels, mask)


def test_the_last_scan_is_shared_to_its_last_slice(archive, tmp_path, weights_file, monkeypatch):
    """Nobody follows: no thread may wait for another's sixteen slices."""
    follow, run_slices = [], slices.run_slices
    monkeypatch.setattr(slices, "run_slices", lambda *arguments: [follow.append(arguments[-1] is not None), run_slices(*arguments)])
    assert all(
        not isinstance(became, Exception)
        for _, became in run_all(make_plan([archive], tmp_path / "masks"), Here(Model(weights.load(weights_file), 2)))
    )
    assert follow == [True] * 5 + [False]


def test_more_scans_at_a_time_than_threads_are_refused(segment):
    assert "2 scans at a time cannot share 1 thread" in segment("--jobs", 2).stderr


@pytest.mark.parametrize(("room", "most"), [(1.5, 1), (2.5, 2), (9, 2)])
def test_no_more_is_begun_than_fits_into_memory(archive, tmp_path, weights_file, monkeypatch, room, most):
    plan, model = make_plan([archive], tmp_path / "masks"), Model(weights.load(weights_file), 1)
    size = model.peak(formats.peek(archive / "w.nii"))
    monkeypatch.setattr(limits, "available", lambda *_: int(room * size))
    held, seen, lock, real, reached = [0], [], threading.Lock(), formats.read, threading.Event()

    def read(*arguments):
        with lock:
            held[0] += 1
            seen.append(held[0])
            if held[0] == most:
                reached.set()
        time.sleep(0.02)  # for one too many to come
        return real(*arguments)

    def segment_scan(*arguments, **options):
        found = Model.segment_scan(model, *arguments, **options)
        assert reached.wait(HANGS)  # for as many as there may be
        with lock:
            held[0] -= 1
        return found

    monkeypatch.setattr(formats, "read", read)
    monkeypatch.setattr(model, "segment_scan", segment_scan, raising=False)
    assert all(not isinstance(became, Exception) for _, became in run_all(plan, Here(model)))
    assert max(seen) == most


def test_what_does_not_fit_beside_another_is_done_alone(archive, tmp_path, weights_file, monkeypatch):
    plan, model = make_plan([archive], tmp_path / "masks"), Model(weights.load(weights_file), 1)
    busy, real, refused = threading.Semaphore(1), Model.read_case, threading.Event()

    def read_case(self, headers, options):
        if not busy.acquire(blocking=False):
            refused.set()
            raise ResourceError("others are at work")
        return real(self, headers, options)

    def segment_scan(*arguments, **options):
        found = Model.segment_scan(model, *arguments, **options)
        refused.wait(HANGS)  # for another scan to come meanwhile
        busy.release()
        return found

    monkeypatch.setattr(Model, "read_case", read_case)
    monkeypatch.setattr(model, "segment_scan", segment_scan, raising=False)
    assert [became for _, became in run_all(plan, Here(model)) if isinstance(became, Exception)] == []
    assert refused.is_set()


def test_whoever_leaves_a_run_waits_for_what_is_being_written(archive, tmp_path, weights_file, monkeypatch):
    """By a disk that is slow; the thread that has nothing to do has long ended."""
    begun, written, sync = [], threading.Event(), os.fsync

    def slow(handle):
        begun.append(1)
        if len(begun) == 2:
            written.set()
            time.sleep(1.5)
        sync(handle)

    monkeypatch.setattr(os, "fsync", slow)
    running = run_all(make_plan([archive], tmp_path / "masks"), Here(Model(weights.load(weights_file), 1)))
    next(running)
    assert written.wait(HANGS)
    running.close()
    left = [path for path in (tmp_path / "masks").rglob("*") if path.is_file()]
    assert len(left) >= 2
    assert all(path.name.endswith("_seg.nii.gz") and formats.seal(path).whole for path in left)


@pytest.mark.slow
def test_ctrl_c_leaves_whole_results_and_nothing_else(tmp_path, weights_file):
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "0.nii").write_bytes(nifti(head((128, 128, 24))))
    for i in range(1, 2000):  # minutes of work
        os.link(scans / "0.nii", scans / f"{i}.nii")
    command = [sys.executable, "-m", "monet_edge", "segment", scans, "-o", tmp_path / "masks", "-m", weights_file, "--quiet"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and len(masks(tmp_path / "masks")) < 3:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        errors = run.communicate(timeout=HANGS)[1]
    assert run.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    left = list((tmp_path / "masks").iterdir())
    assert all(path.name.endswith("_seg.nii.gz") and formats.seal(path).whole for path in left)


# ---- how far it is ----


def test_the_time_left_is_that_of_what_is_done(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with RunProgress("segmenting 10 scans", 10, quiet=False) as progress:
        for i in range(4):
            now[0] += 40
            progress.ended(i)
        progress.slices("begun", 1, 2)
        now[0] += 20
        progress.ended("begun")
    assert capsys.readouterr().err.splitlines() == [
        "segmenting 10 scans", "2 of 10 scans, 0:05:20 left", "4 of 10 scans, 0:04:00 left",
    ]  # fmt: skip
    with RunProgress("segmenting 10 scans", 10, quiet=True) as progress:
        now[0] += 100
        progress.ended(0)
    assert capsys.readouterr().err == ""
