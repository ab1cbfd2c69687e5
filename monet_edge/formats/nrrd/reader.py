"""Read NRRD, its voxels after the header (.nrrd, .seg.nrrd) or in a file beside it (.nhdr), believing nothing of it."""

from __future__ import annotations

from pathlib import Path

from .. import textual
from ..contract import Header
from .header import parse

NAME = "NRRD"
ENDINGS = (".nrrd", ".nhdr")
OTHER_ENDINGS = (".seg.nrrd",)  # a segmentation, whoever drew it


def sniff(path: Path, start: bytes) -> bool:
    """Whether it calls itself NRRD or begins like it, be it damaged: the message then says how."""
    return path.name.lower().endswith(ENDINGS) or start.startswith(b"NRRD0")


def peek(path: Path) -> Header:
    """Read and check the header only, see `contract.Format`."""
    return textual.peek(NAME, path, parse)
