"""What goes wrong around a run: full disks, closed folders, Ctrl-C, kill -9, others who write the same file."""

import ctypes
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from fuzz import kills
from fuzz.build import head, nifti

from monet_edge import formats, pipeline, system
from monet_edge.engine.codegen import cache
from monet_edge.model import load

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(weights_file, tmp_path):
    """The command on a small scan, in a process of its own."""
    (tmp_path / "scan.nii").write_bytes(nifti(head((32, 32, 6))))

    def run(*arguments, before=None, env=None):
        call = [sys.executable, "-m", "monet_edge", "segment", tmp_path / "scan.nii", "-m", weights_file, *arguments]
        return subprocess.run([str(part) for part in call], capture_output=True, text=True, cwd=ROOT, preexec_fn=before, env=env)

    return run


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
    assert done.stderr == f"monet-edge: {folder}: nothing can be written to this folder. Choose another --output.\n"
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


def test_what_lies_in_a_closed_folder(command, tmp_path):
    """Python 3.11 raises PermissionError when asked whether such a file exists."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "scan.nii").touch()
    closed.chmod(0)
    done = command(closed / "scan.nii", before=ordinary)
    assert done.returncode == 1  # the other scan is segmented
    assert f"monet-edge: {closed / 'scan.nii'}: cannot be read: Permission denied\n" in done.stderr
    for arguments, message in ((["-o", closed / "mask.nii"], "nothing can be written"), (["-m", closed / "a.safetensors"], "no such file")):
        done = command(*arguments, "--overwrite", before=ordinary)
        assert done.returncode == 2
        assert message in done.stderr
        assert "unexpected" not in done.stderr


@pytest.mark.slow
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
        kept = list((tmp_path / "home").rglob("*.o"))
        assert kept
        for file in kept:
            file.write_bytes(file.read_bytes()[:-100])
        assert command("--overwrite", env=environment).returncode == 0
        assert (tmp_path / "scan_seg.nii.gz").read_bytes() == first


@pytest.mark.parametrize("home", ["", "nowhere"])
def test_no_home_is_no_cache_folder(monkeypatch, home):
    """Row 23: a process without a home, as in many containers; a relative one is none either."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", home) if home else path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.folder() is None


@pytest.mark.parametrize(("owner", "mode", "trusted"), [("us", 0o700, True), ("root", 0o755, True), ("other", 0o755, False),
                                                         ("us", 0o770, False), ("root", 0o777, False)])  # fmt: skip
def test_kernels_are_run_from_a_folder_of_ours_or_roots_that_nobody_else_may_write(monkeypatch, owner, mode, trusted):
    """An image or a cluster warms them once, as root, for all its users."""
    monkeypatch.setattr(os, "getuid", lambda: 1234, raising=False)
    status = SimpleNamespace(st_uid={"us": 1234, "root": 0, "other": 77}[owner], st_mode=mode)
    assert system.is_private(SimpleNamespace(stat=lambda: status)) is trusted


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert formats.read(tmp_path / "scan_seg.nii.gz").shape == (32, 32, 6)


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
