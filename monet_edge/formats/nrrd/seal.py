"""Whether a NRRD file is a result of ours, of which model and options, and whole: by its first bytes and its last."""

from __future__ import annotations

import os
import re
from math import prod
from pathlib import Path

from ..contract import OURS, Seal

_START = 4096  # bytes of the file; the lines that count are the first ten, some 400
_BYTES = {"unsigned char": 1, "float": 4}  # of a voxel, as we write it


def seal(path: Path) -> Seal | None:
    """The seal of a result of ours, see `contract.Format`."""
    with path.open("rb", buffering=0) as file:
        start = file.read(_START).decode("utf-8", "replace")
        content = re.match(rf"NRRD0005\n#[^\n]*\ncontent: ({OURS}[^\n]*)\ntype: ([^\n]*)\n[^\n]*\n[^\n]*\nsizes: ([0-9 ]*)\n", start)
        if content is None:
            return None
        words, kind, sizes = content.groups()
        parts = words.split(" ")
        file.seek(-4, os.SEEK_END)  # gzip's own size
        size = prod(map(int, sizes.split())) * _BYTES.get(kind, 0)
        return Seal(parts[3] if len(parts) == 4 else "", int.from_bytes(file.read(4), "little") == size % (1 << 32))
