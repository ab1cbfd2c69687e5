"""Whether a file is a result of ours, of which model and options, and whole: by its first bytes and its last, nothing inflated between.

Nothing here believes a file either: whatever does not begin as we write is none of ours, and whatever is not as long is not whole.
"""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path

from ...streams import deflate
from ..contract import OURS, Seal

_START = 4096  # bytes of the file; a header of ours takes 400, compressed
_HEADER = 560  # bytes of the longest header and the beginning of its first extension
_GZIP = b"\x1f\x8b"
_BYTES = {2: 1, 16: 4}  # of a voxel, by datatype: masks and probabilities
# By the size of the header, where in it these are, and as what: the dimensions, the datatype, the first voxel; the description
_FIELDS = {348: (("8h", 40), ("h", 70), ("f", 108), 148), 540: (("8q", 16), ("h", 12), ("q", 168), 240)}
_WORDS = 80  # bytes of the description


def seal(path: Path) -> Seal | None:
    """The seal of a result of ours, see `contract.Format`."""
    with path.open("rb", buffering=0) as file:
        start = file.read(_START)
        gzip = start.startswith(_GZIP)
        header = _inflate(start) if gzip else start
        found = _parse(header)
        if found is None:
            return None
        size, words = found
        if gzip:
            file.seek(-4, os.SEEK_END)
            return Seal(_key(words), int.from_bytes(file.read(4), "little") == size % (1 << 32))
        return Seal(_key(words), file.seek(0, os.SEEK_END) == size)


def _inflate(start: bytes) -> bytes:
    try:
        return bytes(deflate.decompressor(deflate.GZIP).decompress(start, _HEADER))
    except deflate.Error:
        return b""


def _parse(header: bytes) -> tuple[int, str] | None:
    """Bytes of the whole file and its description, if it is ours."""
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(header[:4], name)  # type: ignore[arg-type]
        if size not in _FIELDS or len(header) < size:
            continue
        *numbers, place = _FIELDS[size]
        words = header[place : place + _WORDS].rstrip(b"\0").decode("ascii", "replace")
        if not words.startswith(OURS):
            return None
        (count, *sides), (datatype,), (offset,) = (struct.unpack_from(order + kind, header, at) for kind, at in numbers)
        sides = sides[:count]
        sound = 1 <= count <= 7 and min(sides) >= 1 and datatype in _BYTES and 0 < offset < 1 << 31
        return int(offset) + prod(sides) * _BYTES[datatype] if sound else 0, words
    return None


def _key(words: str) -> str:
    """Of "monet-edge VERSION KIND KEY", which may end before."""
    parts = words.split(" ")
    return parts[3] if len(parts) == 4 else ""
