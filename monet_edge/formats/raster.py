"""Voxels as they follow each other in a file: held against the file and the memory before anything is allocated, then read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from .. import limits
from ..errors import ResourceError, ScanError
from ..streams import MOST_RATIO, TEXT, Ahead, Stream, opened
from .reading import Watch

_CHUNK = 1 << 20  # bytes of interleaved volumes taken apart at a time
_ALONE = 8 << 20  # bytes of a volume that is alone in its file, read at a time: to count a piece takes 0.3 ms and 0.3 a MB
_HUGE = np.finfo(np.float32).max


@dataclass(frozen=True)
class Raster:
    """What a checked header says of where the voxels are.

    Attributes
    ----------
    file : Path
    shape : (X, Y, Z)
        Of one volume.
    volumes : int
    dtype : numpy dtype
        In the file's byte order.
    run : int
        Voxels of one volume that stand together: all of them, or 1 where the volumes are interleaved voxel by voxel.
    start, lines : int
        Bytes, then lines, that come first in the file.
    packing : str or None
        How what follows is packed, see `packing`; None where the whole file is gzip or plain, as its content says.
    skip : int
        Unpacked bytes before the first voxel; -1 where the voxels are the last of all.
    """

    file: Path
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype
    run: int
    start: int = 0
    lines: int = 0
    packing: str | None = None
    skip: int = 0

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all volumes."""
        return self.volumes * self.volume_bytes

    def __str__(self) -> str:
        grid = "x".join(map(str, self.shape if self.volumes == 1 else (*self.shape, self.volumes)))
        return f"{grid} {self.dtype.name} ({self.bytes:,} bytes)"


def check_size(raster: Raster, size: int, packing: str) -> None:
    """Hold what a header promises against the size of the file.

    Parameters
    ----------
    raster : Raster
    size : int
        Bytes of its file.
    packing : str
        How they are packed; "" if they are not.

    Raises
    ------
    ScanError
        If they cannot be so many voxels.
    """
    before = raster.start + max(raster.skip, 0)
    if not packing and before + raster.bytes > size:
        _expect(raster, raster.bytes, max(size - before, 0), "the file ends")
    if before + raster.bytes > size * MOST_RATIO[packing]:
        what = "bytes of text" if packing == TEXT else "compressed bytes"
        raise ScanError(f"the header promises {raster}, which {size:,} {what} cannot hold: it is corrupt")


