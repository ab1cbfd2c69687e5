"""Files whose data is deflated as a whole: inflated, but not without a limit."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from ...errors import ScanError

MOST_INFLATED = 256 << 20  # bytes of a deflated file: 500 slices of 512x512; of any more nothing is known before they are in memory
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"  # transfer syntaxes, equally long


def plain(file: BinaryIO) -> BinaryIO:
    """The same file, or one in memory with its data inflated where that was deflated: pydicom would do so without looking how large it is.

    Raises
    ------
    ScanError
        If it would be larger than `MOST_INFLATED`, or is damaged.
    """
    start = file.read(1024)
    file.seek(0)
    if _DEFLATED not in start:
        return file
    length = int.from_bytes(start[140:144], "little") if start[132:136] == b"\2\0\0\0" else 0
    if not 0 < length < 1000:
        raise ScanError("its meta information has no length, without which deflated data cannot be found")
    inflated = bytearray(file.read(144 + length).replace(_DEFLATED, _EXPLICIT))
    inflate, more = zlib.decompressobj(-zlib.MAX_WBITS), b""
    try:
        while not inflate.eof and (compressed := more or file.read(1 << 16)):
            inflated += inflate.decompress(compressed, 1 << 20)
            more = inflate.unconsumed_tail
            if len(inflated) > MOST_INFLATED:
                raise ScanError(f"it inflates to more than {MOST_INFLATED >> 20} MB, too much for a deflated file")
    except zlib.error as error:
        raise ScanError(f"the deflated data is damaged ({str(error).rpartition(': ')[2]}). Copy it again.") from None
    if not inflate.eof:
        raise ScanError("the deflated data ends too early: the file is truncated. Copy it again.")
    return io.BytesIO(inflated)
