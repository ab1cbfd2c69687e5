"""What is uploaded: files in a private folder, bounded in size and number, gone when their page is closed and when the server ends."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .. import formats, system
from ..errors import MonetError, ResourceError, ScanError
from ..runs.find import scans_in
from ..text import printable
from .findings import Found

PREFIX = "monet-edge-app-"
LIMIT = 4 << 30  # bytes of all files that are held: 512x512x4000 voxels of 16 bits, twice
FILES = 20_000  # of one case; a long dynamic series has some thousands
MOST = 8  # cases, that is open pages, at a time
SPARE = 256 << 20  # bytes of the disk that are left to others


class TooLarge(MonetError):
    """More bytes than are taken."""


class Case:
    """One scan that was dropped, and what became of it.

    Attributes
    ----------
    name : str
        Random: its address.
    folder : Path
        ``files`` in it holds what was uploaded, ``results`` what was made.
    header : Header or None
        Once the files are all there and were looked at.
    state : {"new", "ready", "waiting", "working", "done", "failed"}
    stage, done, total : str, int, int
        What the work is at.
    error : str
    found : Found or None
    lock : Lock
        Held while ``found`` or its results are made.
    closed : bool
        Its page is gone; work on it stops.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.size, self.count = name, folder, 0, 0
        self.header: formats.Header | None = None
        self.state, self.stage, self.done, self.total, self.error = "new", "", 0, 0, ""
        self.found: Found | None = None
        self.lock, self.closed = threading.Lock(), False
        for part in ("files", "results"):
            (folder / part).mkdir(parents=True)

    def look(self, series: str | None = None) -> formats.Header:
        """The header of the scan that the files are, or of one series of DICOM: its number, see `series`.

        Raises
        ------
        ScanError
            If they are none, or several.
        """
        place = self.folder / "files"
        files = sorted(place.iterdir())
        if not files:
            raise ScanError("no file was received")
        scans = files if len(files) == 1 else scans_in(place, [file.name for file in files])
        if len(scans) > 1:
            names = ", ".join("DICOM" if scan == place else scan.name for scan in scans[:3])
            raise ScanError(f"{len(scans)} scans, expected one: {names}{', ...' if len(scans) > 3 else ''}")
        self.header = formats.peek(scans[0] if scans else place, series)
        self.state = "ready"
        return self.header

    def series(self) -> dict[int, str]:
        """The series of DICOM that could be meant, in words by their numbers; none where the files are no such scan."""
        place = self.folder / "files"
        files = list(place.iterdir())
        try:
            found, _ = formats.list_series(files[0] if len(files) == 1 else place)
        except MonetError:
            return {}
        return {one.number: printable(f"{one} {one.image.description}") for one in found if not one.problem}


class Cases:
    """All cases of a server; used from its event loop alone.

    Parameters
    ----------
    folder : Path
        Private, see `private_folder`.
    limit : int
        Bytes of all files together.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit, self._held = folder, limit, 0
        self._open: dict[str, Case] = {}

    def __getitem__(self, name: str) -> Case:
        """The case of this name; KeyError if there is none (any more)."""
        return self._open[name]

    def make(self) -> Case:
        """A new case; the oldest that is not being worked on goes, where there are too many."""
        while len(self._open) >= MOST:
            idle = [name for name, case in self._open.items() if case.state not in ("waiting", "working")]
            if not idle:
                raise ResourceError(f"{len(self._open)} scans are waiting already: close other pages")
            self.close(idle[0])
        name = secrets.token_hex(8)
        self._open[name] = Case(name, self._folder / name)
        return self._open[name]

    def close(self, name: str) -> None:
        """Forget a case and remove its files; nothing where there is none."""
        case = self._open.pop(name, None)
        if case is not None:
            case.closed, case.found = True, None
            self._held -= case.size
            shutil.rmtree(case.folder, ignore_errors=True)

    def demand_room(self, size: int) -> None:
        """Refuse what would be too much.

        Raises
        ------
        TooLarge
            Saying how much is taken.
        """
        left = min(self._limit - self._held, shutil.disk_usage(self._folder).free - SPARE)
        if size > left:
            raise TooLarge(f"{size / 1e9:,.2f} GB are too much: {max(left, 0) / 1e9:,.2f} GB are taken", "Use the command for such scans.")

    @contextmanager
    def receive(self, case: Case, name: str) -> Iterator[Receiver]:
        """A file of a case to be filled; it vanishes when the block fails.

        Raises
        ------
        ScanError
            If its name is not that of a file in a folder, or is taken.
        """
        path = case.folder / "files" / file_name(name)
        if case.state != "new" or case.count >= FILES:
            raise ScanError("no more files are taken for this scan")
        try:
            file = path.open("xb")
        except OSError as error:
            raise ScanError(f"this file cannot be kept: {error.strerror}") from None
        receiver = Receiver(self, case, file)
        case.count += 1
        try:
            with file:
                yield receiver
        except BaseException:
            path.unlink(missing_ok=True)
            receiver.forget()
            raise

    def grow(self, case: Case, size: int) -> None:
        """Count bytes (negative: of what is gone)."""
        if not case.closed:  # else its bytes are counted as gone already
            case.size += size
            self._held += size


class Receiver:
    """A file that is being received: every part is counted before it is written."""

    def __init__(self, cases: Cases, case: Case, file: BinaryIO) -> None:
        self._cases, self._case, self._file, self._size = cases, case, file, 0

    def write(self, part: bytes) -> None:
        """Write a part, or refuse it with TooLarge."""
        self._cases.demand_room(len(part))
        self._cases.grow(self._case, len(part))
        self._size += len(part)
        self._file.write(part)

    def forget(self) -> None:
        """Its bytes count no more."""
        self._cases.grow(self._case, -self._size)


def file_name(name: str) -> str:
    """A name that somebody else gave, if it is one of a file within a folder, on any system.

    Raises
    ------
    ScanError
        If it is a path, hidden, or not fit to be a name.
    """
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and 0 < len(name.encode()) <= 200
    if not plain or name.startswith(".") or name != name.strip():
        raise ScanError("this is no name of a file")
    return name


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that nobody else can look into; gone at the end. Those that a killed server left behind are removed."""
    _remove_leftovers(Path(tempfile.gettempdir()))
    folder, lock = _locked_folder()
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locked_folder() -> tuple[Path, BinaryIO]:
    """A new folder and its open lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # made with mode 0700
        lock = (folder / ".lock").open("ab")
        with suppress(OSError):  # a file system without locks
            system.lock(lock.fileno())
        if (folder / ".lock").exists():
            return folder, lock
        lock.close()  # another server, which began meanwhile, has removed it as a leftover: it was not locked yet


def _remove_leftovers(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone by now
            if folder.is_symlink() or not system.is_private(folder):
                continue
            with (folder / ".lock").open("r+b") as file:
                ended = system.try_lock(file)
                if ended:  # its lock is held until it is gone: a server that has only just made it waits, and makes another
                    shutil.rmtree(folder, ignore_errors=True)
            if ended:  # Windows keeps what is open
                shutil.rmtree(folder, ignore_errors=True)
