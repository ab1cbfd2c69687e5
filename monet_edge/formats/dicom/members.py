"""The files that a scan may be spread over: those of a folder, of a zip archive, or one alone. Nothing is unpacked to the disk."""

from __future__ import annotations

import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ... import limits
from ...errors import ScanError
from ...text import printable

MARK, MARK_AT = b"DICM", 128  # DICOM part 10: after a preamble of 128 bytes
CONTENTS = "DICOMDIR"  # a disc's table of contents: it begins as DICOM does, and is no image
MOST_FILES = 100_000  # a whole-body CT has 5,000
_ZIP = b"PK\x03\x04"
_ENCRYPTED = 1  # bit of a zip entry's flags


def is_dicom(start: bytes) -> bool:
    """Whether a file begins as DICOM demands."""
    return start[MARK_AT : MARK_AT + 4] == MARK


def is_zip(start: bytes) -> bool:
    """Whether a file begins as a zip archive with something in it."""
    return start.startswith(_ZIP)


class Members:
    """The files in a folder and the folders beneath it, in a zip archive, or the one file itself, open while the block runs.

    Attributes
    ----------
    path : Path
        Of the folder, the archive or the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._folder = path if path.is_dir() else path.parent

    def __enter__(self) -> Self:
        if self.path.is_file():
            with self.path.open("rb") as file:
                zipped = is_zip(file.read(4))
            if zipped:
                try:
                    self._archive = zipfile.ZipFile(self.path)
                except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeError) as error:
                    raise ScanError(f"the zip archive is damaged ({error}). Copy it again.") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._archive is not None:
            self._archive.close()

    @property
    def archived(self) -> bool:
        """Whether they are in an archive."""
        return self._archive is not None

    def names(self) -> Iterator[str]:
        """Every file's name inside, in order; hidden ones, links to folders and a disc's table of contents are passed over."""
        for count, name in enumerate(self._names()):
            if name.upper().endswith(CONTENTS):
                continue
            if count == MOST_FILES:
                raise ScanError(f"more than {MOST_FILES:,} files; name the folder of the study")
            yield name

    def _names(self) -> Iterator[str]:
        if self._archive is not None:
            yield from sorted(info.filename for info in self._archive.infolist() if not info.is_dir())
        elif self.path.is_dir():
            for folder, folders, files in os.walk(self.path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                here = Path(folder).relative_to(self.path)
                yield from (str(here / name) for name in sorted(files) if not name.startswith("."))
        else:
            yield self.path.name

    def paths(self, names: Iterable[str]) -> tuple[Path, ...]:
        """Where files lie, each once; of an archive its own path."""
        return (self.path,) if self._archive is not None else tuple(self._folder / name for name in dict.fromkeys(names))

    def start(self, name: str, count: int) -> bytes:
        """The first bytes of a file; none of one that is no regular file.

        Raises
        ------
        ScanError
            If it cannot be read.
        """
        if self._archive is not None:
            unpack = self._archive.open  # its bytes, of which the first are unpacked
            with self._inside(name), unpack(name) as inside:
                return inside.read(count)
        path = self._folder / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                return b""
            with path.open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise ScanError(f"{name}: cannot be read: {error.strerror or error}") from None

    def file(self, name: str) -> BinaryIO:
        """A file to read from; of an archive it is in memory.

        Raises
        ------
        ScanError
            If the archive is encrypted or damaged.
        ResourceError
            If a file in it is larger than the memory.
        """
        if self._archive is None:
            return (self._folder / name).open("rb")
        info = self._archive.getinfo(name)
        limits.demand(info.file_size, f"{name} in the archive")
        with self._inside(name):
            content = self._archive.read(info)  # with its checksum
            if len(content) != info.file_size:
                raise zipfile.BadZipFile(f"{info.file_size:,} bytes are promised, {len(content):,} are there")
        return io.BytesIO(content)

    @contextmanager
    def _inside(self, name: str) -> Iterator[None]:
        """Whatever zipfile says of a file that is damaged or locked."""
        assert self._archive is not None
        if self._archive.getinfo(name).flag_bits & _ENCRYPTED:
            raise ScanError("the zip archive is encrypted. Unpack it first.")
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as error:
            raise ScanError(f"{name}: damaged in the zip archive ({printable(str(error))}). Copy it again.") from None

    def version(self, name: str) -> tuple[int, int]:
        """Another one, once the file, or the archive that it is in, has changed."""
        status = (self.path if self._archive is not None else self._folder / name).stat()
        return status.st_size, status.st_mtime_ns
