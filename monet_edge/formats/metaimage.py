"""Read MetaImage, its voxels after the header (.mha) or in a file beside it (.mhd), believing nothing of it.

The header is text, ``Key = Value`` a line, up to ElementDataFile. World coordinates are taken as ITK takes them: left, posterior,
superior, by TransformMatrix, whatever AnatomicalOrientation says. Definition: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import numpy as np

from ..errors import ScanError
from ..streams import TEXT, ZLIB, Stream
from ..text import printable
from . import textual
from .contract import Format, Header
from .space import LPS, affine_of
from .textual import MAX_HEADER, Layout

NAME = "MetaImage"
ENDINGS = (".mha", ".mhd")
TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_ALIASES = {
    **dict.fromkeys(("Orientation", "Rotation"), "TransformMatrix"),
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    **{"ElementByteOrderMSB": "BinaryDataByteOrderMSB"},
}
_FIELDS = (
    *("ObjectType", "NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "ElementDataFile", "HeaderSize"),
    *("BinaryData", "BinaryDataByteOrderMSB", "CompressedData"),
    *("TransformMatrix", "Offset", "ElementSpacing", "ElementSize", "AnatomicalOrientation"),
)
_FIRST = re.compile(rb"\s*(ObjectType|NDims|Comment)\s*=")
_ITK = "RAI"  # how AnatomicalOrientation calls the axes of a file without TransformMatrix: from right, anterior, inferior


def sniff(path: Path, start: bytes) -> bool:
    """Whether it calls itself MetaImage or begins like it, be it damaged: the message then says how."""
    return path.name.lower().endswith(ENDINGS) or bool(_FIRST.match(start))


def peek(path: Path) -> Header:
    """Read and check the header only, see `contract.Format`."""
    return textual.peek(NAME, path, parse)


FORMAT = Format(NAME, ENDINGS, (), sniff, peek, textual.read)


def parse(stream: Stream) -> Layout:
    """Read and check everything before the voxels, from the beginning of the file.

    Raises
    ------
    ScanError
        Naming the field, what it holds and what was expected.
    """
    fields, length = _fields(stream)
    if fields.get("ObjectType", "Image") != "Image":
        raise ScanError(f"it holds an object of type {printable(fields['ObjectType'][:40])}; expected Image")
    sizes = _sizes(fields)
    space, channels = sizes[:3], _integer(fields, "ElementNumberOfChannels", "1", least=1)
    if channels > 1 and prod(sizes[3:]) > 1:
        raise ScanError(f"it holds {prod(sizes[3:])} volumes of {channels} channels, which is not supported: one of the two must be 1")
    affine, oriented, warnings = _affine(fields, len(sizes))
    packing = "" if _flag(fields, "BinaryData", "True") else TEXT
    if _flag(fields, "CompressedData", "False"):
        packing = ZLIB
    x, y, z = (*space, 1)[:3]
    file = fields["ElementDataFile"]
    return Layout(
        shape=(x, y, z),
        volumes=channels * prod(sizes[3:]),
        dtype=_dtype(fields, packing),
        run=1 if channels > 1 else prod(space),
        lines=0,
        packing=packing,
        skip=_skip(fields, packing),
        affine=affine,
        oriented=oriented,
        file="" if file.upper() == "LOCAL" else file,
        length=length,
        ours=False,
        warnings=warnings,
    )


def _fields(stream: Stream) -> tuple[dict[str, str], int]:
    """The fields that matter, each once, and the length of the header in bytes: ElementDataFile is its last line."""
    raw = b""
    while not (end := re.search(rb"^[ \t]*ElementDataFile[ \t]*=[^\n]*(\n|\Z)", raw, re.MULTILINE)) or not end[1]:
        piece = stream.piece(1 << 16)
        raw += piece
        if not re.match(rb"\s*[A-Za-z][\w ]*=", raw):
            raise ScanError("not a MetaImage file: it does not begin with a line such as NDims = 3. Expected .mha or .mhd.")
        if not piece:
            break
        if len(raw) > MAX_HEADER:
            raise ScanError(f"its header is longer than {MAX_HEADER:,} bytes, expected ElementDataFile at its end: it is corrupt")
    if not end:
        raise ScanError("the header does not say its ElementDataFile: it is not a whole MetaImage header")
    fields: dict[str, str] = {}
    for line in raw[: end.end()].decode("utf-8", "surrogateescape").split("\n"):
        name, equals, value = (part.strip() for part in line.partition("="))
        if name and not equals:
            raise ScanError(f"the header has the line {printable(line[:60])!r}; expected Key = Value")
        name = _ALIASES.get(name, name)
        if name in fields:
            raise ScanError(f"the header says {name} twice")
        if name in _FIELDS:  # others are free to add theirs
            fields[name] = value
    return fields, end.end()


def _require(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise ScanError(f"the header does not say its {name}: it is not a whole MetaImage header")
    return fields[name]


def _integer(fields: dict[str, str], name: str, default: str | None = None, *, least: int) -> int:
    value = _require(fields, name) if default is None else fields.get(name, default)
    if not re.fullmatch(r"-?[0-9]{1,18}", value) or int(value) < least:
        raise ScanError(f"the header's {name} is {printable(value[:40])!r}; expected a whole number, {least} or more")
    return int(value)


def _flag(fields: dict[str, str], name: str, default: str) -> bool:
    value = fields.get(name, default).lower()
    if value not in ("true", "false", "1", "0", "t", "f"):
        raise ScanError(f"the header's {name} is {printable(value[:40])!r}; expected True or False")
    return value[0] in "t1"


def _sizes(fields: dict[str, str]) -> list[int]:
    dimensions, words = _integer(fields, "NDims", least=1), _require(fields, "DimSize").split()
    if len(words) != dimensions or not all(re.fullmatch("[0-9]{1,18}", word) and int(word) for word in words):
        found = printable(" ".join(words)[:60])
        raise ScanError(f"the header's DimSize is {found!r}; expected {dimensions} whole numbers of at least 1, as its NDims says")
    if not 2 <= dimensions <= 7:
        raise ScanError(f"the header says {dimensions} dimensions, expected 3 (or up to 7 of which one volume is chosen)")
    return [int(word) for word in words]


def _dtype(fields: dict[str, str], packing: str) -> np.dtype:
    name = _require(fields, "ElementType").removesuffix("_ARRAY")
    if name not in TYPES:
        raise ScanError(f"the header's ElementType is {printable(name[:40])!r}; expected {', '.join(TYPES)}")
    if packing == TEXT or TYPES[name].endswith("1"):
        return np.dtype(TYPES[name])
    return np.dtype("<>"[_flag(fields, "BinaryDataByteOrderMSB", "False")] + TYPES[name])


def _skip(fields: dict[str, str], packing: str) -> int:
    """Bytes before the first voxel in the file; -1 where the voxels are its last."""
    skip = _integer(fields, "HeaderSize", "0", least=-1)
    if skip and packing:
        raise ScanError(f"the header's HeaderSize is {skip}, of voxels that are {packing}; expected 0")
    return skip


def _numbers(fields: dict[str, str], name: str, count: int) -> np.ndarray | None:
    """So many finite numbers; None where the header does not say them."""
    if name not in fields:
        return None
    words = fields[name].split()
    try:
        numbers = np.array([float(word) for word in words])
        if len(words) != count or not np.isfinite(numbers).all() or any("_" in word for word in words):
            raise ValueError
    except ValueError:
        raise ScanError(f"the header's {name} is {printable(' '.join(words)[:60])!r}; expected {count} numbers") from None
    return numbers


def _affine(fields: dict[str, str], dimensions: int) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """Voxel to world, whether the header says how the patient lies, and warnings."""
    warnings: list[str] = []
    spacing = _numbers(fields, "ElementSpacing", dimensions)
    spacing = _numbers(fields, "ElementSize", dimensions) if spacing is None else spacing
    if spacing is None:
        spacing = np.ones(dimensions)
        warnings.append("its voxel size is unknown; taken as 1 x 1 x 1 mm")
    if (spacing[:3] <= 0).any():
        raise ScanError(f"the header's ElementSpacing is {' '.join(f'{size:g}' for size in spacing)}; expected numbers above 0")
    given, said = _numbers(fields, "TransformMatrix", dimensions**2), fields.get("AnatomicalOrientation", "")
    matrix = (np.eye(dimensions) if given is None else given.reshape(dimensions, dimensions))[:3, :3]  # a row is an axis
    origin = _numbers(fields, "Offset", dimensions)
    steps, place = np.zeros((min(dimensions, 3), 3)), np.zeros(3)
    steps[:, : len(matrix)] = matrix * spacing[:3, None]
    place[: len(steps)] = 0 if origin is None else origin[:3]
    oriented = given is not None or said == _ITK
    if not oriented:
        warnings.append("its orientation is unknown (no TransformMatrix); left, right, front and back are a guess")
    return affine_of(list(steps), place, LPS, "TransformMatrix"), oriented, tuple(warnings)
