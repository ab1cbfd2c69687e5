"""What a run did, for whoever has to repeat or audit it: versions, machine, model, options, every scan, times, memory.

Scans appear by their number in the run, not by path: a path may hold a name. `--with-identifiers` adds it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import system
from ..about import DISCLAIMER, __version__
from ..errors import KilledError, MonetError, OutputError, ResourceError, ScanError
from ..files import atomic_write
from ..report.statistics import describe

if TYPE_CHECKING:
    from ..pipeline import Outcome
    from ..weights import Weights

PACKAGES = ("numpy", "numba", "llvmlite", "nibabel", "safetensors", "pillow", "typer", "connected-components-3d")
# An error's own words name the file; these don't.
_FAILURES = {
    ScanError: "the scan cannot be read",
    OutputError: "a result cannot be written",
    ResourceError: "not enough memory",
    KilledError: "its worker was killed",
    MemoryError: "not enough memory",
    MonetError: "it cannot be segmented",
}


def entry(number: int, path: Path | None, became: Outcome | Exception) -> dict[str, Any]:
    """One scan of a run as a JSON-able record, for the run's record and the table of statistics.

    Words and numbers only: the frames of an exception hold the volume.

    Parameters
    ----------
    number : int
        In the order of the run, from 1.
    path : Path, optional
        None, unless identifiers are wanted: then the words of an error, which name the file, are kept too.
    became : Outcome or Exception
        Its result, or why there is none.
    """
    record = _named(number, path)
    if isinstance(became, Exception):
        words = as_utf8(became.fact if isinstance(became, MonetError) else str(became)) if path is not None else _failure(became)
        return record | {"error": words, "labels": [], "warnings": []}
    record |= {"labels": describe(became.labels), "warnings": list(became.warnings)}
    return record | {"seconds": {stage: round(seconds, 3) for stage, seconds in became.times.items()}}


def passed_over(number: int, path: Path | None) -> dict[str, Any]:
    """The `entry` of a scan whose results were there already: they are not measured again."""
    return _named(number, path) | {"labels": [], "warnings": ["its results were there already"]}


def _named(number: int, path: Path | None) -> dict[str, Any]:
    return {"scan": number} if path is None else {"scan": number, "path": as_utf8(str(path))}


def as_utf8(text: str) -> str:
    """Text with file names in it as UTF-8 shows them: without a locale Python hands their bytes out one by one, as surrogates."""
    errors = sys.getfilesystemencodeerrors()
    return text.encode("utf-8", errors).decode("utf-8", errors)


def _failure(error: Exception) -> str:
    return next((words for kind, words in _FAILURES.items() if isinstance(error, kind)), "unexpected error")


def write(
    path: Path, weights: Weights, threads: int, options: Mapping[str, Any], scans: Sequence[Mapping[str, Any]], *, overwrite: bool
) -> None:
    """Write the record of a run as JSON.

    Parameters
    ----------
    path : Path
    weights : Weights
        Of the model.
    threads : int
        How many slices ran at a time.
    options : dict
        What was asked for, no paths.
    scans : sequence of dict
        From `entry`.
    overwrite : bool
    """
    record = {
        "format": "monet-edge run 1",
        "disclaimer": DISCLAIMER,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"monet-edge": __version__, "python": platform.python_version(), **_versions()},
        "system": system.name(),
        "cpu": system.cpu(),
        "threads": threads,
        "model": {
            "name": weights.name,
            "network": weights.spec.name,
            "sha256": weights.sha256,
            "licence": weights.provenance.get("licence"),
        },
        "options": dict(options),
        "scans": list(scans),
        "peak_memory_mb": system.peak_memory(),
    }
    with atomic_write(path, overwrite=overwrite) as file:
        file.write((json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace"))


def _versions() -> dict[str, str]:
    from importlib import metadata  # 10 ms

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return found
