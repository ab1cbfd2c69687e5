"""What the records of many runs say together: done, failed, left, how fast, and what was slow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nlargest
from pathlib import Path
from typing import Any

from ..errors import MonetError
from .journal import SUFFIX


@dataclass(slots=True)
class _Run:
    """What a file says from a line of how a run began to the next such line."""

    begun: datetime
    scans: int
    there: int
    ended: int = 0
    slices: int = 0
    last: datetime | None = None

    @property
    def seconds(self) -> float:
        return ((self.last or self.begun) - self.begun).total_seconds()


@dataclass(frozen=True, slots=True)
class _Scan:
    """What became of a scan; ``error`` is empty where it was done."""

    ended: datetime
    error: str
    seconds: float


class Summary:
    """The records of one or several runs over the same scans, each scan by what became of it at last.

    Attributes
    ----------
    done, there, left : int
        Scans; ``there`` the last run of their part passed over, without any record of them; ``left`` it has not come to yet.
    failed : dict of str to str
        The kind of error, by path.
    slices : int
        Of all runs.
    seconds : float
        The time that all runs took, one after the other.
    damaged : int
        Lines that are not whole.

    Raises
    ------
    MonetError
        If a file cannot be read or holds no records.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._scans: dict[tuple[str, str], _Scan] = {}  # by model and path
        self._runs: list[_Run] = []
        latest: dict[tuple[str, str], _Run] = {}  # by model and part
        self.damaged = 0
        for path in (file for place in paths for file in _files(place)):
            self._read(path, latest)
        done = sum(not scan.error for scan in self._scans.values())
        self.failed = {path: scan.error for (_, path), scan in sorted(self._scans.items()) if scan.error}
        self.left = sum(max(run.scans - run.there - run.ended, 0) for run in latest.values())
        self.there = max(sum(run.scans for run in latest.values()) - self.left - len(self._scans), 0)
        self.done, self.slices = done, sum(run.slices for run in self._runs)
        self.seconds = sum(run.seconds for run in self._runs)

    def slow(self, count: int) -> list[tuple[float, str]]:
        """Seconds and paths of the scans that took longest."""
        return nlargest(count, ((scan.seconds, path) for (_, path), scan in self._scans.items()))

    def lines(self, slow: int = 5) -> list[str]:
        """For people, with so many of the slow ones."""
        counts = {"done": self.done, "done without a record": self.there, "failed": len(self.failed), "left": self.left}
        told = [f"scans: {', '.join(f'{number:,} {what}' for what, number in counts.items() if number) or 'none'}"]
        kinds = Counter(self.failed.values()).most_common()
        if kinds:
            told.append(f"failed: {', '.join(f'{number:,} {kind}' for kind, number in kinds)}")
        if self.slices and self.seconds:
            told.append(f"slices: {self.slices:,}, {self.slices / self.seconds:.1f} a second ({timedelta(seconds=round(self.seconds))})")
        told += [f"slow: {seconds:.1f} s {path}" for seconds, path in self.slow(slow)]
        if self.damaged:
            told.append(f"lines that are not whole, of runs that were killed: {self.damaged:,}")
        return told

    def _read(self, path: Path, latest: dict[tuple[str, str], _Run]) -> None:
        run, model = None, ""
        for line in self._parse(path):
            try:
                if "begun" in line:
                    run, model = _Run(datetime.fromisoformat(line["begun"]), line["scans"], line["there"]), line["sha256"]
                    key = model, line["part"] or ""
                    self._runs.append(run)
                    if key not in latest or latest[key].begun <= run.begun:
                        latest[key] = run
                elif run is not None:
                    self._add(line, run, model)
            except (KeyError, TypeError, ValueError, AttributeError):
                self.damaged += 1
        if run is None:
            raise MonetError(f"{path}: not a file of records")

    def _add(self, line: dict[str, Any], run: _Run, model: str) -> None:
        ended = datetime.fromisoformat(line["ended"])
        scan = _Scan(ended, line.get("error", ""), sum(line.get("seconds", {}).values()))
        run.ended, run.slices, run.last = run.ended + 1, run.slices + line.get("slices", 0), ended
        before = self._scans.get((model, line["scan"]))
        if before is None or before.ended <= ended:
            self._scans[model, line["scan"]] = scan

    def _parse(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            with path.open("rb") as file:
                for text in file:
                    try:
                        line = json.loads(text)
                    except ValueError:
                        line = None
                    if isinstance(line, dict):
                        yield line
                    else:
                        self.damaged += 1
        except OSError as error:
            raise MonetError(f"{path}: cannot be read: {error.strerror}") from None


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise MonetError(f"{path}: no records (*{SUFFIX}) in this folder")
    return files
