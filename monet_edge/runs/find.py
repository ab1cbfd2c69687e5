"""Which files are scans: named, in folders and the folders in them, or in a list; and which part of them this run does."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import MonetError, ScanError
from ..formats import OTHERS, SCANS, holds_dicom, holds_study, is_ours

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """A scan of a run.

    Attributes
    ----------
    scan : Path
    folder : Path or None
        The folder given that it lies in, at any depth; None if it was named itself.
    """

    scan: Path
    folder: Path | None = None

    @property
    def branch(self) -> Path:
        """The folders between; its results go into the same ones, below the folder for results."""
        return Path() if self.folder is None else self.scan.parent.relative_to(self.folder)


@dataclass(frozen=True)
class Part:
    """One of several runs that share the work.

    Attributes
    ----------
    index, count : int
        Part ``index`` of ``count``, counted from 1.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, scans: Sequence[T]) -> Sequence[T]:
        """Every ``count``-th scan: each is in exactly one part."""
        return scans[self.index - 1 :: self.count]


def parse_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """``I/N``, or what Slurm says: ``slurm`` is the task's number in its array, wherever the array begins to count.

    Raises
    ------
    MonetError
        If it is neither, or the array's numbers do not follow each other: then two tasks might do the same part.
    """
    if text != "slurm":
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise MonetError(f"part: expected I/N with I from 1 to N, such as 3/7, or slurm; found {text!r}")
        return Part(int(found[1]), int(found[2]))
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    numbers = [int(value) for name in names if (value := environment.get(name, "")).isdecimal()]
    if len(numbers) < 2 or numbers[1] < 1:
        raise MonetError(f"part slurm: {' and '.join(names)} are not set: this is no task of a Slurm array", "Give {part} as I/N.")
    task, count = numbers
    first, last = (int(environment.get(f"SLURM_ARRAY_TASK_{end}", default)) for end, default in (("MIN", 0), ("MAX", count - 1)))
    if last - first + 1 != count:
        raise MonetError(
            f"part slurm: the array has {count} tasks from {first} to {last}; expected numbers that follow each other",
            "Give {part} as I/N.",
        )
    return Part(task % count + 1, count)  # one after the other, from whatever number: each remainder comes once


def find_scans(paths: Iterable[Path], listed: Path | None = None) -> list[Found]:
    """Every scan named, and those inside every folder named, at any depth, in order and once; in folders masks of ours are passed over.

    A folder is a scan itself where it holds DICOM: if all beneath it is of one study, the folder named, else each that holds some. Which
    of its series is meant is decided when it is read.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders.
    listed : Path, optional
        A list: then its scans alone, the folders saying where what is relative in it lies, and below what the tree is kept.

    Raises
    ------
    ScanError
        If a folder holds no scan, or a list cannot be read or holds none.
    """
    if listed is not None:
        return _from_list(listed, list(paths))
    found: dict[str, Found] = {}
    paths = list(paths)
    if not paths:
        raise ScanError("no scan", "Name scans or folders, or give {list}.")
    for path in paths:
        if os.path.isdir(path):
            study = holds_study(path)
            inside = [Found(path)] if study else []
            inside += [Found(scan, path if scan != path else None) for scan in _walk(path) if not (study and os.path.isdir(scan))]
            if not inside:
                raise ScanError(f"{path}: no scan ({', '.join(SCANS)}, DICOM) in this folder")
        else:
            inside = [Found(path)]
        for one in inside:
            found.setdefault(str(one.scan), one)
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    """The scans in a folder and the folders in it, links followed, each real folder once; the same order everywhere."""

    def refuse(error: OSError) -> None:
        raise ScanError(f"{error.filename}: this folder cannot be read: {error.strerror}") from None

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link back up, or a second one to the same folder
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from scans_in(Path(place), sorted(files))


def scans_in(folder: Path, files: list[str]) -> list[Path]:
    """Which of a folder's files are scans, and the folder itself where it holds DICOM."""
    shown = [name for name in files if not name.startswith(".")]
    named = [folder / name for name in shown if name.lower().endswith(SCANS) and not name.lower().endswith(OTHERS)]
    return [scan for scan in named if not is_ours(scan)] + [folder] * holds_dicom(folder)


def _from_list(listed: Path, folders: list[Path]) -> list[Found]:
    """The scans of a list, in its order and once."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise ScanError(f"{folder}: not a folder; beside a list only the folders are given that its scans lie in")
    base = folders[0] if len(folders) == 1 else Path()
    roots = folders or [base]
    found: dict[str, Found] = {}
    for line in _lines(listed):
        scan = base / line
        root = next((root for root in roots if ".." not in scan.parts and scan.is_relative_to(root)), None)
        found.setdefault(str(scan), Found(scan, root))
    if not found:
        raise ScanError(f"{listed}: this list holds no path")
    return list(found.values())


def _lines(listed: Path) -> list[str]:
    """The paths of a list: a line each, or of a CSV file (.csv) the column ``path`` or else the first; "-" is standard input."""
    try:
        data = sys.stdin.buffer.read() if str(listed) == "-" else listed.read_bytes()
    except OSError as error:
        raise ScanError(f"{listed}: this list cannot be read: {error.strerror}") from None
    text = os.fsdecode(data).removeprefix("\ufeff").replace("\r\n", "\n")
    if listed.suffix.lower() != ".csv":
        return [line for line in text.split("\n") if line.strip()]
    rows = [row for row in csv.reader(io.StringIO(text)) if any(row)]
    column = rows[0].index("path") if rows and "path" in rows[0] else None
    return [row[column or 0] for row in (rows if column is None else rows[1:]) if len(row) > (column or 0)]
