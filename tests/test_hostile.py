"""Bad files and faults as a user meets them: one clear line, no harm, never a traceback."""

import ast
import ctypes
import json
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fuzz import kills
from fuzz.build import head, nifti
from test_volume import REFUSED, WARNED
from typer.testing import CliRunner

from monet_edge import pipeline, volume
from monet_edge.cli import app
from monet_edge.kernels import _jit
from monet_edge.model import load

ROOT = Path(__file__).parents[1]


@pytest.fixture
def segment(weights_file):
    """The command, in this process."""
    return lambda *arguments: CliRunner().invoke(app, ["segment", *map(str, arguments), "-m", str(weights_file), "--threads", "1"])


@pytest.fixture
def command(weights_file, tmp_path):
    """The command on a small scan, in a process of its own."""
    (tmp_path / "scan.nii").write_bytes(nifti(head((32, 32, 6))))

    def run(*arguments, before=None, env=None):
        call = [sys.executable, "-m", "monet_edge", "segment", tmp_path / "scan.nii", "-m", weights_file, *arguments]
        return subprocess.run([str(part) for part in call], capture_output=True, text=True, cwd=ROOT, preexec_fn=before, env=env)

    return run


@pytest.mark.parametrize("kind", ["scans", "weights"])
def test_a_thousand_hostile_files(kind):
    """Each gives the right answer or one clear line, in 2 GB of address space; `python -m tests.fuzz` makes more of them."""
    command = [sys.executable, "-m", "tests.fuzz", "--count", "1000", "--seed", "20000", "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    refused, right = (
        int(n.replace(",", "")) for n in re.search(r": ([\d,]+) clear errors, ([\d,]+) right answers; 0 anything", done.stdout).groups()
    )
    assert refused + right == 1000
    assert min(refused, right) > 40


# ---- scans that are not what they seem ----


@pytest.mark.parametrize("row", REFUSED)
def test_a_bad_scan_is_one_line_and_nothing_else(segment, tmp_path, row):
    """Every row of the table, through the command line."""
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(REFUSED[row][0])
    result = segment(path)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if not line.startswith("segmenting")]
    assert len(lines) == 1
    assert lines[0].startswith(f"monet-edge: {path}: ")
    assert "unexpected" not in lines[0]
    assert [file.name for file in tmp_path.iterdir()] == ["scan.nii.gz"]
    assert path.read_bytes() == REFUSED[row][0]


@pytest.mark.parametrize("row", WARNED)
def test_a_doubtful_scan_is_segmented_with_a_warning(segment, tmp_path, row):
    path = tmp_path / "scan.nii"
    path.write_bytes(WARNED[row][0])
    result = segment(path)
    assert result.exit_code == 0
    assert f"warning: {volume.read(path).warnings[0]}" in result.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_count_as_background(segment, tmp_path, dtype):
    """Row 18: the mask is that of the same scan with background there, and a warning says how many they were."""
    voxels = head((32, 32, 6), dtype)
    voxels[:5] = 0
    huge = 1e39 if dtype == np.float64 else np.inf
    for name in ("zero", "nonfinite"):
        (tmp_path / f"{name}.nii").write_bytes(nifti(voxels))
        result = segment(tmp_path / f"{name}.nii")
        assert result.exit_code == 0
        voxels[1, :6, 0] = np.array([np.nan, np.inf, -np.inf, np.nan, huge, -huge])
    assert "6 voxels are NaN or infinite; they count as background" in result.stderr
    masks = [volume.read(tmp_path / f"{name}_seg.nii.gz").voxels for name in ("zero", "nonfinite")]
    np.testing.assert_array_equal(*masks)


def test_signalling_nans_are_quiet(segment, tmp_path, recwarn):
    """In the voxels, and in an affine that is refused; fuzzing found that converting them prints a warning."""
    signalling = np.array([0x7F800001], np.uint32).view(np.float32)
    voxels = head((32, 32, 6), np.float32)
    voxels[10:20, 10] = signalling
    raw = nifti(voxels)
    (tmp_path / "voxels.nii").write_bytes(raw)
    (tmp_path / "affine.nii").write_bytes(raw[:280] + signalling.tobytes() + raw[284:])  # srow_x
    assert segment(tmp_path / "voxels.nii").exit_code == 0
    assert segment(tmp_path / "affine.nii").exit_code == 2
    assert not recwarn.list


# ---- faults ----


def test_a_full_disk(command, tmp_path):
    """Row 22: the mask does not fit, and there is no mask."""
    done = command("-o", tmp_path / "mask.nii", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"monet-edge: {tmp_path / 'mask.nii'}: cannot be written: File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def ordinary():
    """Even root obeys permissions without the capabilities CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2)."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def test_a_read_only_folder(command, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir(mode=0o500)
    done = command("-o", folder / "mask.nii", before=ordinary)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"monet-edge: {folder / 'mask.nii'}: cannot be written: Permission denied"
    assert not list(folder.iterdir())


def test_what_may_not_be_read(command, tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    done = command(tmp_path / "closed", before=ordinary)
    assert done.returncode == 2
    assert done.stderr == f"monet-edge: {tmp_path / 'closed'}: this folder cannot be read: Permission denied\n"
    (tmp_path / "scan.nii").chmod(0)
    done = command(before=ordinary)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"monet-edge: {tmp_path / 'scan.nii'}: cannot be read: Permission denied"


@pytest.mark.parametrize("where", ["not writable", "damaged"])
def test_a_cache_folder_that_cannot_be_used(command, tmp_path, where):
    """Row 23: it works without a cache."""
    home = {"not writable": "/dev/null/home", "damaged": str(tmp_path / "home")}[where]
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("XDG_")}, "HOME": home}
    done = command(env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("cannot be kept") == (1 if where == "not writable" else 0)
    first = (tmp_path / "scan_seg.nii.gz").read_bytes()
    if where == "damaged":
        (kept,) = (tmp_path / "home").rglob("*.o")
        kept.write_bytes(kept.read_bytes()[:-100])
        assert command("--overwrite", env=environment).returncode == 0
        assert (tmp_path / "scan_seg.nii.gz").read_bytes() == first


@pytest.mark.parametrize("home", ["", "nowhere"])
def test_no_home_is_no_cache_folder(monkeypatch, home):
    """Row 23: a process without a home, as in many containers; a relative one is none either."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", home) if home else path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert _jit._cache_folder() is None