def read(
    raster: Raster,
    version: tuple[int, ...],
    volumes: Sequence[int],
    spare: int = 0,
    watch: Watch | None = None,
    ahead: Ahead | None = None,
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Read volumes in one pass through the file, to its end.

    Parameters
    ----------
    raster : Raster
        Which has passed `check_size`.
    version : tuple of int
        Of its file, as it was then: see `Stream`.
    volumes : sequence of int
        Which ones, from 0, in their order.
    spare : int
        Bytes more than promised, as other programs leave them, that are passed over.
    watch : callable, optional
        Given the voxels as they come, unless they are changed afterwards.
    ahead : Ahead, optional
        The same file, if it is, which is being inflated already.

    Returns
    -------
    voxels : list of (X, Y, Z) array
        One for each volume: in native byte order, Fortran order, read-only; beyond float32 infinite.
    warnings : tuple of str

    Raises
    ------
    ScanError
        If the file has changed, is damaged, or holds less or more.
    ResourceError
        If the volumes do not fit into memory.
    """
    if not _stays(raster.dtype):
        watch = None
    if ahead is not None:
        if ahead.version == version and raster.volumes == 1 and len(ahead.memory) == raster.skip + raster.volume_bytes:
            voxels = _inflated(raster, ahead, watch)
            if voxels is not None:
                return [_usable(voxels)], ()
            watch = None  # it may have been given some
        ahead.stop()
    skip = raster.skip
    if skip < 0:
        with _opened(raster, version) as stream:  # a way through the whole file, to know how long it is
            skip = stream.skip(sys.maxsize) - raster.bytes
    with _opened(raster, version) as stream:
        ends = f"the {'decompressed ' * (stream.packing not in ('', TEXT))}data ends" if stream.packing else "the file ends"
        if skip < 0:
            _expect(raster, raster.bytes, raster.bytes + skip, ends)
        stream.skip(skip)
        found = {volume: _allocate(raster) for volume in volumes}
        _take(stream, raster, found, ends, watch)
        warnings = _finish(stream, raster, spare)
    return [_usable(voxels) for voxels in found.values()], warnings


def _inflated(raster: Raster, ahead: Ahead, watch: Watch | None) -> np.ndarray | None:
    """The voxels of a file that is being inflated already, where they lie; None if it is damaged, or holds more."""
    voxels: np.ndarray = np.frombuffer(ahead.memory, raster.dtype, offset=raster.skip)
    several = _ALONE // raster.dtype.itemsize
    for at in range(0, len(voxels), several):
        piece = voxels[at : at + several]
        if not ahead.has(raster.skip + (at + len(piece)) * raster.dtype.itemsize):
            return None
        if watch is not None:
            watch(piece)
    return voxels.reshape(raster.shape, order="F") if ahead.whole() else None


def _stays(dtype: np.dtype) -> bool:
    """Whether voxels are used as they come, see `_usable`."""
    return dtype.isnative and dtype != np.float64


def _usable(voxels: np.ndarray) -> np.ndarray:
    """As `read` gives them."""
    if not voxels.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(voxels.dtype.newbyteorder("="))
    voxels = without_huge(voxels)
    voxels.flags.writeable = False
    return voxels


@contextmanager
def _opened(raster: Raster, version: tuple[int, ...]) -> Iterator[Stream]:
    """Its file, at the first unpacked byte."""
    with opened(raster.file, plain=raster.packing is not None) as stream:
        if stream.version != version:
            raise ScanError("it has changed since its header was read. Try again once it is whole.")
        stream.skip(raster.start)
        stream.skip_lines(raster.lines)
        stream.unpack(raster.packing or "", raster.dtype)
        yield stream


def _allocate(raster: Raster) -> np.ndarray:
    limits.demand(raster.volume_bytes, "the volume")
    try:
        return np.empty(raster.shape, raster.dtype, order="F")
    except MemoryError:
        raise ResourceError(f"the volume needs {raster.volume_bytes / 1e6:,.0f} MB of memory, more than there is") from None


def _take(stream: Stream, raster: Raster, volumes: Mapping[int, np.ndarray], ends: str, watch: Watch | None) -> None:
    """Fill volumes; where all of the file's are interleaved, a chunk of all of them is read and those taken from it."""
    run, chunk = (raster.run, _CHUNK) if raster.volumes > 1 else (1, _ALONE)
    run *= raster.dtype.itemsize
    together = max(1, chunk // (run * raster.volumes))  # runs
    targets = {volume: voxels.reshape(-1, order="F").view(np.uint8) for volume, voxels in sorted(volumes.items())}
    for at in range(0, raster.volume_bytes, together * run):
        parts = {volume: target[at : at + together * run] for volume, target in targets.items()}
        length = min(together * run, raster.volume_bytes - at)  # of each
        before, wanted = at * raster.volumes, length * raster.volumes
        if raster.volumes > 1 and together > 1:
            data = stream.read(wanted)
            _expect(raster, wanted, len(data), ends, before)
            runs = np.frombuffer(data, np.uint8).reshape(-1, raster.volumes, run)
            for volume, part in parts.items():
                part.reshape(-1, run)[:] = runs[:, volume]
            continue
        found, passed = 0, 0
        for volume, part in parts.items():
            found += stream.skip((volume - passed) * length) + _fill(stream, part)
            passed = volume + 1
        found += stream.skip((raster.volumes - passed) * length)
        _expect(raster, wanted, found, ends, before)
        if watch is not None:
            for part in parts.values():
                watch(part.view(raster.dtype))


def _fill(stream: Stream, target: np.ndarray) -> int:
    """Fill ``target``, bytes, by the next of a stream; the number of bytes there were."""
    at = 0
    while at < len(target) and (piece := stream.piece(len(target) - at)):
        # by NumPy, which lets other threads run meanwhile: where memory is new, to copy may take as long as to inflate
        target[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    return at


def _expect(raster: Raster, wanted: int, found: int, ends: str, before: int = 0) -> None:
    if found < wanted:
        raise ScanError(f"the header promises {raster}, {ends} after {before + found:,}: it is truncated. Copy it again.")


def _finish(stream: Stream, raster: Raster, spare: int) -> tuple[str, ...]:
    """Read on to the end, which verifies a checksum."""
    surplus = stream.skip(spare + 1)
    if surplus > spare:
        raise ScanError(f"the header promises {raster}, the file holds {'at least one slice ' if spare else ''}more: the header is wrong")
    extra = surplus + stream.trailing
    return (f"{extra:,} bytes after the end of the volume were ignored",) if extra else ()


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
