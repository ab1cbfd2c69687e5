"""What a run did, for whoever has to repeat or audit it: versions, machine, model, options, every scan, times, memory.

Scans appear by their number in the run, not by path: a path may hold a name. `--with-identifiers` adds it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import DISCLAIMER, __version__
from ..errors import MonetError, OutputError, ResourceError, ScanError
from ..files import atomic_write
from .statistics import LabelStatistics, describe

if TYPE_CHECKING:
    from ..model import Model

PACKAGES = ("numpy", "numba", "llvmlite", "nibabel", "safetensors", "pillow", "typer", "connected-components-3d")
# An error's own words name the file; these don't.
_FAILURES = {
    ScanError: "the scan cannot be read",
    OutputError: "a result cannot be written",
    ResourceError: "not enough memory",
    MemoryError: "not enough memory",
    MonetError: "it cannot be segmented",
}


def entry(
    number: int,
    path: Path | None,
    *,
    labels: Sequence[LabelStatistics] = (),
    warnings: Sequence[str] = (),
    times: Mapping[str, float] | None = None,
    error: Exception | None = None,
) -> dict[str, Any]:
    """One scan of a run as a JSON-able record, for the run's record and the table of statistics.

    Parameters
    ----------
    number : int
        In the order of the run, from 1.
    path : Path, optional
        None, unless identifiers are wanted: then the words of an error, which name the file, are told too.
    labels, warnings, times :
        As in `pipeline.Outcome`.
    error : Exception, optional
        Why there is no result.
    """
    told: dict[str, Any] = {"scan": number}
    if path is not None:
        told["path"] = _as_utf8(str(path))
    if error is not None:
        told["error"] = _as_utf8(str(error)) if path is not None else _failure(error)
    told |= {"labels": describe(labels), "warnings": list(warnings)}
    if times:
        told["seconds"] = {stage: round(seconds, 3) for stage, seconds in times.items()}
    return told


def _as_utf8(text: str) -> str:
    """Text with file names in it as UTF-8 shows them: without a locale Python hands their bytes out one by one, as surrogates."""
    errors = sys.getfilesystemencodeerrors()
    return text.encode("utf-8", errors).decode("utf-8", errors)


def _failure(error: Exception) -> str:
    return next((words for kind, words in _FAILURES.items() if isinstance(error, kind)), "unexpected error")


def write(path: Path, model: Model, options: Mapping[str, Any], scans: Sequence[Mapping[str, Any]], *, overwrite: bool) -> None:
    """Write the record of a run as JSON.

    Parameters
    ----------
    path : Path
    model : Model
    options : dict
        What was asked for, no paths.
    scans : sequence of dict
        From `entry`.
    overwrite : bool
    """
    weights = model.weights
    record = {
        "format": "monet-edge run 1",
        "disclaimer": DISCLAIMER,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"monet-edge": __version__, "python": platform.python_version(), **_versions()},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",  # platform.platform() starts a program
        "cpu": cpu(),
        "threads": model.threads,
        "model": {
            "name": weights.name,
            "network": weights.spec.name,
            "sha256": weights.sha256,
            "licence": weights.provenance.get("licence"),
        },
        "options": dict(options),
        "scans": list(scans),
        "peak_memory_mb": _peak_memory(),
    }
    with atomic_write(path, overwrite=overwrite) as file:
        file.write((json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace"))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())  # platform.processor() starts a program


def _peak_memory() -> float | None:
    """The most that this process had in memory, MB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)  # bytes there, KiB elsewhere
