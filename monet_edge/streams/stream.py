"""The bytes of an untrusted file in order, unpacked where they are packed: bounded memory, checksum and size verified."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import ResourceError, ScanError
from ..files import missing
from .packing import GZIP, MARKS, TEXT, ZLIB, Compressed

if TYPE_CHECKING:
    import numpy as np

    from .numerals import Numbers

START = 1024  # bytes by which a format is known: NIfTI's header has 540, DICOM's mark ends at 132
# Bytes unpacked at a time, and most bytes of a file taken for it: a scan's give about as many. Other threads wait for Python after each,
# and so does this one for them, 0.2 ms and three times a piece; pieces of 4 MB are new memory every time, which takes 0.02 s of 80 MB.
CHUNK = 1 << 21
_PACKED = 1 << 20
_HEAD = 4  # bytes of a member's header up to gzip's flags
_FLAGS = b"\x1f"  # the highest that there is


class Stream:
    """The bytes of a file in order, never more than a chunk at a time; ``packing`` is how they are packed, "" if they are not."""

    def __init__(self, file: BinaryIO, status: os.stat_result, plain: bool = False) -> None:
        self.file, self.size = file, status.st_size
        self.version = version_of(status)
        self.packing = ""
        self.trailing = 0  # bytes after the end of the compressed data, known at that end
        self._member: Compressed | Numbers | None = None
        self._start = b""  # of the member, read already
        if not plain and not self._begin(GZIP, file.read(_HEAD)):
            file.seek(0)

    def unpack(self, packing: str, dtype: np.dtype) -> None:
        """Take what comes from here on as packed so, one of `packing`'s; ``dtype`` is what numbers as text become."""
        if packing == TEXT:
            from .numerals import Numbers

            self.packing, self._member = packing, Numbers(dtype)
        elif packing:
            start = self.file.read(_HEAD)
            if packing == ZLIB and start.startswith(MARKS[GZIP]):  # MetaIO takes either
                packing = GZIP
            if not self._begin(packing, start):
                raise ScanError(f"its voxels are not compressed by {packing}, as the header says. Copy it again.")

    def piece(self, most: int) -> bytes:
        """Up to ``most`` bytes; none means the end, with the checksum and the size of compressed data verified."""
        most = min(most, CHUNK)
        if not self.packing:
            return self.file.read(most)
        while self._member is not None:
            packed, self._start = self._start, b""
            if not packed and self._member.needs_input:
                packed = self.file.read(min(_PACKED, max(most, START)))  # of a header, too: to have 1 MB for it takes 0.15 ms
                if not packed:
                    self._member.end()
            piece = self._member.unpack(packed, most)
            if self._member.eof:
                self._next_member()
            if piece:
                return piece
        return b""

    def _next_member(self) -> None:
        """A gzip or bzip2 file may be several, one after the other (bgzip); whatever else follows is counted."""
        assert self._member is not None
        rest = self._member.unused_data
        rest += self.file.read(max(_HEAD - len(rest), 0))
        if self.packing == ZLIB or not self._begin(self.packing, rest):
            self.trailing, self._member = len(rest) + self.size - self.file.tell(), None

    def _begin(self, packing: str, start: bytes) -> bool:
        """Whether compressed data starts so; then it is what is unpacked from now on."""
        if packing not in (*MARKS, ZLIB) or not start.startswith(MARKS.get(packing, b"")):
            return False
        if packing == GZIP and start[3:_HEAD] > _FLAGS:  # ISA-L would pass over them
            raise ScanError("the compressed data is damaged (unknown header flags set). Copy it again.")
        self.packing, self._member, self._start = packing, Compressed(packing), start
        return True

    def read(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end."""
        buffer = bytearray()
        while len(buffer) < count and (piece := self.piece(count - len(buffer))):
            buffer += piece
        return bytes(buffer)

    def skip(self, count: int) -> int:
        """Pass over ``count`` bytes; the number of bytes there were."""
        if not self.packing:
            at = min(count, max(self.size - self.file.tell(), 0))
            self.file.seek(at, os.SEEK_CUR)
            return at
        at = 0
        while at < count and (piece := self.piece(count - at)):
            at += len(piece)
        return at

    def skip_lines(self, count: int) -> None:
        """Pass over so many lines of a file that is not packed up to here; fewer at its end."""
        while count and (piece := self.file.readline(CHUNK)):
            count -= piece.endswith(b"\n")


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """Another one, once the file has changed."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def opened(path: Path, plain: bool = False) -> Iterator[Stream]:
    """A scan's file to read from; every error inside the block names the file.

    Parameters
    ----------
    path : Path
    plain : bool
        Take it as it is. Default: a file that is gzip as a whole (by content, not by name) is decompressed.

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
            yield Stream(file, os.fstat(file.fileno()), plain)
    except (FileNotFoundError, NotADirectoryError):
        raise ScanError(f"{path}: {missing(path)}") from None
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ScanError, ResourceError) as error:
        raise error.about(path) from None
