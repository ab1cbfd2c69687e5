"""The page's way of a scan, as its server sees it: dropped, shown, segmented, corrected, saved; and how it ends."""

import csv
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra app is not installed")
import served
from fuzz.build import gz, head, nifti
from processes import HANGS
from scans import blob, image_of

from monet_edge import formats, load, system
from monet_edge.app import cases, findings, results, worker
from monet_edge.app.cases import MOST, PREFIX, Case
from monet_edge.app.findings import Likely, segment, tell, with_threshold
from monet_edge.app.worker import explain
from monet_edge.errors import ScanError
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.registry import shipped

ROOT = Path(__file__).parents[1]
VENDOR = ROOT / "monet_edge" / "app" / "vendor"

LONG = nifti(np.tile(head((32, 32, 10)), (1, 1, 2000)))  # seconds of work


@pytest.fixture(scope="module")
def client(tmp_path_factory, weights_file):
    with served.running(tmp_path_factory.mktemp("cases"), [weights_file]) as client:
        yield client


@pytest.fixture(scope="module")
def scan():
    """A small scan, gzipped."""
    return gzip.compress(image_of(blob(np.random.default_rng(1), (40, 36, 12))).to_bytes(), 1)


@pytest.fixture(scope="module")
def path(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    path.write_bytes(scan)
    return path


def test_from_a_dropped_scan_to_what_is_saved(client, scan, path, weights_file, tmp_path):
    case = client.drop(("scan.nii.gz", scan))
    status, header = client.ask("POST", f"{case}/header")
    assert (status, header["shape"], header["volumes"]) == (200, [40, 36, 12], 1)
    assert header["spacing"] == pytest.approx([0.8, 0.9, 3.0])
    now = client.segment(case, "tiny")
    assert (now["state"], now["error"]) == ("done", "")
    expected = load(weights_file).segment_scan(formats.read(path))
    (tmp_path / "mask.nii.gz").write_bytes(client.ask("GET", f"{case}/results/mask.nii.gz")[1])
    saved = formats.read(tmp_path / "mask.nii.gz")
    assert np.array_equal(saved.voxels, expected.mask)
    assert np.array_equal(saved.affine, formats.read(path).affine)
    (label,) = now["found"]["labels"]
    assert label["voxels"] == np.count_nonzero(expected.mask) > 0
    assert now["found"]["warnings"] == list(expected.warnings)
    table = client.ask("GET", f"{case}/results/table.csv")[1].decode()
    (row,) = csv.DictReader(io.StringIO(table))
    assert (row["name"], int(row["voxels"])) == ("blob", label["voxels"])
    page = client.ask("GET", f"{case}/results/report.html")[1].decode()
    assert "Content-Security-Policy" in page
    assert "scan.nii.gz" not in page
    assert client.ask("GET", f"{case}/results/surface-1.mz3")[1][:2] == (23117).to_bytes(2, "little")
    client.ask("DELETE", case)
    assert list(client.folder.iterdir()) == []
    assert client.ask("GET", case)[0] == 404


def test_every_shipped_models_own_threshold_can_be_chosen_again():
    own = [load(name).weights.preprocess.threshold for name in shipped()]
    assert own
    assert all(findings.LOWEST <= threshold <= findings.HIGHEST for threshold in own)


def test_another_threshold_gives_the_mask_that_segmenting_with_it_gives(client, scan, path, weights_file, tmp_path):
    case = client.drop(("scan.nii.gz", scan))
    client.ask("POST", f"{case}/header")
    own = client.segment(case, "tiny")["found"]
    model, read = load(weights_file), formats.read(path)
    volumes = set()
    for threshold in (0.01, 0.31, 0.9, 0.5):
        status, now = client.ask("POST", f"{case}/threshold", {"threshold": threshold})
        expected = model.segment_scan(read, Options(threshold=threshold))
        (tmp_path / "mask.nii").write_bytes(client.ask("GET", f"{case}/results/mask.nii")[1])
        assert np.array_equal(formats.read(tmp_path / "mask.nii").voxels, expected.mask)
        assert now["found"]["warnings"] == list(expected.warnings)
        volumes.add(now["found"]["labels"][0]["voxels"])
    assert len(volumes) > 2
    assert now["found"] == {**own, "seconds": now["found"]["seconds"]}  # back at the model's own
    for wrong in (0.009, 0.99, "x", None, True, [0.5]):
        status, told = client.ask("POST", f"{case}/threshold", {"threshold": wrong})
        assert (status, told["error"]) == (422, "threshold: expected 0.01 to 0.95")
    client.ask("DELETE", case)


def test_a_model_of_several_labels_has_no_threshold():
    progress = lambda *_: None  # noqa: E731
    model = load("hippocampus", threads=1)
    image = image_of(blob(np.random.default_rng(1), (35, 50, 35)), np.diag([1.0, 1, 1, 1]))
    header = formats.from_image(image)

    class Read:
        weights = model.weights

        def read_scan(self, *_):
            return header

        def segment_scan(self, *arguments, **named):
            return model.segment_scan(*arguments, **named)

    found = segment(None, Read(), 0, progress)
    assert found.likely is None
    assert tell(found)["thresholds"] is None
    assert [label["name"] for label in tell(found)["labels"]] == ["anterior", "posterior"]
    assert tell(found)["legend"] == [{"name": "anterior", "sides": [["", 1]]}, {"name": "posterior", "sides": [["", 2]]}]


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([("scan.nii.gz", b"cut")], "scan.nii.gz: "),
        ([("scan.nii.gz", gzip.compress(bytes(500)))], "scan.nii.gz: "),
        ([("a.png", b"\x89PNG\r\n\x1a\n")], "a.png: "),
        ([], "no file was received"),
        ([("a.nii", nifti(head((4, 4, 4)))), ("b.nii", nifti(head((4, 4, 4))))], "2 scans, expected one: a.nii, b.nii"),
        ([("a.nii", nifti(head((4, 4, 4)))), ("b", bytes(128) + b"DICM")], "2 scans, expected one: a.nii, DICOM"),
    ],
    ids=["cut", "zeros", "png", "nothing", "two", "two kinds"],
)
def test_a_broken_file_is_one_line(client, files, error):
    case = client.drop(*files)
    status, told = client.ask("POST", f"{case}/header")
    assert status == 422
    assert told["error"].startswith(error)
    assert str(client.folder) not in told["error"]
    assert "\n" not in told["error"]
    assert client.ask("POST", f"{case}/work", {"model": "tiny"})[0] == 422
    client.ask("DELETE", case)


