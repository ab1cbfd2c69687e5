"""One table of all scans of a run, a row for every label: JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..about import DISCLAIMER
from ..errors import OutputError
from ..files import atomic_write
from ..text import harmless


def write_table(path: Path, model: str, scans: Sequence[Mapping[str, Any]], *, overwrite: bool) -> None:
    """Write one table for all scans of a run.

    Parameters
    ----------
    path : Path
        Ending in .json or .csv.
    model : str
        The model's name.
    scans : sequence of dict
        From `record.entry`.
    overwrite : bool

    Raises
    ------
    OutputError
        If the ending is another, the file exists, or the disk refuses.
    """
    check_table(path)
    if path.suffix == ".json":
        table = {
            "format": "monet-edge statistics 1",
            "disclaimer": DISCLAIMER,
            "model": model,
            "scans": [_without_times(scan) for scan in scans],
        }
        text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        text = _csv(scans)
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # a file name may hold bytes that are no text


def _without_times(scan: Mapping[str, Any]) -> dict[str, Any]:
    """The same scan with the same model gives the same table."""
    return {key: value for key, value in scan.items() if key != "seconds"}


def check_table(path: Path) -> None:
    """Refuse another ending than .json or .csv before any work."""
    if path.suffix not in (".json", ".csv"):
        raise OutputError(f"{path}: statistics are written as .json or .csv", "Choose such a name for {stats}.")


def _csv(scans: Sequence[Mapping[str, Any]]) -> str:
    """One row for every label of every scan, and one for every scan that failed."""
    rows = []
    for scan in scans:
        about = {"scan": scan["scan"], **({"path": scan["path"]} if "path" in scan else {})}
        notes = {"warnings": "; ".join(scan["warnings"]), "error": scan.get("error")}
        rows += [{**about, **_flat(label), **notes} for label in scan["labels"] or [{}]]
    columns = list(dict.fromkeys(column for row in sorted(rows, key=len, reverse=True) for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: harmless(value) for column, value in row.items()} for row in rows)
    return text.getvalue()


def _flat(label: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in label.items():
        if key == "touches":
            flat[key] = "".join(value)
        elif key in ("box_first", "box_last", "centroid_mm"):
            flat |= {f"{key}_{axis}": part for axis, part in zip("xyz", value or (None,) * 3, strict=True)}
        else:
            flat[key] = value
    return flat
