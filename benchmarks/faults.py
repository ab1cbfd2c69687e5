"""Runs over many scans while workers and drivers are killed: what must be left, however it goes. Small in the tests, big in `archive`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, WorkerPlugin

from monet_edge import formats, phantom
from monet_edge.runs import find_scans

from .machine import ROOT

SHAPE = (12, 48, 48)  # Z, H, W
PACE = 0.1  # seconds that a scan takes at least where something is killed meanwhile


def make_scans(folder: Path, count: int) -> Path:
    """``count`` scans in two folders, one within the other; the same few heads again and again."""
    heads = [phantom.make(i, SHAPE)[0] for i in range(min(count, 4))]
    for i in range(count):
        place = folder / "site" / "deep" if i % 2 else folder / "site"
        place.mkdir(parents=True, exist_ok=True)
        phantom.save(heads[i % 4], place / f"scan{i:04d}.nii.gz")
    return folder


def command(scans: Path, output: Path, model: str, *more: object) -> list[str]:
    """``monet-edge segment`` as a process's arguments; with a pace and a poisoned scan as `main` below has them."""
    return [sys.executable, "-m", "benchmarks.faults", *map(str, ("segment", scans, "-o", output, "-m", model, *more))]


def results(output: Path) -> dict[str, int]:
    """Every result below a folder, read to its end, with the number of its file."""
    found = {}
    for path in sorted(output.rglob("*.nii.gz")):
        formats.read(path)
        found[str(path.relative_to(output))] = path.stat().st_ino
    return found


def leftovers(output: Path) -> int:
    """Temporary files that nobody has removed."""
    return len(list(output.rglob(".*.part")))


def records(*files: Path) -> tuple[Counter[str], dict[str, str]]:
    """How often each scan was done, and what each failed of."""
    done: Counter[str] = Counter()
    failures: dict[str, str] = {}
    for file in files:
        for line in map(json.loads, file.read_text().splitlines()):
            if "error" in line:
                failures[line["scan"]] = line["text"]
            elif "scan" in line:
                done[line["scan"]] += 1
    return done, failures


def start(arguments: Sequence[str], **settings: object) -> subprocess.Popen[str]:
    """A run, in the background, its settings as `main` reads them."""
    environment = os.environ | {f"FAULTS_{name.upper()}": str(value) for name, value in settings.items()}
    environment["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "5s"  # before a scheduler counts as lost: 30 s
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def held(scans: Path, gate: Path) -> dict[str, object]:
    """Settings of a run that cannot end before a file is there, however late whoever kills it comes: its last scan waits for it."""
    return {"last": find_scans([scans])[-1].scan.name, "gate": gate}


def workers(driver: int) -> list[psutil.Process]:
    """The worker processes of a run on this machine."""
    try:
        return [child for child in psutil.Process(driver).children() if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def kill_workers(folder: Path, count: int, kills: int, model: str) -> dict[str, Any]:
    """A run on two workers, one of which is killed again and again at random moments, the same in every run."""
    rng = random.Random(0)
    scans, output, file = make_scans(folder / "scans", count), folder / "masks", folder / "run.jsonl"
    gate = folder / "gate"
    run = start(command(scans, output, model, "--cluster", "local:2", "--threads", 2, "--records", file), pace=PACE, **held(scans, gate))
    killed = 0
    while killed < kills and run.poll() is None:
        time.sleep(rng.uniform(0.2, 2))
        there = workers(run.pid) if file.exists() and file.stat().st_size else []
        if there:
            rng.choice(there).kill()
            killed += 1
            gate.touch()
    said, _ = run.communicate()
    done, failures = records(file)
    return {"status": run.returncode, "killed": killed, "results": len(results(output)), "leftovers": leftovers(output),
            "done": done, "failures": failures, "said": said}  # fmt: skip


def poison(folder: Path, count: int, model: str) -> dict[str, Any]:
    """A run on two workers with one scan that kills whoever works at it."""
    scans, output, file = make_scans(folder / "scans", count), folder / "masks", folder / "run.jsonl"
    arguments = command(scans, output, model, "--cluster", "local:2", "--threads", 2, "--records", file)
    run = start(arguments, poison=f"scan{count // 2:04d}.nii.gz")
    said, _ = run.communicate()
    done, failures = records(file)
    return {"status": run.returncode, "results": len(results(output)), "leftovers": leftovers(output), "done": done, "failures": failures,
            "said": said}  # fmt: skip


def kill_driver(folder: Path, count: int, model: str, *more: object) -> dict[str, Any]:
    """A run that is killed at a random moment (always the same one), and again with what exists passed over."""
    rng = random.Random(0)
    scans, output = make_scans(folder / "scans", count), folder / "masks"
    gate = folder / "gate"  # which nobody opens
    run = start(command(scans, output, model, *more, "--records", folder / "first.jsonl"), pace=PACE, **held(scans, gate))
    wanted = rng.randint(1, count - 1)
    while run.poll() is None and len(list(output.rglob("*.nii.gz"))) < wanted:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, PACE))
    family = workers(run.pid)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    psutil.wait_procs(family, timeout=120)
    before = results(output)
    again = start(command(scans, output, model, *more, "--skip-existing", "--records", folder / "second.jsonl"))
    said, _ = again.communicate()
    after = results(output)
    done, failures = records(folder / "second.jsonl")
    return {
        "status": again.returncode,
        "before": len(before),
        "results": len(after),
        "twice": sum(after[name] != number for name, number in before.items()),
        "done": done,
        "failures": failures,
        "leftovers": leftovers(output),
        "orphans": sum(process.is_running() for process in family),
        "said": said,
    }


def share(folder: Path, count: int, parts: int, model: str) -> dict[str, Any]:
    """Parts of a run, all at once, over one folder."""
    scans, output = make_scans(folder / "scans", count), folder / "masks"
    each = ["--threads", 1, "--records", folder / "records"]
    runs = [start(command(scans, output, model, *each, "--part", f"{i + 1}/{parts}")) for i in range(parts)]
    said = [run.communicate()[0] for run in runs]
    files = sorted((folder / "records").glob("*.jsonl"))
    done, failures = records(*files)
    statuses = [run.returncode for run in runs]
    return {"statuses": statuses, "files": len(files), "results": len(results(output)), "done": done, "failures": failures, "said": said}


def _linger(task: Any) -> None:
    """A scan takes its time; the last one until the gate is there, see `held`."""
    time.sleep(float(os.environ.get("FAULTS_PACE", 0)))
    while task.job.scan.name == os.environ.get("FAULTS_LAST") and not os.path.exists(os.environ["FAULTS_GATE"]):
        time.sleep(0.01)


class _Faults(WorkerPlugin):
    """In a worker: every scan takes its time, and one kills whoever works at it, while the mask is being written."""

    def setup(self, worker: Any) -> None:
        from monet_edge import files
        from monet_edge.runs import cluster

        poisoned, do = os.environ.get("FAULTS_POISON"), cluster.do

        def slow(task: Any, *rest: Any) -> Any:
            _linger(task)
            if task.job.scan.name == poisoned:
                with files.atomic_write(task.job.results[0], overwrite=True):
                    os.kill(os.getpid(), signal.SIGKILL)
            return do(task, *rest)

        cluster.do = slow  # type: ignore[assignment]


def main() -> None:
    """The command line, its workers with `_Faults`."""
    from monet_edge.cli import app
    from monet_edge.runs import here

    connect, do = Client.__init__, here.do

    def connected(self: Client, *arguments: Any, **options: Any) -> None:
        connect(self, *arguments, **options)
        self.register_plugin(_Faults())

    def slow(task: Any, *rest: Any) -> Any:
        _linger(task)
        return do(task, *rest)

    Client.__init__ = connected  # type: ignore[method-assign]
    here.do = slow  # type: ignore[assignment]
    app()


if __name__ == "__main__":
    main()