def test_runs_ended_at_random_moments(tmp_path):
    """Row 22: eight of them; `python -m tests.fuzz.kills` does more."""
    tally = kills.run(8, tmp_path)
    assert not tally.failures
    assert tally.counts.total() == 8


@pytest.mark.parametrize("module", ["typer", "monet_edge.cli", "numpy"])
def test_ctrl_c_while_starting(tmp_path, module):
    """As if it came while a module is imported: before the command line can say anything."""
    code = f"""
import sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}: raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from monet_edge.__main__ import main
sys.argv = ["monet-edge", "segment", {str(tmp_path / "scan.nii")!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_write_the_same_output(command, tmp_path, overwrite):
    """One wins, or both; the mask is whole, and nothing else is left."""
    options = ["--overwrite"] if overwrite else []
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: command(*options), range(4)))
    codes = sorted(one.returncode for one in done)
    assert codes == [0, 0, 0, 0] if overwrite else [0, 2, 2, 2]
    assert all("exists already" in one.stderr for one in done if one.returncode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii", "scan_seg.nii.gz"]
    assert volume.read(tmp_path / "scan_seg.nii.gz").shape == (32, 32, 6)


def test_threads_share_a_model(weights_file, tmp_path):
    """Six scans of different sizes in six threads of one process: the same masks as one after the other."""
    model = load(weights_file, 2)
    scans = []
    for i in range(6):
        path = tmp_path / f"{i}.nii"
        path.write_bytes(nifti(head((20 + i, 24, 5 + i), seed=i)))
        scans.append(path)
    one = [pipeline.segment(path, tmp_path / f"one{path.name}", model=model) for path in scans]
    with ThreadPoolExecutor(6) as pool:
        many = list(pool.map(lambda path: pipeline.segment(path, tmp_path / f"many{path.name}", model=model), scans))
    for ref, comp in zip(one, many, strict=True):
        assert ref.job.mask.read_bytes() == comp.job.mask.read_bytes()


# ---- what a run may touch ----

WATCH = """
import json, os, socket, sys
seen = {"written": [], "network": [], "started": []}
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen["written"].append(os.fsdecode(arguments[0]))
    elif event in ("os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "os.symlink"):
        seen["written"] += [os.fsdecode(path) for path in arguments[:2] if isinstance(path, (str, bytes))]
    elif event.startswith("socket."):
        seen["network"].append(event)
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class"):
        seen["started"].append(event)
sys.addaudithook(watch)
from monet_edge.__main__ import main
try:
    main()
finally:
    with open(sys.argv[2] + ".json", "w") as file:
        json.dump(seen, file)
"""


def test_a_run_touches_its_results_and_its_cache_and_nothing_else(weights_file, tmp_path):
    """The interpreter itself reports every file opened for writing, every socket, every program started, every pickle."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.nii").write_bytes(nifti(head((32, 32, 6))))
    arguments = ["segment", tmp_path / "in" / "scan.nii", "-o", tmp_path / "out" / "mask.nii.gz", "-m", weights_file, "--preview"]
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for number in range(2):  # compiling, and with the compiled
        done = subprocess.run(
            [sys.executable, "-B", "-c", WATCH, *map(str, arguments), *["--overwrite"] * number],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        seen = json.loads((tmp_path / "in" / "scan.nii.json").read_text())
        assert seen["network"] == []
        assert seen["started"] == []
        allowed = (str(tmp_path / "out"), str(tmp_path / "cache"), "/dev/")
        assert [path for path in seen["written"] if not path.startswith(allowed) and not path.endswith(".json")] == []
    assert any(path.startswith(str(tmp_path / "out")) for path in seen["written"])  # the watch is awake


def test_no_source_runs_what_a_file_says():
    """No pickle, no eval, no program started by the runtime; PyTorch, if at all, loads with weights_only."""
    for path in [*ROOT.glob("monet_edge/**/*.py"), *ROOT.glob("trainer/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            banned = {"pickle", "marshal", "shelve", "dill", "joblib"} | (
                {"subprocess"} if path.is_relative_to(ROOT / "monet_edge") else set()
            )
            assert not banned & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                call, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert call not in {"eval", "exec", "os.system", "os.popen"}, path
                assert call != "torch.load" or keywords.get("weights_only") == "True", path
                assert keywords.get("allow_pickle", "False") == "False", path


def test_every_test_that_security_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    there = {name for path in ROOT.glob("tests/test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    files = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 8
    assert named <= there
    assert all((ROOT / "tests" / name).exists() for name in files)
