"""What a format of scans, and one of results, is made of: to add one, write its file and name it in `formats.FORMATS` or `WRITERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..streams import Ahead
from ..volume import Scan
from .reading import Reading, Watch

OURS = "monet-edge "  # how what we write begins to describe itself


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
        True for a result and no scan: a mask or probability that monet-edge wrote, a segmentation that says it is one.
    details : Any
        What the format's own `read` needs besides.
    files : tuple of Path
        Every file that the scan is in, a header of its own included.
    spacing_known : bool
        False if what a voxel measures is known to be false.
    watch : callable, optional
        Given voxels of the volume that is read, as they come and will stay, each once, where the format has them so.
    ahead : Ahead, optional
        Its file, where that is being inflated already.
    begun : Reading, optional
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
    files: tuple[Path, ...]
    spacing_known: bool = True
    watch: Watch | None = None
    ahead: Ahead | None = None
    begun: Reading | None = None


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
        ``read(header, volumes)``: the volumes of these numbers, from 0, which the header has, a Scan each; nothing is parsed a second
        time. A ResourceError if the memory does not suffice.
    seal : callable, optional
        ``seal(path)``: the `Seal` of a result of ours, None for everything else; it raises nothing but an OSError. 100,000 files
        are looked at before a run: a tenth of a millisecond each, so no library parses them. Without it results are peeked at.
    choose : callable, optional
        ``choose(path, series, modality)``: as `peek`, where a path may hold several series: the one of this number or UID or, if
        that is None, the one that fits a model of this modality.
    """

    name: str
    endings: tuple[str, ...]
    other_endings: tuple[str, ...]
    sniff: Callable[[Path, bytes], bool]
    peek: Callable[[Path], Header]
    read: Callable[[Header, Sequence[int]], tuple[Scan, ...]]
    seal: Callable[[Path], Seal | None] | None = None
    choose: Callable[[Path, str | None, str], Header] | None = None


@dataclass(frozen=True)
class Legend:
    """What the numbers of a result mean, and who says so.

    Attributes
    ----------
    labels : tuple of str
        Names of the labels 1, 2, ...
    codes : dict
        Of labels that have one, by their names: SNOMED's, as `codes.check` leaves them.
    model : str
        The model's name.
    key : str
        Of the model and options, see `Options.key`.
    """

    labels: tuple[str, ...] = ()
    codes: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    key: str = ""


@dataclass(frozen=True)
class Writer:
    """A kind of file that a result may go into.

    Attributes
    ----------
    name : str
        One of `options.FORMATS`, that it is asked for by.
    endings : tuple of str
        The names that it is chosen by, the longest first.
    suffix : str
        What the name of a mask has after the scan's own, where nobody chose one: such as "_seg.nii.gz".
    write : callable
        ``write(file, name, array, like, legend)``: the array, checked by `formats.write`, into an open file of this name.
    check : callable, optional
        ``check(header)``: an OutputError if no result of this scan can be written so, before any work.
    """

    name: str
    endings: tuple[str, ...]
    suffix: str
    write: Callable[[BinaryIO, str, np.ndarray, Scan, Legend], None]
    check: Callable[[Header], None] | None = None
