"""Read NIfTI-1 or NIfTI-2 in one file or, as Analyze 7.5, in two (.hdr and .img), compressed or not, believing nothing of it.

The header is checked against the file and the memory before the volume is allocated, and a gzip stream is read to its end,
checksum included.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ...errors import ScanError
from ...streams import Stream, opened
from ...volume import Scan
from .. import raster
from ..contract import Header
from .header import Layout, parse
from .writer import written_by_us

NAME = "NIfTI"
ENDINGS = (".nii.gz", ".nii", ".img.gz", ".img")
OTHER_ENDINGS = (".hdr.gz", ".hdr")  # the other half of an .img


@dataclass(frozen=True)
class _Details:
    """Where the voxels are, and what the header says of them; ``version`` is of the file that holds them."""

    raster: raster.Raster
    version: tuple[int, ...]
    layout: Layout


def sniff(path: Path, start: bytes) -> bool:
    """Whether it calls itself NIfTI or begins like it, be it damaged: the message then says how."""
    size = start[:4]
    return path.name.lower().endswith((*ENDINGS, *OTHER_ENDINGS)) or any(
        int.from_bytes(size, order) in (348, 540) for order in ("little", "big")
    )


def peek(path: Path) -> Header:
    """Read and check the header only, see `contract.Format`."""
    parts = halves(path)
    with opened(parts[0]) as stream:
        layout = parse(stream.read, pair=len(parts) > 1)
        if len(parts) == 1:
            details = _check(stream, path, layout)
    if len(parts) > 1:
        with opened(parts[1]) as stream:
            details = _check(stream, parts[1], layout)
    ours = written_by_us(layout.header)
    return Header(NAME, path, layout.shape, layout.volumes, layout.dtype, layout.affine, ours, details, parts)


def _check(stream: Stream, file: Path, layout: Layout) -> _Details:
    """Hold the header against the file with the voxels."""
    found = raster.Raster(file, layout.shape, layout.volumes, layout.dtype, prod(layout.shape), skip=layout.offset)
    raster.check_size(found, stream.size, stream.packing)
    return _Details(found, stream.version, layout)


def read(header: Header, volumes: Sequence[int]) -> tuple[Scan, ...]:
    """Read volumes, see `contract.Format`."""
    details: _Details = header.details
    layout = details.layout
    spare = layout.shape[0] * layout.shape[1] * layout.dtype.itemsize - 1  # a few bytes are tolerated, a slice is not
    found, warnings = raster.read(details.raster, details.version, volumes, spare, header.watch, header.ahead)
    about = (layout.slope, layout.inter, layout.affine, layout.header, layout.warnings + warnings, layout.oriented)
    return tuple(Scan(header.path, voxels, *about) for voxels in found)


def halves(path: Path) -> tuple[Path, ...]:
    """The file itself, or header and voxels where they are two, whichever of them is named; HEAD.HDR belongs to HEAD.IMG.

    Raises
    ------
    ScanError
        If there is one of them only.
    """
    named = re.fullmatch(r"(.*)\.(hdr|img)(\.gz)?", path.name, re.IGNORECASE | re.DOTALL)
    if named is None:
        return (path,)
    stem, half, _ = named.groups()
    other = "img" if half.lower() == "hdr" else "hdr"
    written = other.upper() if half.isupper() else other  # as the named half is, if there are several
    forms = dict.fromkeys((written, other, other.upper(), other.capitalize()))
    wholes = [path.with_name(f"{stem}.{form}{gz}") for form in forms for gz in ("", ".gz", ".GZ")]
    found = [whole for whole in wholes if os.path.exists(whole)]
    if os.path.exists(path) and not found:
        raise ScanError(f"{path}: half of a pair; its other half {stem}.{written} is missing")
    return (path, *found[:1]) if other == "img" else (*found[:1], path)
