"""Read NIfTI-1 or NIfTI-2 in one file or, as Analyze 7.5, in two (.hdr and .img), compressed or not, believing nothing of it.

The header is checked against the file and the memory before the volume is allocated, and a gzip stream is read to its end,
checksum included.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import limits
from ...errors import ResourceError, ScanError
from ...volume import Scan
from ..contract import Header
from ..stream import MOST_RATIO, Stream, opened
from .header import Layout, parse
from .writer import written_by_us

NAME = "NIfTI"
ENDINGS = (".nii.gz", ".nii", ".img.gz", ".img")
OTHER_ENDINGS = (".hdr.gz", ".hdr")  # the other half of an .img
_HUGE = np.finfo(np.float32).max


@dataclass(frozen=True)
class _Details:
    """Where the voxels are, and what the header says of them; ``version`` is of the file that holds them."""

    file: Path
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
        version = stream.version
        if len(parts) == 1:
            _check_size(stream, layout)
    if len(parts) > 1:
        with opened(parts[1]) as stream:
            version = stream.version
            _check_size(stream, layout)
    ours = written_by_us(layout.header)
    return Header(NAME, path, layout.shape, layout.volumes, layout.dtype, layout.affine, ours, _Details(parts[-1], version, layout), parts)


def read(header: Header, volume: int) -> Scan:
    """Read one volume, see `contract.Format`."""
    details: _Details = header.details
    layout = details.layout
    with opened(details.file) as stream:
        if stream.version != details.version:
            raise ScanError("it has changed since its header was read. Try again once it is whole.")
        stream.skip(layout.offset)
        before = volume * layout.volume_bytes
        voxels = _allocate(layout)
        _expect(stream, layout, before, stream.skip(before))
        _expect(stream, layout, layout.volume_bytes, stream.fill(voxels.reshape(-1, order="F").view(np.uint8).data), before)
        after = layout.end - layout.offset - before - layout.volume_bytes
        _expect(stream, layout, after, stream.skip(after), before + layout.volume_bytes)
        warnings = layout.warnings + _finish(stream, layout)
    if not layout.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(layout.dtype.newbyteorder("="))
    voxels = without_huge(voxels)
    voxels.flags.writeable = False
    return Scan(header.path, voxels, layout.slope, layout.inter, layout.affine, layout.header, warnings, layout.oriented)


def without_huge(voxels: np.ndarray) -> np.ndarray:
    """The voxels, where those beyond float32 are infinite: they are no intensities, and their squares would overflow.

    In place, or in a copy where the array is read-only and holds any.
    """
    if voxels.dtype != np.float64:
        return voxels
    for z in range(voxels.shape[2]):  # plane by plane: no second volume
        huge = np.abs(voxels[:, :, z]) > _HUGE
        if huge.any():
            voxels = voxels if voxels.flags.writeable else voxels.copy(order="K")
            voxels[:, :, z][huge] = np.inf
    return voxels


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


def _check_size(stream: Stream, layout: Layout) -> None:
    if not stream.gzip and layout.end > stream.size:
        _expect(stream, layout, layout.end - layout.offset, stream.size - layout.offset)
    if layout.end > stream.size * MOST_RATIO:
        raise ScanError(f"the header promises {_describe(layout)}, which {stream.size:,} compressed bytes cannot hold: it is corrupt")


def _allocate(layout: Layout) -> np.ndarray:
    limits.demand(layout.volume_bytes, "the volume")
    try:
        return np.empty(layout.shape, layout.dtype, order="F")
    except MemoryError:
        raise ResourceError(f"the volume needs {layout.volume_bytes / 1e6:,.0f} MB of memory, more than there is") from None


def _describe(layout: Layout) -> str:
    grid = "x".join(map(str, layout.shape if layout.volumes == 1 else (*layout.shape, layout.volumes)))
    return f"{grid} {layout.dtype.name} ({layout.end - layout.offset:,} bytes)"


def _expect(stream: Stream, layout: Layout, wanted: int, found: int, before: int = 0) -> None:
    if found < wanted:
        ending = "the decompressed data ends" if stream.gzip else "the file ends"
        raise ScanError(f"the header promises {_describe(layout)}, {ending} after {before + found:,}: it is truncated. Copy it again.")


def _finish(stream: Stream, layout: Layout) -> tuple[str, ...]:
    """Read on to the end; a few bytes more than promised are tolerated, a slice more means that the header is wrong."""
    most = layout.shape[0] * layout.shape[1] * layout.dtype.itemsize
    surplus = stream.skip(most)
    if surplus == most:
        raise ScanError(f"the header promises {_describe(layout)}, the file holds at least one slice more: the header is wrong")
    extra = surplus + stream.trailing
    return (f"{extra:,} bytes after the end of the volume were ignored",) if extra else ()
