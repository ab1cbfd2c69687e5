"""The text at the beginning of a NRRD file, checked line by line: nothing here reads a voxel.

Read by our own code: pynrrd reads a header of any length, takes what it does not know for valid, opens whatever path the header
names, and unpacks a whole file into memory. Definition: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite, prod

import numpy as np

from ...errors import ScanError
from ...streams import BZIP2, GZIP, TEXT, Stream
from ...text import printable
from ..contract import OURS
from ..space import LPS, affine_of
from ..textual import MAX_HEADER, Layout

MAGIC = re.compile(rb"NRRD00(?:0[1-6]|\.01)\r?\n")
FIELDS = (
    *("type", "dimension", "sizes", "encoding", "endian", "datafile", "lineskip", "byteskip", "blocksize", "content", "number"),
    *("space", "spacedimension", "spaceorigin", "spacedirections", "spaceunits", "measurementframe", "sampleunits"),
    *("spacings", "thicknesses", "axismins", "axismaxs", "centers", "centerings", "labels", "units", "kinds"),
    *("min", "max", "oldmin", "oldmax"),
)
_NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
TYPES = {name: code for code, names in _NAMES.items() for name in names}
PACKINGS = {"raw": "", "gzip": GZIP, "gz": GZIP, "bzip2": BZIP2, "bz2": BZIP2, "text": TEXT, "txt": TEXT, "ascii": TEXT}
SPACES = {  # signs that make them right, anterior, superior
    **dict.fromkeys(("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS),
}
_UNNAMED = ("scanner-xyz", "3d-right-handed", "3d-left-handed", "")  # worlds of three axes that do not say where they point
_NOT_NUMBERS = ("color", "complex", "quaternion", "matrix")  # in the kind of an axis: several numbers make one voxel


def parse(stream: Stream) -> Layout:
    """Read and check everything before the voxels, from the beginning of the file.

    Raises
    ------
    ScanError
        Naming the field, what it holds and what was expected.
    """
    text, length = _header(stream)
    fields, segmentation = _fields(text)
    sizes, kinds = _sizes(fields), _words(fields, "kinds")
    space = _space(fields)
    steps, warnings = _steps(fields, len(sizes))
    axes, others = _axes(sizes, kinds, steps)
    affine, oriented, more = _affine(fields, space, [step for step in steps if step is not None])
    x, y, z = (*(sizes[axis] for axis in axes), 1)[:3]
    packing = _choice(fields, "encoding", PACKINGS)
    return Layout(
        shape=(x, y, z),
        volumes=prod(sizes[axis] for axis in others),
        dtype=_dtype(fields, packing),
        run=prod(sizes[: others[0]] if others else sizes),
        packing=packing,
        lines=_integer(fields, "lineskip", "0", least=0),
        skip=_integer(fields, "byteskip", "0", least=-1),
        affine=affine,
        oriented=oriented,
        file=fields.get("datafile", ""),
        length=length,
        ours=segmentation or fields.get("content", "").startswith(OURS),
        warnings=(*warnings, *more),
    )


def _header(stream: Stream) -> tuple[str, int]:
    """The text up to an empty line or the end of the file, and its length in bytes."""
    raw = b""
    while not (end := re.search(rb"\n\r?\n", raw)):
        piece = stream.piece(1 << 16)
        raw += piece
        if not MAGIC.match(raw):
            raise ScanError("not a NRRD file: it does not begin with NRRD0001 to NRRD0006. Expected .nrrd or .nhdr.")
        if not piece:
            break
        if len(raw) > MAX_HEADER:
            raise ScanError(f"its header is longer than {MAX_HEADER:,} bytes, expected an empty line at its end: it is corrupt")
    length = end.end() if end else len(raw)
    return raw[:length].decode("utf-8", "surrogateescape"), length


def _fields(text: str) -> tuple[dict[str, str], bool]:
    """Every field once, by its name in lower case without blanks; and whether 3D Slicer's segments are among the keys."""
    fields: dict[str, str] = {}
    segmentation = False
    for line in text.split("\n")[1:]:
        line = line.rstrip("\r")
        if not line or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        name = name.lower().replace(" ", "")
        if colon and name in FIELDS and not value.startswith("="):
            if name in fields:
                raise ScanError(f"the header says {printable(line[:40])!r}, and said {printable(fields[name][:40])!r} before; expected one")
            fields[name] = value.strip()
        elif ":=" in line:
            segmentation = segmentation or line.startswith("Segment0_ID:=")
        else:
            raise ScanError(f"the header has the line {printable(line[:60])!r}; expected a field of NRRD, or key:=value")
    return fields, segmentation