def test_a_file_that_is_cut_behind_its_header_fails_when_it_is_read(client):
    case = client.drop(("scan.nii.gz", gz(nifti(head((64, 64, 90))))[:-2000]))
    assert client.ask("POST", f"{case}/header")[0] == 200
    told = "scan.nii.gz: the compressed data ends too early: the file is truncated. Copy it again."
    assert client.ask("GET", f"{case}/scan.nii?volume=0")[1]["error"] == told
    now = client.segment(case, "tiny")
    assert (now["state"], now["error"]) == ("failed", told)
    client.ask("DELETE", case)


def test_of_several_series_the_one_that_is_chosen_is_segmented(client, tmp_path, rng):
    import dicoms  # of the extra of that name

    files = []
    for modality, slices in (("MR", 6), ("CT", 7)):
        folder = dicoms.write(tmp_path / modality, blob(rng, (40, 36, slices)), modality=modality)
        files += [(f"{modality}{file.name}", file.read_bytes()) for file in sorted(folder.iterdir())]
    case = client.drop(*files)
    status, told = client.ask("POST", f"{case}/header")
    (number,) = (one["number"] for one in told["series"] if "(CT, 40x36x7)" in one["text"])
    assert (status, len(told["series"])) == (200, 2)
    assert client.ask("POST", f"{case}/work", {"model": "tiny"})[0] == 422  # none is chosen
    assert "has no series 9" in client.ask("POST", f"{case}/header?series=9")[1]["error"]
    header = client.ask("POST", f"{case}/header?series={number}")[1]
    assert header["shape"] == [40, 36, 7]
    assert ".dcm" in header["masks"]
    assert client.segment(case, "tiny")["state"] == "done"
    client.ask("DELETE", case)


def test_a_mask_of_before_in_the_folder_is_not_taken_for_the_scan(client, scan):
    case = client.drop(("scan.nii.gz", scan))
    client.ask("POST", f"{case}/header")
    client.segment(case, "tiny")
    mask = client.ask("GET", f"{case}/results/mask.nii.gz")[1]
    client.ask("DELETE", case)
    case = client.drop(("a_seg.nii.gz", mask), ("scan.nii.gz", scan))
    assert client.ask("POST", f"{case}/header")[0] == 200
    assert client.segment(case, "tiny")["state"] == "done"
    client.ask("DELETE", case)


