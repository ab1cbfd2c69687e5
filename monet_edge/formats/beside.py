"""What a data set says of its scans: the `dataset.json` in a scan's folder, or in the one above, as in `imagesTr`."""

from __future__ import annotations

import json
from pathlib import Path

NAME = "dataset.json"
UNKNOWN = "unknown"  # its "spacing", where what the scans' headers say was lost
_MOST = 1 << 24  # bytes; what is larger is no such file


def spacing_known(scan: Path) -> bool:
    """False if the data set that a scan lies in says that what its voxels measure is unknown; what is no such file says nothing."""
    folder = scan.absolute().parent
    return not any(_says_unknown(path / NAME) for path in (folder, folder.parent))


def _says_unknown(path: Path) -> bool:
    try:
        if path.stat().st_size > _MOST:
            return False
        found = json.loads(path.read_bytes())
        return isinstance(found, dict) and found.get("spacing") == UNKNOWN
    except (OSError, ValueError, RecursionError):
        return False
