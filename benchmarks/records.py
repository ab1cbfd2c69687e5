"""What was measured, as JSON in results/: written with its machine, read by file name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OTHER = "amx"  # folder in RESULTS: the same parts, of a machine with more cores and AMX
SHORT = "short"  # folder in RESULTS: trainings by the paper's recipe with epochs of once over all slices


def merged(path: Path, found: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows recorded in ``path``, if they are of the same machine, versions and revision, with a row's parts in that of its threads."""
    before = json.loads(path.read_text()) if path.exists() else {"machine": {}, "rows": []}
    same = all(before["machine"].get(key) == found[key] for key in ("cpu", "cores", "revision", "versions"))
    rows = {kept["threads"]: kept for kept in before["rows"]} if same else {}
    rows[row["threads"]] = rows.get(row["threads"], {}) | row
    return [rows[count] for count in sorted(rows, reverse=True)]


def record(path: Path, found: dict[str, Any], rows: Any, **settings: Any) -> None:
    """Write measured rows with the machine they were measured on, described before the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": found, "settings": settings, "rows": rows}, indent=1) + "\n")


def load(folder: Path) -> dict[str, Any]:
    """Everything recorded, by file name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def pictures(folder: Path) -> set[str]:
    """Names of the recorded pictures."""
    return {path.name for path in folder.glob("*.png")}