def test_a_mask_is_offered_in_what_it_can_be_written_as(client, scan):
    case = client.drop(("scan.nii.gz", scan))
    offered = client.ask("POST", f"{case}/header")[1]["masks"]
    assert offered == [".nii.gz", ".nii", ".seg.nrrd", ".nrrd"]  # .dcm is of scans in DICOM
    client.segment(case, "tiny")
    assert [client.ask("GET", f"{case}/results/mask{ending}", None)[0] for ending in offered] == [200] * 4
    client.ask("DELETE", case)


def test_advice_names_what_the_page_has_or_says_that_it_is_the_commands():
    assert explain(ScanError("several", "Choose one with {volume}.")) == "several. Choose one with volume."
    assert explain(ScanError("several", "Choose one with {series}.")) == "several. Choose one with the command's --series."


def test_one_of_several_volumes(client):
    voxels = np.stack([np.full((9, 8, 7), number, np.int16) for number in (3, 5)], axis=-1)
    case = client.drop(("scan.nii", nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()))
    assert client.ask("POST", f"{case}/header")[1]["volumes"] == 2
    image = nibabel.Nifti1Image.from_bytes(client.ask("GET", f"{case}/scan.nii?volume=1")[1])
    assert np.all(image.get_fdata() == 5)
    assert client.segment(case, "tiny", volume=1)["state"] == "done"
    assert client.segment(case, "tiny", volume=2)["state"] == "failed"
    for volume in ("2", "-1", "x", ""):
        assert client.ask("GET", f"{case}/scan.nii?volume={volume}")[0] == 422
    client.ask("DELETE", case)


