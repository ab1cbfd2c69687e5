"""What this process may use, cores and memory: the machine's, the control groups' it is in (Linux, version 1 and 2), `ulimit`'s.

Containers and batch systems limit by control groups: `docker run --cpus=2` leaves all cores visible and stops whoever uses more.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path

import numpy as np

from . import system
from .errors import ResourceError
from .system import lines

_SLACK = 32 << 20  # compressors, code loaded late, the allocator's own
_GROUP_FILES = {  # of a control group, by its version: limit, usage, and what of the usage is cache (a network's mapped weights are active)
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores this process may use: those it may run on, and no more than its share of their time.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are; tests put their own there.
    """
    return min([system.cores(), *(max(1, ceil(share)) for share in _shares(root))])


def available(root: Path = Path("/")) -> int | None:
    """Bytes that can still be had, swap included; None where the system does not say (macOS, Windows).

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are; tests put their own there.
    """
    rooms = [_machine(root), _address_space(root), *_control_groups(root)]
    known = [room for room in rooms if room is not None]
    return max(min(known), 0) if known else None


def demand(size: int, what: str) -> None:
    """Refuse work that needs more than `available`.

    Raises
    ------
    ResourceError
        Naming what is needed and what there is.
    """
    room = available()
    if room is not None and size > room:
        raise ResourceError(f"{what} needs {size / 1e6:,.0f} MB of memory, {room / 1e6:,.0f} MB are available.")


def peak(
    shape: tuple[int, ...], dtype: np.dtype, *, classes: int, workspace: int, threads: int, probabilities: bool, cleaning: bool
) -> int:
    """Bytes that segmenting a volume takes at its worst moment, what the process holds already not counted.

    Parameters
    ----------
    shape : (Z, H, W)
        As the model cuts it.
    dtype : numpy dtype
        As stored.
    classes : int
        Channels of the network's output.
    workspace : int
        Bytes that the network and the slices that it sees take, all threads together.
    threads : int
    probabilities : bool
        They are kept.
    cleaning : bool
        Stray pieces are removed.
    """
    voxels = prod(shape)
    volume = voxels * dtype.itemsize
    kept = voxels * (1 + 4 * classes * probabilities + 14 * cleaning)  # the mask; pieces are numbered in 4 bytes, counted in 8
    # counts behind every 16 bits of intensities that have more, by thread and in all; those of 16 bits take half a megabyte
    _, height, width = shape
    measuring = ((8 * threads + 30) << 20) if dtype.itemsize > 2 else 0
    labelled = 32 * height * width  # of a plane whose labels are counted and measured: 26 of them, and what the allocator keeps
    return volume + max(measuring, kept + workspace + labelled) + _SLACK


def _shares(root: Path) -> Iterator[float]:
    """What every limit on the way up leaves, in cores."""
    for version, folder in _groups("cpu", root):
        if version == 2:
            found = "".join(lines(folder / "cpu.max")).split()
        else:
            found = [line for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for line in lines(folder / name)]
        if len(found) == 2 and all(number.isdecimal() for number in found) and int(found[1]):  # "max" or -1 where there is no limit
            yield int(found[0]) / int(found[1])


def _machine(root: Path) -> int | None:
    table = _table(root / "proc/meminfo")
    if "MemAvailable:" not in table:
        return None
    return 1024 * (table["MemAvailable:"] + table.get("SwapFree:", 0))


def _address_space(root: Path) -> int | None:
    """What `ulimit -v` leaves."""
    for line in lines(root / "proc/self/limits"):
        if line.startswith("Max address space"):
            limit = line.split()[3]
            used = _table(root / "proc/self/status").get("VmSize:", 0)
            return None if limit == "unlimited" else int(limit) - 1024 * used
    return None


def _control_groups(root: Path) -> list[int]:
    """What every limit on the way up from this process's group leaves; page cache that can be dropped does not count as used."""
    rooms = []
    for version, folder in _groups("memory", root):
        limit, usage, cache = _GROUP_FILES[version]
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None:
            told = _table(folder / "memory.stat")
            rooms.append(most - used + sum(told.get(name, 0) for name in cache))
    return rooms


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
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


def _number(path: Path) -> int | None:
    text = "".join(lines(path)).strip()
    return int(text) if text.isdecimal() else None  # "max" where there is no limit


def _table(path: Path) -> dict[str, int]:
    """Lines such as ``SwapFree:  0 kB`` as a dict of their numbers."""
    rows = (line.split() for line in lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdecimal()}
