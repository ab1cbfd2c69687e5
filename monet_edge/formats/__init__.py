"""Scans in, results out, in whatever format: found by content or name, read without believing it, written on the scan's grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import MonetError, OutputError, ScanError
from ..files import atomic_write, refuse_input
from ..volume import Scan
from . import metaimage, nifti, nrrd
from .contract import Header, Writer
from .nifti.image import from_image, to_image
from .stream import START, opened

__all__ = [
    "ENDINGS",
    "FORMATS",
    "SCANS",
    "WRITERS",
    "Header",
    "from_image",
    "is_ours",
    "peek",
    "read",
    "stem",
    "to_image",
    "write",
    "writer",
]

FORMATS = (nifti.FORMAT, nrrd.FORMAT, metaimage.FORMAT)  # the first that sniffs its own wins
WRITERS = (nifti.WRITER, *nrrd.WRITERS)  # by the ending of the result's name the first that has it; the first of all where nobody chose

ENDINGS = tuple(ending for writer in WRITERS for ending in writer.endings)  # of what is written
SCANS = tuple(ending for format in FORMATS for ending in format.endings)  # of what is read, in folders
_NAMED = (*SCANS, *(ending for format in FORMATS for ending in format.other_endings))
_RESULTS = ("uint8", "float32")  # masks, probabilities


def peek(path: Path) -> Header:
    """Read and check the header only.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    """
    path = Path(path)
    with opened(path) as stream:
        start = stream.read(START)
        found = next((format for format in FORMATS if format.sniff(path, start)), None)
        if found is None:
            raise ScanError(f"not a scan of a kind that can be read; expected {', '.join(SCANS)}")
    return found.peek(path)


def is_ours(path: Path) -> bool:
    """True for a result and no scan, see `Header`; False also for what cannot be read."""
    try:
        return peek(path).ours
    except MonetError:
        return False


def read(scan: Path | Header, volume: int | None = None) -> Scan:
    """Read one volume.

    Parameters
    ----------
    scan : Path or Header
        A file, or what `peek` found in it: then its header is not read again.
    volume : int, optional
        Which volume of a scan that has several, from 0.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    ResourceError
        If the volume does not fit into memory.
    """
    header = scan if isinstance(scan, Header) else peek(scan)
    if volume is None and header.volumes > 1:
        last, grid = header.volumes - 1, "x".join(map(str, header.shape))
        word = "or" if last == 1 else "to"
        raise ScanError(
            f"{header.path}: holds {header.volumes} volumes of {grid}, expected one",
            f"Choose one with {{volume}} 0 {word} {{volume}} {last}.",
        )
    if volume is not None and not 0 <= volume < header.volumes:
        raise ScanError(f"{header.path}: has no volume {volume}; it has {header.volumes}, counted from 0")
    return next(format for format in FORMATS if format.name == header.format).read(header, volume or 0)


def writer(name: str | None = None, format: str | None = None) -> Writer:
    """What writes a result.

    Parameters
    ----------
    name : str, optional
        The result's; its ending, one of `ENDINGS`, chooses the format.
    format : str, optional
        One of `options.FORMATS`.

    Raises
    ------
    OutputError
        If no result is called so, or one of another format than ``format``.
    """
    named = next((writer for writer in WRITERS if name is not None and name.endswith(writer.endings)), None)
    asked = next((writer for writer in WRITERS if writer.name == format), None)
    expected = ENDINGS if asked is None else asked.endings
    if name is not None and (named is None or named is not (asked or named)):
        what = "a result" if asked is None else f"a result in the format {format}"
        raise OutputError(f"{name}: {what} is written as {' or '.join(expected)}", "Choose such a name for {output}.")
    return named or asked or WRITERS[0]


def write(path: Path, array: np.ndarray, like: Scan, *, labels: Sequence[str] = (), overwrite: bool = False) -> None:
    """Write a result on a scan's grid, whole or not at all: same affine, neutral scaling, nothing else of the scan's header.

    Parameters
    ----------
    path : Path
        Its ending, one of `ENDINGS`, chooses the format.
    array : (X, Y, Z) uint8 mask, or (X, Y, Z) or (X, Y, Z, C) float32 probabilities
    like : Scan
    labels : sequence of str
        Names of the labels 1, 2, ...; they travel inside the file.
    overwrite : bool
        Replace a file that exists; never the scan itself.

    Raises
    ------
    OutputError
        If it exists, is the scan itself, or the disk refuses.
    ValueError
        If the array is of another shape or dtype.
    """
    path = Path(path)
    chosen = writer(str(path))
    if array.shape[:3] != like.shape or array.dtype.name not in _RESULTS:
        raise ValueError(f"expected a uint8 mask or float32 probabilities of {like.shape}, found {array.dtype} {array.shape}")
    if like.path:
        refuse_input(path, like.path)
    with atomic_write(path, overwrite=overwrite) as file:
        chosen.write(file, path.name, array, like, labels)


def stem(path: Path) -> str:
    """The file's name without the ending of a scan."""
    for ending in _NAMED:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem
