"""A gzip file that is inflated in a thread of its own before anybody reads it: what knows its format is still being imported."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread
from typing import Any, BinaryIO

from .. import system
from . import deflate
from .packing import GZIP, MARKS, MOST_RATIO
from .stream import version_of

_STEP = 4 << 20  # bytes inflated at a time, where they stay: every look at them in between waits 0.2 ms for Python
_MOST = 64 << 20  # bytes inflated before anybody asks; NumPy and all formats take as long to import as half of it


class Ahead:
    """The bytes of a file that is one gzip member with nothing after it, as they come; any other is not `whole`, and read as ever.

    Attributes
    ----------
    memory : mmap
        As many bytes as the file says it has.
    version : tuple of int
        The file's, see `stream.version_of`.
    """

    def __init__(self, file: BinaryIO, reader: Any, size: int) -> None:
        self.memory, self.version = system.memory(size), version_of(os.fstat(file.fileno()))
        self._file, self._reader = file, reader
        self._done, self._wanted, self._ended, self._whole = 0, False, False, False
        self._change = Condition()
        Thread(target=self._work, name="inflating", daemon=True).start()

    def has(self, end: int) -> bool:
        """Wait for so many bytes; False if they do not come."""
        with self._change:
            self._wanted = True
            self._change.notify_all()
            self._change.wait_for(lambda: self._done >= end or self._ended)
            return self._done >= end

    def whole(self) -> bool:
        """Wait for the end: whether the file held just these bytes, and their checksum is right."""
        self.has(len(self.memory) + 1)
        return self._whole

    def stop(self) -> None:
        """Nobody asks any more."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _work(self) -> None:
        try:
            with self._file:
                view = memoryview(self.memory)
                while count := self._reader.readinto(view[self._done : self._done + _STEP]):
                    with self._change:
                        self._done += count
                        self._change.notify_all()
                        self._change.wait_for(lambda: self._wanted or self._ended or self._done < _MOST)
                        if self._ended:
                            return
                self._whole = self._done == len(view) and not self._reader.read(1)
        except (OSError, EOFError, deflate.Error):  # whoever reads it then says what is wrong
            pass
        finally:
            self.stop()


def begin(path: Path) -> Ahead | None:
    """Begin to inflate a file; None where it is not gzip, or what is wrong with it is better said by who reads it."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            return None
        file = path.open("rb")
        if file.read(2) == MARKS[GZIP]:
            file.seek(-4, os.SEEK_END)
            size = int.from_bytes(file.read(4), "little")
            file.seek(0)
            reader = deflate.reader(file)
            if reader is not None and size <= status.st_size * MOST_RATIO[GZIP]:
                return Ahead(file, reader, size)
        file.close()
    return None