class Held:
    """Work that goes no further than its first slices until it may."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on, self.told = threading.Event(), threading.Event(), []
        monkeypatch.setattr(worker, "segment", self.segment)

    def segment(self, header, model, volume, progress):
        def tell(done, total):
            self.told.append(done)
            self.begun.set()
            assert self.go_on.wait(HANGS)
            progress(done, total)

        return segment(header, model, volume, tell)


def test_two_pages_are_done_one_after_the_other(client, scan, monkeypatch):
    held = Held(monkeypatch)
    first, second, third = (client.drop((f"{name}.nii.gz", scan)) for name in "abc")
    for case in (first, second, third):
        assert client.ask("POST", f"{case}/header")[0] == 200
    for case in (first, second, third):
        assert client.ask("POST", f"{case}/work", {"model": "tiny"})[0] == 202
    assert client.ask("POST", f"{first}/work", {"model": "tiny"})[0] == 422  # it is at it
    waiting = [client.ask("GET", case)[1] for case in (second, third)]
    assert [(now["state"], now["ahead"]) for now in waiting] == [("waiting", 1), ("waiting", 2)]
    client.ask("DELETE", f"{second}/work")
    held.go_on.set()
    assert client.wait(second)["state"] == "ready"
    assert client.wait(third)["state"] == "done"
    assert client.wait(first)["state"] == "done"
    for case in (first, second, third):
        client.ask("DELETE", case)


def test_stop_stops_before_the_next_slices(client, monkeypatch):
    case, held = client.drop(("a.nii", nifti(head((32, 32, 100))))), Held(monkeypatch)
    client.ask("POST", f"{case}/header")
    client.ask("POST", f"{case}/work", {"model": "tiny"})
    assert held.begun.wait(HANGS)
    client.ask("DELETE", f"{case}/work")
    held.go_on.set()
    assert client.wait(case)["state"] == "ready"
    assert len(held.told) == 1
    client.ask("DELETE", case)


def test_a_page_that_is_closed_while_it_works_leaves_nothing(client, monkeypatch):
    case, held = client.drop(("a.nii", nifti(head((32, 32, 100))))), Held(monkeypatch)
    client.ask("POST", f"{case}/header")
    client.ask("POST", f"{case}/work", {"model": "tiny"})
    assert held.begun.wait(HANGS)
    client.ask("DELETE", case)
    held.go_on.set()
    follower = client.drop(("b.nii", nifti(head((32, 32, 4)))))
    client.ask("POST", f"{follower}/header")
    assert client.segment(follower, "tiny")["state"] == "done"  # the thread is free
    client.ask("DELETE", follower)
    assert list(client.folder.iterdir()) == []


def test_work_that_ends_while_it_is_asked_for_is_not_told_as_done_without_what_was_found(client, scan, monkeypatch):
    case, looks = client.drop(("a.nii.gz", scan)), []
    client.ask("POST", f"{case}/header")
    assert client.segment(case, "tiny")["state"] == "done"

    def ends_after_one_look(name, before):
        def look(self):
            looks.append(name)
            return before if len(looks) == 1 else vars(self)[name]

        monkeypatch.setattr(Case, name, property(look, lambda self, value: vars(self).update({name: value})), raising=False)

    ends_after_one_look("state", "working")
    ends_after_one_look("found", None)
    now = client.ask("GET", case)[1]
    assert {"state", "found"} <= {*looks}
    assert now["state"] == "working" or now["found"]
    client.ask("DELETE", case)


def test_the_oldest_page_gives_way(client):
    cases = [client.drop(("a.nii", b"x")) for _ in range(MOST + 2)]
    assert [client.ask("GET", case)[0] for case in cases] == [404] * 2 + [200] * MOST
    assert len(list(client.folder.iterdir())) == MOST
    for case in cases:
        client.ask("DELETE", case)


def test_a_synthetic_head(client):
    case = client.drop()
    assert client.ask("POST", f"{case}/phantom")[0] == 204
    assert client.ask("POST", f"{case}/header")[1]["shape"] == [256, 256, 24]
    client.ask("DELETE", case)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_viewer_is_given_the_scans_intensities_on_its_grid(dtype, rng):
    affine = np.array([[0.1, -0.8, 0.0, 5], [0.9, 0.1, 0.2, -7], [0.0, 0.1, 2.5, 9], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(rng.integers(0, 100, (7, 5, 3)).astype(dtype), affine)
    image.header.set_slope_inter(2, -10)
    image = nibabel.Nifti1Image.from_bytes(image.to_bytes())
    scan = formats.from_image(image)
    size, parts = results.shown(scan.voxels, scan, scan.slope, scan.inter)
    data = b"".join(parts)
    seen = nibabel.Nifti1Image.from_bytes(data)
    assert len(data) == size
    assert np.allclose(seen.get_fdata(), image.get_fdata())
    assert np.allclose(seen.affine, affine, atol=1e-5)
    assert np.allclose(seen.header.get_zooms(), scan.spacing)


def test_the_viewer_is_given_numbers_only():
    voxels = np.array([np.nan, np.inf, -np.inf, 1e300, 5.0, 0, 0, 0]).reshape(2, 2, 2)
    scan = formats.from_image(nibabel.Nifti1Image(voxels, np.eye(4)))
    seen = nibabel.Nifti1Image.from_bytes(b"".join(results.shown(scan.voxels, scan)[1]))
    assert sorted(np.asarray(seen.dataobj).ravel()) == [0.0] * 7 + [5.0]


def test_what_is_too_large_for_a_graphics_card_is_shown_coarser(monkeypatch):
    scan = formats.from_image(nibabel.Nifti1Image(np.arange(5000 * 3, dtype=np.int16).reshape(5000, 3, 1), np.diag([0.5, 2.0, 1.0, 1.0])))
    seen = nibabel.Nifti1Image.from_bytes(b"".join(results.shown(scan.voxels, scan)[1]))
    assert seen.shape[0] <= results.SIDE
    place = seen.affine @ [1000, 2, 0, 1]
    stored = np.linalg.solve(scan.affine, place)[:3].round().astype(int)
    assert seen.dataobj[1000, 2, 0] == scan.voxels[tuple(stored)]
    monkeypatch.setattr(results, "VOXELS", 1000)
    assert np.prod(nibabel.Nifti1Image.from_bytes(b"".join(results.shown(scan.voxels, scan)[1])).shape) <= 1000


def test_only_the_part_that_a_threshold_can_reach_is_kept(path, weights_file):
    model = load(weights_file)
    found = segment(formats.peek(path), model, None, lambda *_: None)
    assert isinstance(found.likely, Likely)
    for threshold in (0.05, 0.6):
        expected = model.segment_scan(formats.read(path), Options(threshold=threshold)).mask
        assert np.array_equal(with_threshold(found, threshold).finding.mask, expected)
    inside = tell(found)["centre"]
    voxel = np.linalg.solve(found.finding.scan.affine, [*inside, 1])[:3].round().astype(int)
    assert found.finding.mask[tuple(voxel)] == 1


def test_another_threshold_leaves_out_what_lies_in_one_slice_if_the_model_does(weights_file, tmp_path, rng):
    every = load(weights_file)
    record = replace(every.weights.preprocess, lone=False)
    model = Model(replace(every.weights, preprocess=record))
    path = tmp_path / "noise.nii.gz"
    nibabel.save(image_of(rng.random((20, 24, 9)), np.diag([-1.0, 1, 1, 1])), path)
    read = formats.read(path)
    found, differ = segment(formats.peek(path), model, None, lambda *_: None), 0
    for threshold in np.quantile(every.segment_scan(read, Options(probabilities=True)).probability, (0.6, 0.9, 0.97)):
        mask = with_threshold(found, float(threshold)).finding.mask
        assert np.array_equal(mask, model.segment_scan(read, Options(threshold=float(threshold))).mask)
        differ += np.count_nonzero(mask != every.segment_scan(read, Options(threshold=float(threshold))).mask)
    assert differ


# ---- the command


def start(*options, **more):
    """The command, the address that it prints, and what it says below."""
    command = [sys.executable, "-m", "monet_edge", "app", "--no-browser", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    return process, process.stdout.readline().strip(), process.stdout.readline()


def http(address, method, path, body=None):
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(address + path, body, method=method), timeout=HANGS) as answer:
        return answer.read()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_it_and_leaves_nothing_behind(tmp_path, kill, weights_file):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process, address, told = start("-m", str(weights_file), env=environment)
    case = f"cases/{json.loads(http(address, 'POST', 'cases'))['case']}"
    http(address, "POST", f"{case}/files?name=a.nii", LONG)
    http(address, "POST", f"{case}/header")
    http(address, "POST", f"{case}/work", b'{"model": "tiny"}')  # it is at work when it is told to end
    while json.loads(http(address, "GET", case))["state"] == "waiting":
        time.sleep(0.01)
    (folder,) = tmp_path.glob(f"{PREFIX}*")
    assert folder.stat().st_mode & 0o777 == 0o700
    process.send_signal(kill)
    out, error = process.communicate(timeout=HANGS)
    assert (process.returncode, out, error) == (0, "", "")
    assert told == "Ctrl-C ends it and removes what was dropped. Research use only, not a medical device.\n"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed, *_ = start(env=environment)
    killed.kill()
    killed.communicate()
    (left,) = tmp_path.glob(f"{PREFIX}*")
    living, *_ = start(env=environment)
    other, *_ = start(env=environment)
    assert not left.exists()
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 2
    for process in (living, other):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANGS)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_begins_at_the_same_moment_takes_no_folder_for_a_leftover(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    begun, lock = [], system.lock

    def late(handle):
        if not begun:
            begun.append(cases._remove_leftovers(tmp_path))
        lock(handle)

    monkeypatch.setattr(system, "lock", late)
    with cases.private_folder() as folder:
        cases._remove_leftovers(tmp_path)
        assert begun
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_line(client):
    done = subprocess.run(
        [sys.executable, "-m", "monet_edge", "app", "--no-browser", "--port", str(client.port)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"monet-edge: port {client.port} of 127.0.0.1 cannot be used: Address already in use. Choose another --port, or none.\n"
    )


def test_without_the_extra_one_line_says_how_to_get_it():
    hide = "import sys; sys.modules['starlette'] = None; sys.argv = ['monet-edge', 'app', '--no-browser']"
    code = f"{hide}; from monet_edge.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "monet-edge: starlette is not installed. The page needs it: pip install 'monet-edge[app]'\n"


def test_the_page_is_there_before_the_engine_is_loaded():
    """Kernels and models come with the first scan."""
    code = """
import sys, threading
from monet_edge.app import server
def check(address):
    print([name for name in ("numba", "torch") if name in sys.modules])
    raise KeyboardInterrupt
try: server.serve(browser=False, started=check)
except KeyboardInterrupt: pass
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- the viewer that travels with it


def test_the_viewer_is_the_one_that_was_published():
    noted = dict(reversed(line.split("  ")) for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    assert set(noted) == {"niivue.umd.js"}
    assert hashlib.sha256((VENDOR / "niivue.umd.js").read_bytes()).hexdigest() == noted["niivue.umd.js"]
    told = (VENDOR / "README.md").read_text()
    assert "@niivue/niivue 0.69.0" in told
    assert noted["niivue.umd.js"] in told
    assert "BSD 2-Clause License" in (VENDOR / "LICENSE").read_text()
    assert b'"0.69.0"' in (VENDOR / "niivue.umd.js").read_bytes()
