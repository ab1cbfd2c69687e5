"""Read a scan, believing nothing that its header says.

It is checked against the file and the memory before the volume is allocated, and a gzip stream is read to its end, checksum
included.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .. import memory
from ..errors import MonetError, ResourceError, ScanError
from . import nifti
from .scan import Scan, written_by_us
from .stream import MOST_RATIO, Stream, opened

_HUGE = np.finfo(np.float32).max


def peek(path: Path) -> nifti.Layout:
    """Read and check the header only.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    """
    with _opened_scan(Path(path)) as (layout, _):
        return layout


def is_ours(path: Path) -> bool:
    """True for a mask or probability that monet-edge wrote; False also for what cannot be read."""
    try:
        return written_by_us(peek(path).header)
    except MonetError:
        return False


def read(path: Path, volume: int | None = None) -> Scan:
    """Read one volume.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 in one file or, as Analyze 7.5, in two (.hdr and .img, either may be named), compressed or not.
    volume : int, optional
        Which volume of a scan that has several, from 0.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    ResourceError
        If the volume does not fit into memory.
    """
    path = Path(path)
    with _opened_scan(path) as (layout, stream):
        before = _choose(layout, volume) * layout.volume_bytes
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
    return Scan(path, voxels, layout.slope, layout.inter, layout.affine, layout.header, warnings)


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


@contextmanager
def _opened_scan(path: Path) -> Iterator[tuple[nifti.Layout, Stream]]:
    """The checked header, and the file at its first voxel."""
    parts = halves(path)
    with opened(parts[0]) as stream:
        layout = nifti.parse(stream.read, pair=len(parts) > 1)
        if len(parts) == 1:
            _check_size(stream, layout)
            yield layout, stream
    if len(parts) > 1:
        with opened(parts[1]) as stream:
            _check_size(stream, layout)
            stream.skip(layout.offset)
            yield layout, stream


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


def _check_size(stream: Stream, layout: nifti.Layout) -> None:
    if not stream.gzip and layout.end > stream.size:
        _expect(stream, layout, layout.end - layout.offset, stream.size - layout.offset)
    if layout.end > stream.size * MOST_RATIO:
        raise ScanError(f"the header promises {_describe(layout)}, which {stream.size:,} compressed bytes cannot hold: it is corrupt")


def _choose(layout: nifti.Layout, volume: int | None) -> int:
    if volume is None and layout.volumes > 1:
        last = layout.volumes - 1
        ndim, grid = int(layout.header["dim"][0]), "x".join(map(str, layout.shape))
        word = "or" if last == 1 else "to"
        raise ScanError(f"{ndim}-D, {layout.volumes} volumes of {grid}. Choose one with --volume 0 {word} --volume {last}.")
    if volume is not None and not 0 <= volume < layout.volumes:
        raise ScanError(f"has no volume {volume}; it has {layout.volumes}, counted from 0")
    return volume or 0


def _allocate(layout: nifti.Layout) -> np.ndarray:
    memory.demand(layout.volume_bytes, "the volume")
    try:
        return np.empty(layout.shape, layout.dtype, order="F")
    except MemoryError:
        raise ResourceError(f"the volume needs {layout.volume_bytes / 1e6:,.0f} MB of memory, more than there is") from None


def _describe(layout: nifti.Layout) -> str:
    grid = "x".join(map(str, layout.shape if layout.volumes == 1 else (*layout.shape, layout.volumes)))
    return f"{grid} {layout.dtype.name} ({layout.end - layout.offset:,} bytes)"


def _expect(stream: Stream, layout: nifti.Layout, wanted: int, found: int, before: int = 0) -> None:
    if found < wanted:
        ending = "the decompressed data ends" if stream.gzip else "the file ends"
        raise ScanError(f"the header promises {_describe(layout)}, {ending} after {before + found:,}: it is truncated. Copy it again.")


def _finish(stream: Stream, layout: nifti.Layout) -> tuple[str, ...]:
    """Read on to the end; a few bytes more than promised are tolerated, a slice more means that the header is wrong."""
    most = layout.shape[0] * layout.shape[1] * layout.dtype.itemsize
    surplus = stream.skip(most)
    if surplus == most:
        raise ScanError(f"the header promises {_describe(layout)}, the file holds at least one slice more: the header is wrong")
    extra = surplus + stream.trailing
    return (f"{extra:,} bytes after the end of the volume were ignored",) if extra else ()
