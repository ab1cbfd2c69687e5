"""Write files whole or not at all, and never over the input: temporary ones beside them, flushed to the disk, take their names at the end.

Also what is asked of a folder before the work: that it can be one, and that nobody else works in it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from . import system
from .errors import OutputError


@contextmanager
def atomic_write(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A binary file to write to that becomes ``path`` when the block ends, and vanishes when it fails.

    What a killed process left behind of an earlier attempt at ``path``, before this one first wrote into its folder, is removed; a
    living one's is not.

    Raises
    ------
    OutputError
        If ``path`` exists and may not be overwritten, or the disk refuses.
    """
    refuse_special(path)
    try:
        _remove_leftovers(path)
        temporary, handle = _create(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    lock = os.dup(handle) if system.locks_open_files() else None  # held until the file has its name
    try:
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                _place(temporary, path)
        except FileExistsError:
            raise OutputError(f"{path} exists already", "Choose another {output}, or say {overwrite}.") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if lock is not None:
            os.close(lock)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together, replacing what is there: all of them, or none and everything is as before.

    Of two processes that write the same files at once the second waits: what is there in the end is all of one.

    Raises
    ------
    OutputError
        If one of the paths is no regular file, or the disk refuses.
    """
    for path in contents:
        refuse_special(path)
    replaced: dict[Path, Path | None] = {}
    with ExitStack() as stack:
        for folder in sorted({path.parent for path in contents}):
            _hold(folder, stack)
        try:
            new = {path: _temporary(path, content, stack) for path, content in contents.items()}
            old = {path: _backup(path, stack) if path.exists() else None for path in contents}
            for path, temporary in new.items():
                os.replace(temporary, path)
                replaced[path] = old[path]
        except BaseException as error:  # Ctrl-C too
            for done, before in replaced.items():
                if before is None:
                    done.unlink()
                else:
                    os.replace(before, done)
            if isinstance(error, OSError):
                paths = ", ".join(map(str, contents))
                raise OutputError(f"{paths}: cannot be written: {error.strerror or error}; all are as they were") from None
            raise


def _hold(folder: Path, stack: ExitStack) -> None:
    """Wait until nobody else holds a folder, and hold it; no file tells of it. Where folders have no locks, as on Windows, nobody waits."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)
        system.lock(handle)


def _temporary(path: Path, content: bytes, stack: ExitStack) -> Path:
    """A new file beside ``path`` with this content on the disk; the stack removes it unless it has been renamed."""
    _remove_leftovers(path)
    temporary, handle = _create(path)
    stack.callback(temporary.unlink, missing_ok=True)
    if system.locks_open_files():
        stack.callback(os.close, os.dup(handle))  # keeps the lock until the file has its name
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _backup(path: Path, stack: ExitStack) -> Path:
    """What ``path`` is now, under another name: a link, or a copy on a file system without links."""
    backup = path.with_name(f"{_prefix(path)}{os.urandom(4).hex()}.before")
    stack.callback(backup.unlink, missing_ok=True)
    if not system.link(path, backup):
        shutil.copy2(path, backup)
    return backup


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, created if need be, for this process alone; the lock ends with the process, however that ends.

    Raises
    ------
    OutputError
        If another process holds it, or it cannot be created.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        held = False
        with suppress(OSError):  # a file system without locks keeps nobody out
            held = not system.try_lock(file)
        if held:
            raise OutputError(f"{folder}: another process works in this folder. Wait for it, or choose another one.")
        yield


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that could not be written in; it need not exist yet.

    Raises
    ------
    OutputError
        If it, or what it would lie in, is a file, or may not be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        what = "a file" if there.exists() else "a link that leads nowhere"
        raise OutputError(f"{there} is {what}; expected a folder{'' if there == folder else f' to make {folder} in'}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{there}: nothing may be written in this folder")


def refuse_special(path: Path) -> None:
    """Refuse to replace a folder or a device by a result.

    Raises
    ------
    OutputError
        If there is one at ``path``, or it cannot be looked at.
    """
    try:
        special = path.exists() and not path.is_file()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    if special:
        raise OutputError(f"{path} is not a regular file", "Choose another {output}.")


def refuse_input(path: Path, scan: Path, option: str = "output") -> None:
    """Refuse to write to what is the scan itself, be it through a link; ``option`` is the name of what the path was given by.

    Raises
    ------
    OutputError
        If it is.
    """
    if os.path.exists(path) and os.path.exists(scan) and os.path.samefile(path, scan):
        raise OutputError(f"{path} is the input itself{' (through a link)' if path != scan else ''}", f"Choose another {{{option}}}.")


def missing(path: Path, what: str = "file") -> str:
    """Why there is nothing at ``path``, naming the broken link on the way to it, if there is one."""
    for link in (path, *path.parents):
        if os.path.islink(link) and not os.path.exists(link):
            name = "" if link == path else f"{link} is "
            return f"no such {what}: {name}a link to {os.readlink(link)}, which is not there"
    return f"no such {what}"


def _create(path: Path) -> tuple[Path, int]:
    """A new temporary file and its open handle, locked: while this process lives, no other removes it as a leftover."""
    while True:
        temporary = path.with_name(f"{_prefix(path)}{os.urandom(4).hex()}.part")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with suppress(OSError):  # a file system without locks: then no other process can tell leftovers either
            system.lock(handle)
        if system.locks_open_files() and os.fstat(handle).st_nlink == 0:  # removed as a leftover between its creation and its lock
            os.close(handle)
            continue
        return temporary, handle


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of all killed processes from a folder, once those that go on have written into it."""
    with suppress(OSError):  # it is missing
        for path in list(folder.glob(".*.part")):
            if re.fullmatch(r"\..{1,50}\.[0-9a-f]{8}\.part", path.name, re.DOTALL):
                _remove_dead(path)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of earlier attempts at ``path``, as it lay there when this one first wrote into the folder."""
    for name in _leftovers(path.parent.absolute()):
        if re.fullmatch(f"{re.escape(_prefix(path))}.{{8}}.part", name, re.DOTALL):
            _remove_dead(path.with_name(name))


def _remove_dead(temporary: Path) -> None:
    """Remove a temporary file whose process has ended: the system has released its lock."""
    with suppress(OSError):  # in use, gone already, or not ours to remove
        if not system.locks_open_files():
            temporary.unlink()
            return
        with temporary.open("r+b") as file:
            if system.try_lock(file):
                temporary.unlink()


@cache  # to list a folder of 100,000 results before each of them takes longer than a small scan
def _leftovers(folder: Path) -> tuple[str, ...]:
    """Temporary files that were there when this process first wrote into a folder."""
    with suppress(OSError):  # it may be one to write in only, or missing
        return tuple(name for name in os.listdir(folder) if name.endswith(".part"))
    return ()


def _prefix(path: Path) -> str:
    return f".{path.name[:50]}."  # a name may have 255 bytes, a character up to 4


def _place(temporary: Path, path: Path) -> None:
    """Rename, never replacing what somebody else wrote meanwhile: unlike a rename, a link refuses."""
    if not system.link(temporary, path):
        # A file system without links (FAT, some network ones): claim the name, then take it. Killed between the two
        # lines, an empty file would stay.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(temporary, path)
