"""Whether a file is a result of ours, of which model and options, and whole: by its first bytes and its last, nothing inflated between.

Nothing here believes a file either: whatever does not begin as we write is none of ours, and whatever is not as long is not whole.
"""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path

from .. import deflate
from ..contract import Seal
from .writer import OURS

_START = 4096  # bytes of the file; a header of ours takes 400, compressed
_HEADER = 560  # bytes of the longest header and the beginning of its first extension
_GZIP = b"\x1f\x8b"
_BYTES = {2: 1, 16: 4}  # of a voxel, by datatype: masks and probabilities
# By the size of the header, for either byte order: where in it the dimensions, the datatype, the first voxel and the description are
_FIELDS = {
    (size, order): (struct.Struct(f"{order}40x8h14xh36xf36x80s") if size == 348 else struct.Struct(f"{order}12xh2x8q88xq64x80s"))
    for size in (348, 540)
    for order in "<>"
}


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
        return bytes(deflate.decompressor().decompress(start, _HEADER))
    except deflate.Error:
        return b""


def _parse(header: bytes) -> tuple[int, str] | None:
    """Bytes of the whole file and its description, if it is ours."""
    for order, name in (("<", "little"), (">", "big")):
        fields = _FIELDS.get((int.from_bytes(header[:4], name), order))  # type: ignore[arg-type]
        if fields is None or len(header) < fields.size:
            continue
        values = fields.unpack_from(header)
        words = values[-1].rstrip(b"\0").decode("ascii", "replace")
        if not words.startswith(OURS):
            return None
        (datatype, dims, offset) = (values[8], values[:8], values[9]) if fields.size < 400 else (values[0], values[1:9], values[9])
        if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1 or datatype not in _BYTES or not 0 < offset < 1 << 31:
            return 0, words
        return int(offset) + prod(dims[1 : dims[0] + 1]) * _BYTES[datatype], words
    return None


def _key(words: str) -> str:
    """Of "monet-edge VERSION KIND KEY", which may end before."""
    parts = words.split(" ")
    return parts[3] if len(parts) == 4 else ""
