"""As on Windows and macOS: what a system may lack is hidden, and scans are segmented and files written as before."""

import ast
import builtins
import errno
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fuzz.build import head, nifti
from processes import HANGS

from monet_edge import limits, pipeline, runs, system
from monet_edge.engine.codegen import cache
from monet_edge.errors import OutputError
from monet_edge.files import atomic_write, locked, write_together
from monet_edge.model import load
from monet_edge.options import Options, RunOptions
from monet_edge.runs.here import Here
from monet_edge.runs.run import run_all


def no_fcntl(patch):
    """Windows: its own locks, here those of a module that notes what is locked."""
    held = set()

    def locking(handle, mode, count):
        file = os.fstat(handle).st_ino
        if file in held:
            raise OSError(errno.EACCES, "held")
        held.add(file)

    patch.setattr(system, "fcntl", None)
    patch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))


def no_locks(patch):
    """A network file system: locks exist, and are refused."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    patch.setattr(system.fcntl, "flock", flock)


def no_links(patch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    patch.setattr(os, "link", link)


def no_resource(patch):
    imported = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "resource":
            raise ImportError(name)
        return imported(name, *arguments, **options)

    patch.setattr(builtins, "__import__", refuse)


HIDDEN = {
    "fcntl": no_fcntl,
    "locks": no_locks,
    "links": no_links,
    "link": lambda patch: patch.delattr(os, "link"),
    "sched_getaffinity": lambda patch: patch.delattr(os, "sched_getaffinity"),
    "getuid": lambda patch: patch.delattr(os, "getuid"),
    "fchmod": lambda patch: patch.delattr(os, "fchmod"),
    "killpg": lambda patch: patch.delattr(os, "killpg"),
    "resource": no_resource,
    "/proc": lambda patch: [patch.setattr(module, "lines", lambda _: []) for module in (system, limits)],
}


@pytest.fixture(params=HIDDEN, ids=list(HIDDEN))
def hidden(request, monkeypatch):
    """One thing that this system has and others lack, hidden until the test ends."""
    HIDDEN[request.param](monkeypatch)
    return request.param


@pytest.fixture(scope="module")
def ref(weights_file, tmp_path_factory):
    """A scan and its mask, made with nothing hidden."""
    scan = tmp_path_factory.mktemp("ref") / "scan.nii"
    scan.write_bytes(nifti(head((32, 32, 4))))
    return scan, pipeline.segment(scan, model=load(weights_file, 1)).job.mask.read_bytes()


def test_a_scan_is_segmented_and_recorded_whatever_the_system_lacks(hidden, ref, weights_file, tmp_path):
    plan = runs.make_plan([ref[0]], tmp_path / "mask.nii.gz", Options(preview=True), RunOptions(run_record=tmp_path / "run.json"))
    ((_, outcome),) = run_all(plan, Here(load(weights_file)))
    assert outcome.job.mask.read_bytes() == ref[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nii.gz", "mask_preview.png", "run.json"]
    found = (limits.usable_cores() >= 1, limits.available(), system.peak_memory(), system.cpu())
    assert found[0]
    assert (found[1] is None) == (hidden == "/proc")
    assert (found[2] is None) == (hidden == "resource")
    assert found[3]


def test_a_file_is_written_whole_or_not_at_all_whatever_the_system_lacks(hidden, tmp_path):
    path = tmp_path / "result"
    with atomic_write(path, overwrite=False) as file:
        file.write(b"one")
    with pytest.raises(OutputError, match="exists already"), atomic_write(path, overwrite=False) as file:
        file.write(b"two")
    with pytest.raises(TypeError), atomic_write(path, overwrite=True) as file:
        file.writelines([b"three", "no bytes"])
    assert path.read_bytes() == b"one"
    write_together({path: b"four", tmp_path / "other": b"five"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"result": b"four", "other": b"five"}


def test_a_folder_is_one_process_s_alone_where_there_are_locks(hidden, tmp_path):
    with locked(tmp_path):
        if hidden == "locks":
            with locked(tmp_path):
                return
        with pytest.raises(OutputError, match="another process works in this folder"), locked(tmp_path):
            pass


def test_where_there_are_no_locks_nobody_s_unfinished_file_is_taken_for_dead(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    with atomic_write(tmp_path / "result", overwrite=True) as file:
        file.write(b"mine")
        with atomic_write(tmp_path / "result", overwrite=True) as other:
            other.write(b"theirs")
    assert (tmp_path / "result").read_bytes() == b"mine"


def test_kernels_are_kept_whatever_the_system_lacks(hidden, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cache.folder() / "kernels.o"
    cache.write(file, b"code")
    assert cache.read(file) == b"code"


@pytest.mark.parametrize(
    ("platform", "variable", "place"), [("win32", "LOCALAPPDATA", "monet-edge"), ("darwin", "HOME", "Library/Caches/monet-edge")]
)
def test_kernels_are_kept_where_each_system_keeps_such_things(tmp_path, monkeypatch, platform, variable, place):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache.folder() == tmp_path / place


@pytest.mark.parametrize("group", [True, False])
def test_a_process_apart_is_killed_with_and_without_groups(tmp_path, monkeypatch, group):
    if not group:
        monkeypatch.delattr(os, "killpg")
    with (tmp_path / "lock").open("w") as lock:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **system.apart(lock))
    system.kill_group(process.pid)
    assert process.wait(HANGS) == -(signal.SIGKILL if group else signal.SIGTERM)
    system.kill_group(process.pid)  # is no more: no error


def test_no_other_file_asks_for_what_a_system_may_lack():
    """So that `system.py` is the one to look at for another system."""
    ours = Path(system.__file__).parent
    for path in [*ours.rglob("*.py"), *(ours.parent / "trainer" / "monet_train").rglob("*.py")]:
        if path == Path(system.__file__):
            continue
        tree = ast.parse(path.read_text())
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        asked = {f"os.{node.attr}" for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"}
        assert not modules & {"fcntl", "msvcrt", "resource"}, path
        assert not asked & {"os.link", "os.sched_getaffinity", "os.getuid", "os.fchmod", "os.killpg", "os.fork"}, path
