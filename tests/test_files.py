"""A result appears whole or not at all, and never in place of what was not to be replaced."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from monet_edge import system
from monet_edge.errors import OutputError
from monet_edge.files import atomic_write, check_folder, locked, remove_leftovers, write_together

ROOT = Path(__file__).parents[1]


@contextmanager
def held(folder):
    handle = os.open(folder, os.O_RDONLY)
    system.lock(handle)
    try:
        yield
    finally:
        os.close(handle)


def write(path, content=b"new", overwrite=False, meanwhile=lambda: None):
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(content)
        meanwhile()


def test_written_whole(tmp_path):
    write(tmp_path / "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_result_has_the_permissions_of_any_new_file(tmp_path):
    write(tmp_path / "a.bin")
    (tmp_path / "b.bin").touch()
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "b.bin").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failure_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "a.bin"
    if before:
        path.write_bytes(before)

    def fail():
        raise error

    with pytest.raises(error):
        write(path, b"half", overwrite=True, meanwhile=fail)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


def test_what_exists_is_not_replaced_even_if_it_came_meanwhile(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(OutputError, match="exists already"):
        write(path, b"mine", meanwhile=lambda: path.write_bytes(b"theirs"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs"]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_file_system_without_links(tmp_path, monkeypatch, meanwhile):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.bin"
    if meanwhile:
        path.write_bytes(b"theirs")
        with pytest.raises(OutputError, match="exists already"):
            write(path)
    else:
        write(path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs" if meanwhile else b"new"]


def test_a_file_system_without_links_on_macos(tmp_path):
    """There ENOTSUP, what link says on exFAT, and EOPNOTSUPP are two numbers."""
    code = f"""
import errno, os
from pathlib import Path
errno.EOPNOTSUPP = 102
def link(*_): raise OSError(errno.ENOTSUP, "Operation not supported")
os.link = link
from monet_edge.files import atomic_write, check_folder, locked, write_together
with atomic_write(Path({str(tmp_path)!r}) / "a.bin", overwrite=False) as file:
    file.write(b"new")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_a_link_is_replaced_and_its_target_kept(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "target").read_bytes() == b"old"
    assert not (tmp_path / "link").is_symlink()


def test_a_folder_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(OutputError, match="not a regular file"):
            write(path, overwrite=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("name", ["missing/a.bin", "file/a.bin", "x" * 300])
def test_where_nothing_can_be_written(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / name)


@pytest.mark.parametrize("name", ["é" * 127, "[a]*?.nii", " leading and trailing "])
def test_any_name_that_the_system_allows(tmp_path, name):
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk(tmp_path):
    code = f"""
import resource
from monet_edge.files import atomic_write, check_folder, locked, write_together
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with atomic_write(Path({str(tmp_path)!r}) / "a.bin", overwrite=True) as file:
    file.write(bytes(2000))
"""
    (tmp_path / "a.bin").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "OutputError" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


HOLD = """
import sys
from pathlib import Path
from monet_edge.files import atomic_write, check_folder, locked, write_together
with atomic_write(Path(sys.argv[1]), overwrite=True) as file:
    file.write(b"half"); file.flush(); print("written", flush=True); sys.stdin.read()
"""


def test_leftovers_of_the_dead_are_removed_and_the_living_left_alone(tmp_path):
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    (tmp_path / ".a.bin.notes.part").write_bytes(b"somebody's own")
    started = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        for target in (path, path, other)
    ]
    killed, living, _ = started
    for process in started:
        assert process.stdout.readline() == b"written\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list(tmp_path.glob("*.part"))) == 4
    write(path)
    assert len(list(tmp_path.glob(".a.bin.????????.part"))) == 1
    started[2].kill()
    started.pop().wait()
    remove_leftovers(tmp_path)  # of any result, once this process has written here
    assert len(list(tmp_path.glob("*.part"))) == 2
    for process in started[1:]:
        process.communicate()
    assert living.returncode == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a.bin.notes.part", "a.bin"]
    assert path.read_bytes() == b"half"


def test_a_folder_is_listed_once_whatever_is_written_into_it(tmp_path, monkeypatch):
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or real(folder))
    for i in range(5):
        write(tmp_path / f"{i}.bin")
    assert listed == [tmp_path]


def test_many_threads_write_one_name(tmp_path):
    """Exactly one wins; nobody else's temporary file is taken for dead."""
    path, outcomes, refusals = tmp_path / "a.bin", [], []

    def attempt(i):
        try:
            write(path, bytes([i]) * 10_000)
            outcomes.append(i)
        except OutputError as error:
            refusals.append(str(error))

    for round_ in range(20):
        threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == round_ + 1
        assert path.read_bytes() == bytes([outcomes[-1]]) * 10_000
        assert len(list(tmp_path.iterdir())) == 1
        path.unlink()
    assert set(refusals) == {f"{path} exists already. Choose another output, or say overwrite."}


@pytest.mark.parametrize("fails", [1, 2, 3, None])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_files_that_belong_together_are_replaced_together(tmp_path, monkeypatch, fails, error):
    """Whichever of three replacements fails, what was there stays, and what was not there does not come."""
    old, new = {"a": b"old a", "c": b"old c"}, {"a": b"new a", "b": b"new b", "c": b"new c"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    calls, real = [], os.replace

    def replace(*given):
        calls.append(given)
        if len(calls) == fails:
            raise error
        real(*given)

    monkeypatch.setattr(os, "replace", replace)
    contents = {tmp_path / name: content for name, content in new.items()}
    if fails is None:
        write_together(contents)
    else:
        with pytest.raises((OutputError, KeyboardInterrupt)):
            write_together(contents)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == (new if fails is None else old)


def test_files_that_belong_together_need_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match="b is not a regular file"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old"
    write_together({tmp_path / "a": b"new"})
    assert (tmp_path / "a").read_bytes() == b"new"


def test_who_writes_files_that_belong_together_waits_for_another(tmp_path):
    """Two exports to one output: not one's weights with the other's card."""
    contents = {tmp_path / name: b"new" for name in "ab"}
    with held(tmp_path):
        writer = threading.Thread(target=write_together, args=(contents,))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert not list(tmp_path.iterdir())
    writer.join(20)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_a_folder_is_one_process_alone(tmp_path):
    """Another process is refused while the first holds it, and not once that is dead, however it died."""
    holding = "import sys, pathlib; from monet_edge.files import locked\nwith locked(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(OutputError, match="run: another process works in this folder"), locked(tmp_path / "run"):
        pass
    other.kill()
    other.communicate()
    with locked(tmp_path / "run"):
        pass


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new" / "er")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OutputError, match=r"file is a file; expected a folder$"):
        check_folder(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match=r"link is a link that leads nowhere; expected a folder$"):
        check_folder(tmp_path / "link")
    with pytest.raises(OutputError, match=r"file is a file; expected a folder to make .*sub in"):
        check_folder(tmp_path / "file" / "sub")
