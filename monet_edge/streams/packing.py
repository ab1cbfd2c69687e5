"""Ways in which the bytes of a file are packed, undone a piece at a time: gzip, zlib and bzip2 here, `numerals` in a file of their own.

Each has ``needs_input``, ``unpack(data, most)`` (up to ``most`` bytes; no data while it needs none), ``end()`` (the file has no
more), ``eof`` and, once that is true, ``unused_data``.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable
from typing import Any

from ..errors import ScanError
from . import deflate

GZIP, ZLIB, BZIP2, TEXT = "gzip", "zlib", "bzip2", "text"
MARKS = {GZIP: b"\x1f\x8b", BZIP2: b"BZh"}  # how such data begins; zlib has no mark
# At most so many bytes come of one. deflate: 258 bytes for 2 bits; bzip2: blocks of 46.6 MB in 37 bytes; text: 8 for a digit
MOST_RATIO = {"": 1, GZIP: 1032, ZLIB: 1032, BZIP2: 1_500_000, TEXT: 8}
_COMPRESSORS: dict[str, Callable[[], Any]] = {
    GZIP: lambda: deflate.decompressor(deflate.GZIP),
    ZLIB: lambda: deflate.decompressor(deflate.ZLIB),
    BZIP2: bz2.BZ2Decompressor,
}


class Compressed:
    """One member of gzip, zlib or bzip2; its checksum is verified."""

    def __init__(self, kind: str) -> None:
        self._inner, self._tail = _COMPRESSORS[kind](), b""

    @property
    def needs_input(self) -> bool:
        """False while it has some."""
        return not self._tail and getattr(self._inner, "needs_input", True)

    @property
    def eof(self) -> bool:
        """True at its end."""
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""
        return bytes(self._inner.unused_data)

    def unpack(self, data: bytes, most: int) -> bytes:
        """Up to ``most`` bytes more."""
        try:
            piece = self._inner.decompress(data or self._tail, most)
        except (deflate.Error, OSError, EOFError) as error:
            raise ScanError(f"the compressed data is damaged ({str(error).rpartition(': ')[2]}). Copy it again.") from None
        self._tail = getattr(self._inner, "unconsumed_tail", b"")
        return bytes(piece)

    def end(self) -> None:
        """It is not whole."""
        raise ScanError("the compressed data ends too early: the file is truncated. Copy it again.")
