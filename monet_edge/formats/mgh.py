"""Read FreeSurfer's MGH, compressed (.mgz) or not (.mgh), believing nothing of it.

A header of 284 bytes, big-endian, the voxels, and what was known of the measurement and of the programs that made the file, of any
length, which is passed over. Definition: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..errors import ScanError
from ..streams import Stream, opened
from ..volume import Scan
from . import raster
from .contract import Format, Header
from .space import affine_of

NAME = "MGH"
ENDINGS = (".mgz", ".mgh.gz", ".mgh")
TYPES = {0: "u1", 4: ">i2", 10: ">u2", 1: ">i4", 3: ">f4"}
_OTHERS = {2: "long", 5: "bitmap", 6: "tensor", 7: "complex", 8: "double", 9: "RGB"}
_HEADER = np.dtype([
    *((name, ">i4") for name in ("version", "width", "height", "depth", "frames", "type", "dof")),
    ("good", ">i2"),  # whether what follows is to be believed
    ("spacing", ">f4", 3),
    ("cosines", ">f4", (3, 3)),  # of each axis: right, anterior, superior
    ("centre", ">f4", 3),
])  # fmt: skip
_VOXELS = 284  # where they begin
_UNKNOWN = ((1.0, 1.0, 1.0), ((-1, 0, 0), (0, 0, -1), (0, 1, 0)), (0, 0, 0))  # spacing, cosines, centre as FreeSurfer takes them then
_MOST_BEHIND = 64 << 20  # bytes after the voxels; a table of FreeSurfer's colours has some 100 KB
_RAS = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _Details:
    """Where the voxels are, and what the header says of them."""

    raster: raster.Raster
    version: tuple[int, ...]
    affine: np.ndarray
    oriented: bool


def sniff(path: Path, start: bytes) -> bool:
    """Whether it calls itself MGH or begins like it, be it damaged: the message then says how."""
    return path.name.lower().endswith(ENDINGS) or (start[:4] == b"\0\0\0\1" and int.from_bytes(start[20:24], "big") in TYPES)


def peek(path: Path) -> Header:
    """Read and check the header only, see `contract.Format`."""
    with opened(path) as stream:
        header = _header(stream)
        x, y, z, volumes = (int(header[side]) for side in ("width", "height", "depth", "frames"))
        oriented = bool(header["good"] == 1)
        spacing, cosines, centre = (header[part] for part in ("spacing", "cosines", "centre")) if oriented else _UNKNOWN
        affine = _affine(spacing, cosines, centre, (x, y, z))
        dtype = np.dtype(TYPES[int(header["type"])])
        found = raster.Raster(path, (x, y, z), volumes, dtype, prod((x, y, z)), skip=_VOXELS)
        raster.check_size(found, stream.size, stream.packing)
        details = _Details(found, stream.version, affine, oriented)
    return Header(NAME, path, found.shape, volumes, dtype, affine, False, details, (path,))


def read(header: Header, volumes: Sequence[int]) -> tuple[Scan, ...]:
    """Read volumes, see `contract.Format`."""
    details: _Details = header.details
    # every file has something behind the voxels, so that it is passed over is no warning
    found, _ = raster.read(details.raster, details.version, volumes, _MOST_BEHIND, header.watch)
    warnings = () if details.oriented else ("its orientation is unknown (goodRASFlag is not 1); left, right, front and back are a guess",)
    return tuple(Scan(header.path, voxels, 1.0, 0.0, details.affine, None, warnings, details.oriented) for voxels in found)


FORMAT = Format(NAME, ENDINGS, (), sniff, peek, read)


def _header(stream: Stream) -> np.void:
    raw = stream.read(_VOXELS)
    if not raw:
        raise ScanError("the file is empty. Copy it again.")
    if len(raw) < _VOXELS:
        raise ScanError(f"the file ends after {len(raw)} bytes, inside its header: it is truncated. Copy it again.")
    header: np.void = np.frombuffer(raw, _HEADER, 1)[0]
    if header["version"] != 1:
        raise ScanError(f"not an MGH file: it begins with version {header['version']}, expected 1. Expected .mgz or .mgh.")
    sides = [int(header[side]) for side in ("width", "height", "depth", "frames")]
    if min(sides) < 1:
        raise ScanError(f"the header says {'x'.join(map(str, sides))} voxels; every side must be at least 1")
    kind = int(header["type"])
    if kind not in TYPES:
        raise ScanError(f"its voxels are of type {kind} ({_OTHERS.get(kind, 'unknown')}); expected 8, 16 or 32 bits, one number a voxel")
    return header


def _affine(spacing: Sequence[float], cosines: Sequence[Sequence[float]], centre: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Voxel to world; the header says where the middle is, the corner between the voxels around it where their number is even."""
    sizes = np.asarray(spacing, np.float64)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        if not (sizes > 0).all():
            raise ScanError(f"the header's voxel size is {', '.join(f'{size:g}' for size in sizes)}; expected numbers above 0")
        steps = np.asarray(cosines, np.float64) * sizes[:, None]
        origin = np.asarray(centre, np.float64) - np.asarray(shape) / 2 @ steps
    return affine_of(list(steps), origin, _RAS, "orientation (x_r to z_s)")
