"""The records of a run while it goes: a JSON line for every scan, appended as it ends.

A working file for whoever runs over an archive, readable by its owner alone: it holds the scans' paths, and nothing of it enters a page
or a table. Every writer has a file of its own, since appends of several to one are not safe on network file systems.

    {"begun": time, "host": ..., "version": ..., "model": ..., "sha256": ..., "options": {...}, "part": "3/7", "scans": 14286, "there": 20}
    {"scan": path, "host": ..., "ended": time, "slices": 24, "seconds": {stage: ...}, "volumes": {label: ml}, "warnings": [...]}
    {"scan": path, "host": ..., "ended": time, "error": "ScanError", "text": "...", "warnings": []}

A line that says how a run began holds for the lines after it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import system
from ..errors import MonetError, OutputError
from .find import Part
from .record import as_utf8

if TYPE_CHECKING:
    from .task import Ended

SUFFIX = ".jsonl"


def place(path: Path, part: Part | None) -> Path:
    """The file that a run writes its records to: ``path``, or in this folder one for the part and the host.

    Raises
    ------
    OutputError
        If it is neither a .jsonl file nor a folder.
    """
    if path.name.endswith(SUFFIX):
        return path
    if path.suffix and not os.path.isdir(path):
        raise OutputError(f"{path}: records are written to a {SUFFIX} file, or to a folder", "Choose such a name for {records}.")
    host = re.sub(r"[^\w.-]", "_", system.host())
    share = "" if part is None else f"part{part.index:0{len(str(part.count))}}of{part.count}-"
    return path / f"{share}{host}{SUFFIX}"


class Journal:
    """An open file of records; from `opened`."""

    def __init__(self, file: BinaryIO, path: Path, base: Path | None) -> None:
        self._file, self._path, self._base = file, path, base

    def begin(self, about: Mapping[str, Any]) -> None:
        """Say how the run begins."""
        self._append({"begun": _now(), "host": system.host(), **about})

    def end(self, ended: Ended) -> None:
        """Say what became of a scan; on the disk, as far as this process is concerned, once this returns."""
        scan, became = ended.task.job.scan, ended.became
        if self._base is not None and scan.is_relative_to(self._base):
            scan = scan.relative_to(self._base)
        about: dict[str, Any] = {"scan": str(scan), "host": ended.host, "ended": _now()}
        if isinstance(became, Exception):
            text = became.fact if isinstance(became, MonetError) else str(became)
            self._append(about | {"error": type(became).__name__, "text": as_utf8(" ".join(text.split())), "warnings": []})
            return
        seconds = {stage: round(value, 4) for stage, value in became.times.items()}
        about |= {"slices": ended.slices, "seconds": seconds, "volumes": became.volumes, "warnings": list(became.warnings)}
        self._append(about)

    def _append(self, line: Mapping[str, Any]) -> None:
        # bytes of a file's name that are no text become escapes, from which they can be had again
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from None


@contextmanager
def opened(path: Path, base: Path | None) -> Iterator[Journal]:
    """Append to a file of records, this process alone.

    Parameters
    ----------
    path : Path
        From `place`; created if need be, for its owner alone.
    base : Path, optional
        Scans below it are named by their path from there.

    Raises
    ------
    OutputError
        If it cannot be written, or another process writes to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "Choose another {records}.") from None
    with os.fdopen(handle, "r+b") as file:
        free = True
        with suppress(OSError):  # a file system without locks keeps nobody out
            free = system.try_lock(file)
        if not free:
            raise OutputError(f"{path}: another run writes to it", "Choose another {records}, or a folder for the files of all parts.")
        system.make_private(handle)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # killed in the middle of a line
                file.write(b"\n")
        yield Journal(file, path, base)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
