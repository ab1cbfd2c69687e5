"""Scans in, results out, in whatever format: found by content or name, read without believing it, written on the scan's grid."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np

from ..errors import MonetError, OutputError, ScanError
from ..files import atomic_write, refuse_input
from ..volume import Scan
from . import nifti
from .beside import spacing_known
from .contract import Header, Seal
from .nifti.image import from_image, to_image
from .nifti.reader import halves
from .stream import START, opened

__all__ = [
    "ENDINGS",
    "FORMATS",
    "SCANS",
    "WRITERS",
    "Header",
    "Seal",
    "begin",
    "from_image",
    "halves",
    "is_ours",
    "peek",
    "read",
    "seal",
    "stem",
    "to_image",
    "write",
]

FORMATS = (nifti.FORMAT,)  # the first that sniffs its own wins
WRITERS = (nifti.WRITER,)  # chosen by the ending of the result's name

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
    header = found.peek(path)
    return replace(header, spacing_known=header.spacing_known and spacing_known(path))


def seal(path: Path) -> Seal | None:
    """What a mask or probability that monet-edge wrote says of itself; None for other files, and for what cannot be read."""
    found = next((format for format in FORMATS if path.name.lower().endswith(format.endings)), None)
    try:
        if found is not None and found.seal is not None:
            return found.seal(path)
        return Seal("", True) if peek(path).ours else None
    except (MonetError, OSError):
        return None


def is_ours(path: Path) -> bool:
    """True for a mask or probability that monet-edge wrote; False also for what cannot be read."""
    return seal(path) is not None


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
    if header.begun is not None:
        return header.begun.result()
    if volume is None and header.volumes > 1:
        last, grid = header.volumes - 1, "x".join(map(str, header.shape))
        word = "or" if last == 1 else "to"
        raise ScanError(
            f"{header.path}: holds {header.volumes} volumes of {grid}, expected one",
            f"Choose one with {{volume}} 0 {word} {{volume}} {last}.",
        )
    if volume is not None and not 0 <= volume < header.volumes:
        raise ScanError(f"{header.path}: has no volume {volume}; it has {header.volumes}, counted from 0")
    found = next(format for format in FORMATS if format.name == header.format).read(header, volume or 0)
    return replace(found, spacing_known=header.spacing_known)


def begin(header: Header, volume: int | None = None) -> Header:
    """Begin to read a volume, in a thread of its own: `read` then waits for it, and raises what it failed of.

    While a model is loaded: for a scan of 80 MB that is half the time of inflating it.
    """
    begun: Future[Scan] = Future()

    def work() -> None:
        try:
            begun.set_result(read(header, volume))
        except BaseException as error:  # raised where it is asked for
            begun.set_exception(error)

    Thread(target=work, name="reading", daemon=True).start()
    return replace(header, begun=begun)


def write(path: Path, array: np.ndarray, like: Scan, *, labels: Sequence[str] = (), key: str = "", overwrite: bool = False) -> None:
    """Write a result on a scan's grid, whole or not at all: same affine, neutral scaling, nothing else of the scan's header.

    Parameters
    ----------
    path : Path
        Its ending, one of `ENDINGS`, chooses the format.
    array : (X, Y, Z) uint8 mask, or (X, Y, Z) or (X, Y, Z, C) float32 probabilities
    like : Scan
    labels : sequence of str
        Names of the labels 1, 2, ...; they travel inside the file.
    key : str
        Of the model and options, see `Options.key`; it does, too.
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
    writer = next((writer for writer in WRITERS if path.name.endswith(writer.endings)), None)
    if writer is None:
        raise OutputError(f"{path}: a result is written as {' or '.join(ENDINGS)}", "Choose such a name for {output}.")
    if array.shape[:3] != like.shape or array.dtype.name not in _RESULTS:
        raise ValueError(f"expected a uint8 mask or float32 probabilities of {like.shape}, found {array.dtype} {array.shape}")
    if like.path:
        refuse_input(path, like.path)
    with atomic_write(path, overwrite=overwrite) as file:
        writer.write(file, path.name, array, like, labels, key)


def stem(path: Path) -> str:
    """The file's name without the ending of a scan."""
    for ending in _NAMED:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem
