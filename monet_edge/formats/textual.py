"""What formats have in common whose headers are text, NRRD and MetaImage: voxels after the header, or in a file beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ScanError
from ..streams import Stream, opened
from ..text import printable
from ..volume import Scan
from . import raster
from .contract import Header

MAX_HEADER = 4 << 20  # bytes; what exports of scanners keep there has some 100 KB


@dataclass(frozen=True)
class Layout:
    """What a checked header says.

    Attributes
    ----------
    shape, volumes, dtype, run, lines, packing, skip
        As in `raster.Raster`.
    affine : (4, 4) float64
        Voxel to world (right, anterior, superior), mm.
    oriented : bool
        False if it does not say how the patient lies.
    file : str
        The name of the file with the voxels; empty where they follow the header.
    length : int
        Bytes of the header, its last line included.
    ours : bool
        As in `contract.Header`.
    warnings : tuple of str
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype
    run: int
    lines: int
    packing: str
    skip: int
    affine: np.ndarray
    oriented: bool
    file: str
    length: int
    ours: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Details:
    """Where the voxels are, and what the header says of them; ``version`` is of the file that holds them."""

    raster: raster.Raster
    version: tuple[int, ...]
    layout: Layout


def peek(format: str, path: Path, parse: Callable[[Stream], Layout]) -> Header:
    """Read and check the header only, see `contract.Format`; ``parse`` reads it from the beginning of its file."""
    with opened(path) as stream:
        if stream.packing:
            raise ScanError("it is gzip as a whole; expected a header that can be read, whatever its voxels are. Decompress it first.")
        layout = parse(stream)
        file = _beside(path, layout.file) if layout.file else path
    found = raster.Raster(
        *(file, layout.shape, layout.volumes, layout.dtype, layout.run),
        start=0 if layout.file else layout.length,
        lines=layout.lines,
        packing=layout.packing,
        skip=layout.skip,
    )
    with opened(file, plain=True) as stream:
        raster.check_size(found, stream.size, found.packing or "")
        details = _Details(found, stream.version, layout)
    files = (path, file) if layout.file else (path,)
    return Header(format, path, layout.shape, layout.volumes, layout.dtype, layout.affine, layout.ours, details, files)


def read(header: Header, volumes: Sequence[int]) -> tuple[Scan, ...]:
    """Read volumes, see `contract.Format`."""
    details: _Details = header.details
    layout = details.layout
    # A few bytes after plain voxels are passed over, as in NIfTI; where a header is in a file of its own, they belong before the voxels
    spare = 0 if layout.packing or layout.file else layout.shape[0] * layout.shape[1] * layout.dtype.itemsize - 1
    found, warnings = raster.read(details.raster, details.version, volumes, spare, header.watch)
    warnings = layout.warnings + warnings
    return tuple(Scan(header.path, voxels, 1.0, 0.0, layout.affine, None, warnings, layout.oriented) for voxels in found)


def _beside(path: Path, name: str) -> Path:
    """The file that a header names: in its own folder or below it. Links are followed, the way out is not."""
    if re.match(r"LIST(\s|$)", name) or re.search(r"%[0-9]*[du].*\s-?[0-9]+\s", name):
        raise ScanError(f"its voxels are in several files ({printable(name[:60])}), which is not supported; expected one")
    root = os.path.abspath(path.parent)
    there = os.path.normpath(os.path.join(root, name))
    if not name.isprintable() or not there.startswith(os.path.join(root, "")):
        raise ScanError(f"the header says that its voxels are in {printable(name[:60])!r}, outside its folder. Put them side by side.")
    return path.parent / os.path.relpath(there, root)
