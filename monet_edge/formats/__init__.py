"""Scans in, results out, in whatever format: found by content or name, read without believing it, written on the scan's grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .. import limits
from ..errors import MonetError, OutputError, ScanError
from ..files import atomic_write, refuse_input
from ..streams import START, Ahead, opened
from ..volume import Scan
from . import dicom, metaimage, mgh, nifti, nrrd
from .beside import spacing_known
from .contract import Format, Header, Legend, Seal, Writer
from .dicom import series as dicom_series
from .dicom.reader import list_series
from .nifti.image import from_image, to_image
from .reading import Reading

__all__ = [
    "ENDINGS",
    "FORMATS",
    "OTHERS",
    "SCANS",
    "WRITERS",
    "Header",
    "Seal",
    "ahead",
    "begin",
    "from_image",
    "holds_dicom",
    "holds_study",
    "is_ours",
    "list_series",
    "peek",
    "read",
    "read_all",
    "seal",
    "stem",
    "to_image",
    "write",
    "writer",
]

FORMATS = (nifti.FORMAT, nrrd.FORMAT, metaimage.FORMAT, mgh.FORMAT, dicom.FORMAT)  # the first that sniffs its own wins
# by the ending of the result's name the first that has it; the first of all where nobody chose
WRITERS = (nifti.WRITER, *nrrd.WRITERS, dicom.BINARY, dicom.LABELMAP)

ENDINGS = tuple(dict.fromkeys(ending for writer in WRITERS for ending in writer.endings))  # of what is written
SCANS = tuple(ending for format in FORMATS for ending in format.endings)  # of what is read, in folders
OTHERS = tuple(ending for format in FORMATS for ending in format.other_endings)  # of files that are no scans of their own
_NAMED = (*OTHERS, *SCANS)
_RESULTS = ("uint8", "float32")  # masks, probabilities
_LOADED = 1 << 30  # bytes, of addresses at least, that what is imported and loaded beside a scan may take


def peek(path: Path, series: str | None = None, modality: str = "") -> Header:
    """Read and check the header only.

    Parameters
    ----------
    path : Path
        A file; of DICOM also a folder or a zip archive.
    series : str, optional
        Which one of a path that holds several (DICOM): its number, or its UID.
    modality : str
        Of the model, in its own words: which series is meant where none is named.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    """
    path = Path(path)
    found = _format_of(path)
    header = found.choose(path, series, modality) if found.choose else found.peek(path)
    return replace(header, spacing_known=header.spacing_known and spacing_known(path))


def _format_of(path: Path) -> Format:
    if os.path.isdir(path):  # unlike Path's own it does not raise, whatever the name
        found = next((format for format in FORMATS if format.choose and format.sniff(path, b"")), None)
        if found is None:
            raise ScanError(f"{path}: a folder without DICOM in it; expected a file")
        return found
    with opened(path) as stream:
        start = stream.read(START)
        found = next((format for format in FORMATS if format.sniff(path, start)), None)
        if found is None:
            raise ScanError(f"not a scan of a kind that can be read; expected {', '.join(SCANS)}")
        return found


def seal(path: Path) -> Seal | None:
    """What a mask or probability that monet-edge wrote says of itself; None for other files, and for what cannot be read."""
    found = next((format for format in FORMATS if path.name.lower().endswith((*format.endings, *format.other_endings))), None)
    try:
        if found is not None and found.seal is not None:
            return found.seal(path)
        return Seal("", True) if peek(path).ours else None
    except (MonetError, OSError):
        return None


def holds_dicom(folder: Path) -> bool:
    """Whether a folder, not those beneath it, holds a file of DICOM: then it is a scan itself."""
    return dicom_series.holds(folder, SCANS, deep=False)


def holds_study(folder: Path) -> bool:
    """Whether a folder and those beneath it hold DICOM of one study alone: then all is one scan, a series of which is meant."""
    return dicom_series.holds_study(folder, SCANS)


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
    return _read(header, (volume or 0,))[0]


def read_all(header: Header) -> tuple[Scan, ...]:
    """Read all volumes of a scan, in one pass through its file; raises what `read` does."""
    return _read(header, range(header.volumes))


def _read(header: Header, volumes: Sequence[int]) -> tuple[Scan, ...]:
    found = next(format for format in FORMATS if format.name == header.format).read(header, volumes)
    return tuple(replace(scan, spacing_known=header.spacing_known) for scan in found)


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
    asked = next((writer for writer in WRITERS if writer.name == format), None)
    if name is None:
        return asked or WRITERS[0]
    endings = sorted((ending for writer in WRITERS for ending in writer.endings), key=len, reverse=True)
    ending = next((ending for ending in endings if name.endswith(ending)), None)  # the longest: .seg.nrrd is no .nrrd
    found = next((writer for writer in (WRITERS if asked is None else (asked,)) if ending in writer.endings), None)
    if found is None:
        what, known = ("a result", ENDINGS) if asked is None else (f"a result in the format {format}", asked.endings)
        raise OutputError(f"{name}: {what} is written as {' or '.join(known)}", "Choose such a name for {output}.")
    return found


def begin(header: Header, volume: int | None = None, inflated: Ahead | None = None) -> Header:
    """Begin to read a volume, in a thread of its own: `read` then waits for it, and raises what it failed of.

    ``inflated`` is its file, where that was begun before.

    While the engine is imported and a model loaded: for a scan of 80 MB that is as long as inflating it. Where memory is short,
    nothing is begun: whoever reads it then knows what all of the work takes, and says so. Nor of several volumes while nobody has said
    which: they may be the images of one case.
    """
    room = limits.available()
    short = room is not None and room < prod(header.shape) * header.dtype.itemsize + _LOADED
    if short or header.begun is not None or (volume is None and header.volumes > 1):
        if inflated is not None:
            inflated.stop()
        return header
    return replace(header, begun=Reading(lambda watch: read(replace(header, watch=watch, ahead=inflated), volume)))


def ahead(path: Path, volume: int | None = None, inflated: Ahead | None = None) -> Header | None:
    """Begin to read a file before the model is known, see `begin`; None where the model may decide what is read, or it is no scan."""
    with suppress(MonetError):
        if not os.path.isdir(path) and not _format_of(path).choose:
            return begin(peek(path), volume, inflated)
    if inflated is not None:
        inflated.stop()
    return None


def write(
    path: Path,
    array: np.ndarray,
    like: Scan,
    *,
    labels: Sequence[str] = (),
    codes: Mapping[str, Any] | None = None,
    model: str = "",
    key: str = "",
    format: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a result on a scan's grid, whole or not at all: same affine, neutral scaling, nothing else of the scan's header.

    Parameters
    ----------
    path : Path
        Its ending, one of `ENDINGS`, chooses the format.
    array : (X, Y, Z) uint8 mask, or (X, Y, Z) or (X, Y, Z, C) float32 probabilities
    like : Scan
    labels : sequence of str
        Names of the labels 1, 2, ...; they travel inside the file.
    codes : mapping, optional
        Of labels, by their names, see `codes.Code`.
    model : str
        Whose mask it is. DICOM has a place for it and for the codes, and no other format.
    key : str
        Of the model and options, see `Options.key`: the result carries it.
    format : str, optional
        One of `options.FORMATS`, where several have the same ending.
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
    chosen = writer(str(path), format)
    if array.shape[:3] != like.shape or array.dtype.name not in _RESULTS:
        raise ValueError(f"expected a uint8 mask or float32 probabilities of {like.shape}, found {array.dtype} {array.shape}")
    for source in filter(None, (like.path, *like.files)):
        refuse_input(path, source)
    with atomic_write(path, overwrite=overwrite) as file:
        chosen.write(file, path.name, array, like, Legend(tuple(labels), dict(codes or {}), model, key))


def stem(path: Path) -> str:
    """The file's name without the ending of a scan."""
    if os.path.isdir(path):
        return path.name
    for ending in _NAMED:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem
