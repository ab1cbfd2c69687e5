"""Runs over many scans: bookkeeping without the network, small volumes, workers side by side, and what is left when something is killed.

A scan's network is replaced by nothing where bookkeeping is measured, so that 100,000 scans take minutes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import WorkerPlugin

from monet_edge import formats, phantom, weights
from monet_edge.job import Job
from monet_edge.options import Options
from monet_edge.pipeline import Outcome
from monet_edge.runs import cluster, make_plan
from monet_edge.runs.run import run_all
from monet_edge.runs.task import Ended, Task

from . import disk, faults
from .machine import ROOT, environment
from .measure import summarise
from .startup import COMMAND

MODEL = "hippocampus"
CORES = 2
SIZES = {"restart": 100_000, "empty": 5_000, "smalls": 200, "pair": 40, "kills": 300, "poison": 100, "driver": 60, "share": 140}
QUICK = {"restart": 300, "empty": 100, "smalls": 4, "pair": 2, "kills": 30, "poison": 10, "driver": 12, "share": 14}


def measure(threads: int, part: str, quick: bool = False, rounds: int = 3) -> dict[str, Any]:
    """One part, in a folder of its own.

    Parameters
    ----------
    threads : int
        Where they are not the part's own.
    part : str
        One of those of `SIZES`.
    quick : bool
        Small sizes.
    rounds : int
        Of turns, where two take turns.
    """
    count = (QUICK if quick else SIZES)[part]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Callable[[], dict[str, Any]]] = {
            "restart": partial(restart, folder, count),
            "empty": partial(empty, count),
            "smalls": partial(smalls, folder, count, threads, rounds),
            "pair": partial(pair, folder, count, rounds),
            "kills": partial(faults.kill_workers, folder, count, max(1, count // 30), MODEL),
            "poison": partial(faults.poison, folder, count, MODEL),
            "driver": partial(faults.kill_driver, folder, count, MODEL),
            "share": partial(faults.share, folder, count, 7, MODEL),
        }
        row = found[part]()
    row.pop("said", None)  # by the command, for whoever looks into a failure
    if isinstance(row.get("done"), Counter):
        row["twice"] = row.get("twice", 0) + sum(times > 1 for times in row["done"].values())
        row["done"] = len(row["done"])
        row["failures"] = sorted(row["failures"])
    return {"part": part, "scans": count, **row}


def restart(folder: Path, count: int) -> dict[str, Any]:
    """The command over so many scans whose results are all there: seconds from launch to end, peak bytes."""
    voxels = phantom.make(shape=(4, 8, 8))[0]
    phantom.save(voxels, folder / "scan.nii.gz")
    scan = formats.read(folder / "scan.nii.gz")
    key = Options().key(weights.load(MODEL).sha256)
    formats.write(folder / "mask.nii.gz", np.zeros(scan.shape, np.uint8), like=scan, labels=("a", "b"), key=key)
    for place, source, name in (("scans", "scan.nii.gz", "scan.nii.gz"), ("masks", "mask.nii.gz", "scan_seg.nii.gz")):
        data = (folder / source).read_bytes()
        for i in range(count):
            case = folder / place / f"site{i // 1000:03d}" / f"sub-{i:06d}"
            case.mkdir(parents=True)
            (case / name).write_bytes(data)
    command = [sys.executable, "-c", COMMAND, str(Path(__file__).parent), "segment", str(folder / "scans"), "-o", str(folder / "masks"),
               "-m", MODEL, "--skip-existing"]  # fmt: skip
    start = time.monotonic()
    done = subprocess.run(command, env=environment("native", CORES), cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert f"{count:,} of {count:,} scans are done already" in done.stdout, done.stdout
    return {"seconds": seconds, "peak": int(done.stdout.splitlines()[-1])}


class _Empty(WorkerPlugin):
    """In a worker: nothing is done of a task."""

    def setup(self, worker: Any) -> None:
        def nothing(task: Task, *_: Any) -> Ended:
            return Ended(task, Outcome(task.job, (), (), {"read": 0.0}), 1, "here")

        cluster.prepare = cluster.do = nothing  # type: ignore[assignment]


def empty(count: int) -> dict[str, Any]:
    """Two workers and tasks of which nothing is done: seconds a task, the driver's growth in bytes."""
    with cluster.connected(f"local:{CORES}", weights.load(MODEL), CORES) as way:
        way.client.register_plugin(_Empty())
        tasks = [Task(i, Job(Path(f"/scans/sub-{i:06d}/scan.nii.gz"), Path(f"/masks/sub-{i:06d}/scan_seg.nii.gz")), Options())
                 for i in range(count)]  # fmt: skip
        for _ in way.run(tasks[:50]):
            pass
        start = time.monotonic()
        ended = sum(1 for _ in way.run(iter(tasks)))
        return {"seconds": (time.monotonic() - start) / count, "ended": ended}


def smalls(folder: Path, count: int, threads: int, rounds: int) -> dict[str, Any]:
    """Many volumes of 79x67x64 in one call, some ways, beside the time of their slices on as many threads."""
    (folder / "many").mkdir()
    for i in range(count):
        phantom.save(phantom.make(i % 48, disk.SMALL)[0], folder / "many" / f"scan{i:03d}.nii.gz")
    ways: dict[str, Callable[[], float]] = {f"jobs {jobs}": partial(_seconds, folder / "many", threads, jobs) for jobs in (1, threads)}
    ways["slices"] = partial(disk._slices, folder / "many", MODEL, threads)
    return disk._in_turn(ways, rounds)


def _seconds(folder: Path, threads: int, jobs: int) -> float:
    return disk._command(folder, MODEL, threads, "--jobs", str(jobs))["seconds"]


def pair(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """The same scans on one worker and on two, each of one thread, in turn; both clusters stand ready all the time."""
    for i in range(count):
        path = folder / "scans" / f"scan{i:03d}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        phantom.save(phantom.make(i % 8, (24, 128, 128))[0], path)
    found = weights.load("brain-flair")
    times: dict[str, list[float]] = {"one": [], "two": []}
    plan = make_plan([folder / "scans"], folder / "masks", Options(overwrite=True))
    with cluster.connected("local:1", found, 1) as one, cluster.connected(f"local:{CORES}", found, CORES) as two:
        for _ in range(rounds + 1):  # the first loads the model
            for title, way in (("one", one), ("two", two)):
                start = time.monotonic()
                for _, became in run_all(plan, way):
                    assert isinstance(became, Outcome), became
                times[title].append(time.monotonic() - start)
    pairs = [one / two for one, two in zip(times["one"][1:], times["two"][1:], strict=True)]
    return {title: summarise(taken[1:]) for title, taken in times.items()} | {"gain": statistics.median(pairs)}