def _require(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise ScanError(f"the header does not say its {name}: it is not a whole NRRD header")
    return fields[name]


def _choice(fields: dict[str, str], name: str, choices: dict[str, str]) -> str:
    value = " ".join(_require(fields, name).lower().split())
    if value not in choices:
        raise ScanError(f"the header's {name} is {printable(value[:40])!r}; expected {', '.join(choices)}")
    return choices[value]


def _integer(fields: dict[str, str], name: str, default: str | None = None, *, least: int) -> int:
    value = _require(fields, name) if default is None else fields.get(name, default)
    if not re.fullmatch(r"-?[0-9]{1,18}", value) or int(value) < least:
        raise ScanError(f"the header's {name} is {printable(value[:40])!r}; expected a whole number, {least} or more")
    return int(value)


def _words(fields: dict[str, str], name: str) -> list[str]:
    return fields.get(name, "").split()


def _sizes(fields: dict[str, str]) -> list[int]:
    dimension, words = _integer(fields, "dimension", least=1), _require(fields, "sizes").split()
    if len(words) != dimension or not all(re.fullmatch("[0-9]{1,18}", word) and int(word) for word in words):
        found = printable(" ".join(words)[:60])
        raise ScanError(f"the header's sizes are {found!r}; expected {dimension} whole numbers of at least 1, as its dimension says")
    if not 2 <= dimension <= 7:
        raise ScanError(f"the header says {dimension} dimensions, expected 3 (or up to 7 of which one volume is chosen)")
    return [int(word) for word in words]


def _dtype(fields: dict[str, str], packing: str) -> np.dtype:
    code = _choice(fields, "type", TYPES)
    if packing == TEXT or code.endswith("1"):
        return np.dtype(code)
    return np.dtype(_choice(fields, "endian", {"little": "<", "big": ">"}) + code)


def _numbers(words: Sequence[str], what: str) -> np.ndarray:
    """Finite numbers."""
    try:
        numbers = np.array([float(word) for word in words])
        if any("_" in word for word in words) or not all(isfinite(number) for number in numbers):
            raise ValueError
    except ValueError:
        raise ScanError(f"the header's {what} is {printable(' '.join(words)[:60])!r}; expected numbers") from None
    return numbers


def _vectors(fields: dict[str, str], name: str) -> list[np.ndarray | None]:
    """Vectors such as (1,0,0), those of a plane's world with a 0 more, None where there is "none"."""
    text, what, size = fields[name], f"space {name[5:]}", 3 if "space" in fields else int(fields.get("spacedimension", "3"))
    words = re.findall(r"none|\([^()]*\)", text)
    example = "(1,0,0)" if size == 3 else "(1,0)"
    expected = f"the header's {what} is {printable(text[:60])!r}; expected vectors of {size} numbers, such as {example}"
    if re.sub(r"none|\([^()]*\)", "", text).strip():
        raise ScanError(expected)
    vectors: list[np.ndarray | None] = []
    for word in words:
        numbers = None if word == "none" else _numbers(word.strip("()").split(","), what)
        if numbers is not None and len(numbers) != size:
            raise ScanError(expected)
        vectors.append(None if numbers is None else np.append(numbers, np.zeros(3 - size)))
    return vectors


def _steps(fields: dict[str, str], dimension: int) -> tuple[list[np.ndarray | None], list[str]]:
    """Of every axis the way of one voxel, in the file's world; None where it is none of space."""
    if "spacedirections" in fields:
        steps = _vectors(fields, "spacedirections")
        if len(steps) != dimension:
            raise ScanError(f"the header has {len(steps)} space directions for {dimension} axes")
        return steps, []
    words = _words(fields, "spacings") or ["1"] * dimension
    warnings = [] if "spacings" in fields else ["its voxel size is unknown; taken as 1 x 1 x 1 mm"]
    if len(words) != dimension:
        raise ScanError(f"the header has {len(words)} spacings for {dimension} axes")
    kinds = [kind.lower() for kind in _words(fields, "kinds")] or ["domain"] * dimension
    of_space = [word.lower() != "nan" and kind in ("domain", "space", "???", "none") for word, kind in zip(words, kinds, strict=False)]
    axes = [axis for axis, is_space in enumerate(of_space) if is_space][:3]  # what follows is counted as volumes, as in NIfTI
    found: list[np.ndarray | None] = [None] * dimension
    for row, axis in enumerate(axes):
        size = _numbers([words[axis]], "spacings")[0]
        if size <= 0:
            raise ScanError(f"the header's spacings are {printable(' '.join(words)[:60])!r}; expected numbers above 0")
        found[axis] = np.eye(3)[row] * size
    return found, warnings


def _axes(sizes: list[int], kinds: list[str], steps: list[np.ndarray | None]) -> tuple[list[int], list[int]]:
    """The axes of space, and the others of which one number chooses a volume: those of more than 1, next to each other."""
    if kinds and len(kinds) != len(sizes):
        raise ScanError(f"the header has {len(kinds)} kinds for {len(sizes)} axes")
    space = [axis for axis, step in enumerate(steps) if step is not None]
    others = [axis for axis, step in enumerate(steps) if step is None and sizes[axis] > 1]
    if len(space) not in (2, 3):
        raise ScanError(f"the header gives {len(space)} axes of space; expected 3, or 2 of a single slice")
    for axis in others:
        if kinds and any(word in kinds[axis].lower() for word in _NOT_NUMBERS):
            raise ScanError(f"its voxels are {printable(kinds[axis][:40])} of {sizes[axis]} numbers; expected one number a voxel")
    if others and others != [axis for axis in range(others[0], others[-1] + 1) if sizes[axis] > 1]:
        raise ScanError("its volumes are counted by axes on both sides of an axis of space, which is not supported")
    return space, others


def _space(fields: dict[str, str]) -> str:
    """The name of the file's world; empty where there is none."""
    name, size = fields.get("space", "").lower(), fields.get("spacedimension", "3")
    if name not in (*SPACES, *_UNNAMED):
        raise ScanError(f"the header's space is {printable(name[:40])!r}; expected {', '.join(word for word in SPACES if '-' in word)}")
    if size not in ("3", "3" if name else "2"):
        raise ScanError(f"the header's space dimension is {printable(size[:20])!r}; expected 3")
    return name


def _affine(fields: dict[str, str], space: str, steps: Sequence[np.ndarray]) -> tuple[np.ndarray, bool, list[str]]:
    """Voxel to world, whether the header says how the patient lies, and warnings."""
    origins = _vectors(fields, "spaceorigin") if "spaceorigin" in fields else [np.zeros(3)]
    origin = origins[0] if len(origins) == 1 else None
    if origin is None:
        raise ScanError(f"the header's space origin is {printable(fields['spaceorigin'][:60])!r}; expected a vector such as (1,0,0)")
    oriented = space in SPACES and "spacedirections" in fields
    warnings = [] if oriented else ["its orientation is unknown (no space with directions); left, right, front and back are a guess"]
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    other = next((unit for unit in units if unit.lower() not in ("mm", "millimeter", "millimetre", "???", "")), "")
    if other:
        warnings.append(f"its lengths claim to be in {printable(other[:20])}; they are taken as mm")
    what = "space directions" if "spacedirections" in fields else "spacings"
    return affine_of(steps, origin, SPACES.get(space, LPS), what), oriented, warnings
