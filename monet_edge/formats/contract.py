"""What a format of scans, and one of results, is made of: to add one, write its file and name it in `formats.FORMATS` or `WRITERS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..volume import Scan


@dataclass(frozen=True)
class Header:
    """What is known of a scan before a voxel is read; all of it checked.

    Attributes
    ----------
    format : str
        The name of the `Format` that reads it.
    path : Path
    shape : (X, Y, Z)
        Of one volume.
    volumes : int
        1, or more for 4-D and beyond.
    dtype : numpy dtype
        As stored.
    affine : (4, 4) float64
        Voxel to world, mm.
    ours : bool
        True for a mask or probability that monet-edge wrote.
    details : Any
        What the format's own `read` needs besides.
    spacing_known : bool
        False if what a voxel measures is known to be false.
    begun : Future of Scan, optional
        The reading of it that `formats.begin` has begun.
    """

    format: str
    path: Path
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype
    affine: np.ndarray
    ours: bool
    details: Any
    spacing_known: bool = True
    begun: Future[Scan] | None = None


@dataclass(frozen=True)
class Seal:
    """What a result of ours says of itself in its first bytes, believed without a look at the rest of it.

    Attributes
    ----------
    key : str
        Of the model and options that made it, see `Options.key`; empty if it names none.
    whole : bool
        The file is as long as it says; where it is compressed, its trailer says so.
    """

    key: str
    whole: bool


@dataclass(frozen=True)
class Format:
    """A kind of file that a scan may be in. Its functions believe nothing, and raise a ScanError that names the file.

    Attributes
    ----------
    name : str
        As messages say it.
    endings : tuple of str
        How the names of its files end, lower case, the longest first; by them scans are found in folders.
    other_endings : tuple of str
        Of files that may be named, but are no scans of their own in a folder: the headers of pairs.
    sniff : callable
        ``sniff(path, start)``: whether it is such a file, by its first `stream.START` bytes (decompressed) or by its name.
    peek : callable
        ``peek(path)``: its `Header`.
    read : callable
        ``read(header, volume)``: the volume of that number, from 0, which the header has; nothing is parsed a second time.
        A ResourceError if the memory does not suffice.
    seal : callable, optional
        ``seal(path)``: the `Seal` of a result of ours, None for everything else; it raises nothing but an OSError. 100,000 files
        are looked at before a run: a tenth of a millisecond each, so no library parses them. Without it results are peeked at.
    """

    name: str
    endings: tuple[str, ...]
    other_endings: tuple[str, ...]
    sniff: Callable[[Path, bytes], bool]
    peek: Callable[[Path], Header]
    read: Callable[[Header, int], Scan]
    seal: Callable[[Path], Seal | None] | None = None


@dataclass(frozen=True)
class Writer:
    """A kind of file that a result may go into.

    Attributes
    ----------
    name : str
    endings : tuple of str
        The names that it is chosen by, the longest first.
    write : callable
        ``write(file, name, array, like, labels, key)``: the array, checked by `formats.write`, into an open file of this name.
    """

    name: str
    endings: tuple[str, ...]
    write: Callable[[BinaryIO, str, np.ndarray, Scan, Sequence[str], str], None]
