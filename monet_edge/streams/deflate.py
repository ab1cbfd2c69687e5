"""gzip and zlib by ISA-L where it is installed, else by zlib. Both verify a stream's checksum and its size."""

from __future__ import annotations

from typing import Any, BinaryIO

try:
    # what zlib offers: inflates 2.4 times as fast, deflates a mask 5 times, and to 0.9 of its size
    from isal import igzip_lib
    from isal import isal_zlib as library
except ImportError:
    import zlib as library  # type: ignore[no-redef]

    igzip_lib = None  # type: ignore[assignment]

Error: Any = library.error
GZIP, ZLIB = 31, 15  # a window of 32 KB, header and trailer of gzip or of zlib


def decompressor(wbits: int) -> Any:
    """Of one member, see `bz2.BZ2Decompressor` or, where there is no ISA-L, `zlib.decompressobj`."""
    if igzip_lib is None:
        return library.decompressobj(wbits)
    # it keeps what it has not used yet; zlib's form would copy that again for every piece: 0.03 of 0.18 s of a scan of 80 MB
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP if wbits == GZIP else igzip_lib.DECOMP_ZLIB)


def reader(file: BinaryIO) -> Any:
    """What inflates a gzip file straight into memory, by its ``readinto``, and verifies it; None where ISA-L does not offer it.

    `isal.igzip` is made of it, and would copy every byte once more, holding up Python.
    """
    found = getattr(library, "_GzipReader", None)
    return found and found(file, 1 << 20)


def compressor() -> Any:
    """Level 1, see `zlib.compressobj`: neither library writes a name or a time, so the same bytes give the same file."""
    return library.compressobj(1, wbits=GZIP)
