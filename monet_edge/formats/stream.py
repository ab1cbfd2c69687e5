"""The bytes of an untrusted file in order, decompressed where it is gzip: bounded memory, checksum and size verified."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ResourceError, ScanError
from ..files import missing
from . import deflate

START = 1024  # bytes by which a format is known: NIfTI's header has 540, DICOM's mark ends at 132
MOST_RATIO = 1032  # deflate cannot do better: 258 bytes for 2 bits
_CHUNK = 1 << 20  # bytes decompressed at a time
_GZIP = b"\x1f\x8b"
_HEAD = 4  # bytes of a member's header up to its flags
_FLAGS = b"\x1f"  # the highest that there is


class Stream:
    """The bytes of a file in order, decompressed if it is gzip (by content, not by name): never more than a chunk at a time."""

    def __init__(self, file: BinaryIO, status: os.stat_result) -> None:
        self.file, self.size = file, status.st_size
        self.version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)  # another one, once the file has changed
        self._inflate: Any = None
        self._pending = b""
        self.gzip = self._begin(file.read(_HEAD))
        if not self.gzip:
            file.seek(0)
        self.trailing = 0  # bytes after the end of the gzip stream, known at that end

    def piece(self, most: int) -> bytes:
        """Up to ``most`` bytes; none means the end, with gzip's checksum and size verified."""
        most = min(most, _CHUNK)
        if not self.gzip:
            return self.file.read(most)
        while self._inflate is not None:
            compressed = self._pending or self.file.read(1 << 16)
            if not compressed:
                raise ScanError("the compressed data ends too early: the file is truncated. Copy it again.")
            try:
                piece = self._inflate.decompress(compressed, most)
            except deflate.Error as error:
                raise ScanError(f"the compressed data is damaged ({str(error).rpartition(': ')[2]}). Copy it again.") from None
            self._pending = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._next_member()
            if piece:
                return piece
        return b""

    def _next_member(self) -> None:
        """A gzip file may be several, one after the other (bgzip); whatever else follows is counted."""
        rest = self._inflate.unused_data
        rest += self.file.read(max(_HEAD - len(rest), 0))
        if not self._begin(rest):
            self.trailing = len(rest) + self.size - self.file.tell()

    def _begin(self, start: bytes) -> bool:
        """Whether a gzip member starts so; then it is what is inflated from now on."""
        found = start.startswith(_GZIP)
        if found and start[3:_HEAD] > _FLAGS:  # ISA-L would pass over them
            raise ScanError("the compressed data is damaged (unknown header flags set). Copy it again.")
        self._inflate, self._pending = (deflate.decompressor(), start) if found else (None, b"")
        return found

    def read(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end."""
        buffer = bytearray()
        while len(buffer) < count and (piece := self.piece(count - len(buffer))):
            buffer += piece
        return bytes(buffer)

    def fill(self, target: memoryview) -> int:
        """Fill ``target``; the number of bytes there were."""
        at = 0
        while at < len(target) and (piece := self.piece(len(target) - at)):
            target[at : at + len(piece)] = piece
            at += len(piece)
        return at

    def skip(self, count: int) -> int:
        """Pass over ``count`` bytes; the number of bytes there were."""
        at = 0
        while at < count and (piece := self.piece(count - at)):
            at += len(piece)
        return at


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """A scan's file to read from; every error inside the block names the file.

    Raises
    ------
    ScanError
        If there is no such file, it is not a regular one, or it cannot be read.
    """
    try:
        if "\0" in str(path):  # no file's name has one; stat would raise ValueError
            raise ScanError("no such file")
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ScanError("a folder; expected a file")
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            raise ScanError("not a regular file")
        with path.open("rb") as file:
            yield Stream(file, os.fstat(file.fileno()))
    except (FileNotFoundError, NotADirectoryError):
        raise ScanError(f"{path}: {missing(path)}") from None
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ScanError, ResourceError) as error:
        raise error.about(path) from None
