"""What differs between Linux, macOS and Windows: locks, links, cores, owners, groups of processes. Standard library only.

Nothing is assumed to exist: each function says what it does on a system without it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What a file system without links says; ENOTSUP and EOPNOTSUPP are one number on Linux, two on macOS.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what a lock that another process holds says


def locks_open_files() -> bool:
    """Whether a lock is needed to tell an open file: on Windows one can neither be removed nor renamed."""
    return fcntl is not None


def lock(handle: int) -> None:
    """Hold an open file until it is closed, also by the process's end; waits for whoever holds it.

    Raises
    ------
    OSError
        If its file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX)


def try_lock(file: IO[Any]) -> bool:
    """Hold an open file until it is closed; False if another process does.

    Raises
    ------
    OSError
        If its file system has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


def link(path: Path, name: Path) -> bool:
    """Give a file another name, unlike a rename never replacing what has it; False on a file system without links.

    Raises
    ------
    FileExistsError
        If something has that name.
    """
    try:
        os.link(path, name)
    except AttributeError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def cores() -> int:
    """The cores that this process may run on; all of the machine where the system cannot say (macOS, Windows)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def memory(size: int) -> mmap.mmap:
    """New memory, in large pages where the system has them: of 80 MB small ones take 0.02 s.

    Raises
    ------
    OSError, ValueError
        If there is not so much, or ``size`` is 0.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows
        return mmap.mmap(-1, size)
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):
        made.madvise(mmap.MADV_HUGEPAGE)
    return made


def is_private(folder: Path) -> bool:
    """Whether nobody but this user and root, who installs programs, may write to a folder; on Windows that is so in a user's own."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022


def make_private(handle: int) -> None:
    """Let nobody else write to an open file, whatever the umask."""
    if hasattr(os, "fchmod"):
        os.fchmod(handle, 0o600)


def user_cache() -> str | None:
    """The folder for caches of this user; None where there is no home."""
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Caches")
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")


def host() -> str:
    """This machine's name; the module socket would count as a way into the network."""
    return platform.node() or "unknown"


def lines(path: Path) -> list[str]:
    """The lines of one of the system's files, such as those in /proc; none where it is not there."""
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()  # a group's name may be any bytes
    except OSError:
        return []


def cpu() -> str:
    """The processor's name; its architecture where the system does not tell more without starting a program."""
    names = (line.partition(":")[2].strip() for line in lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(names, platform.machine())


def name() -> str:
    """The operating system, its release, the machine's architecture; platform.platform() would start a program."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def peak_memory() -> float | None:
    """The most that this process had in memory, MB; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)  # bytes there, KiB elsewhere


def apart(file: IO[Any]) -> dict[str, Any]:
    """Arguments for `subprocess.Popen`: a group of its own, which Ctrl-C here does not reach, and which inherits a lock."""
    if os.name == "posix":
        return {"start_new_session": True, "pass_fds": (file.fileno(),)}
    return {"creationflags": 0x200}  # CREATE_NEW_PROCESS_GROUP; a lock goes to nobody there


def kill_group(process: int) -> None:
    """Kill a process, by its number, that was started with `apart`, and where the system can (not Windows) all that it started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGTERM)


def trim() -> None:
    """Give back what the process has freed: glibc keeps 31 MB of what packing the 202 MB of nnU-Net's default network takes meanwhile."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def allow_tiles() -> bool:
    """Ask to use the tiles of AMX in this process, which Linux grants for good; False where it does not, or there are none."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0
