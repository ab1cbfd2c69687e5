"""The bytes of untrusted files in order, unpacked where they are packed. Light: a file is begun before NumPy is imported."""

from . import deflate
from .ahead import Ahead, begin
from .packing import BZIP2, GZIP, MOST_RATIO, TEXT, ZLIB
from .stream import START, Stream, opened

__all__ = ["BZIP2", "GZIP", "MOST_RATIO", "START", "TEXT", "ZLIB", "Ahead", "Stream", "begin", "deflate", "opened"]
