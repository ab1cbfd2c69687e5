"""What the system lets this process have: the control groups it is in (Linux, version 1 and 2) and how many cores. Standard library only.

Containers and batch systems limit by control groups: `docker run --cpus=2` leaves all cores visible and stops whoever uses more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores this process may use: those it may run on, and no more than its share of their time.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are; tests put their own there.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows cannot say
        cores = os.cpu_count() or 1
    return min([cores, *(max(1, ceil(share)) for share in _shares(root))])


def _shares(root: Path) -> Iterator[float]:
    """What every limit on the way up leaves, in cores."""
    for version, folder in groups("cpu", root):
        if version == 2:
            found = "".join(lines(folder / "cpu.max")).split()
        else:
            found = [line for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for line in lines(folder / name)]
        if len(found) == 2 and all(number.isdecimal() for number in found) and int(found[1]):  # "max" or -1 where there is no limit
            yield int(found[0]) / int(found[1])


def groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The folder of every control group on the way up from this process's, each with the version that its files are of."""
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, base = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, base = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):  # inside a container only the last, its own root, may exist
            yield version, base / group


def lines(path: Path) -> list[str]:
    """The lines of one of the system's files, none where it is not there."""
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()  # a group's name may be any bytes
    except OSError:
        return []
