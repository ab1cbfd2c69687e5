"""Interleaved timing, and a process for every setting.

A machine drifts by 10 % within a quarter of an hour, so contestants are run in turn (A B C A B C ...) in one process and only
figures of one process are compared. Threads and instruction sets are set in the environment, so each setting has a process.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import machine


def interleave(contestants: Mapping[str, Callable[[], object]], seconds: float, least: int = 3, most: int = 60) -> dict[str, list[float]]:
    """Run every contestant in turn until the time is used up.

    Parameters
    ----------
    contestants : mapping of str to callable
        Each is run twice untimed first.
    seconds : float
        Time to spend, beyond the ``least`` rounds that are always run.
    least, most : int
        Rounds.

    Returns
    -------
    dict of str to list of float
        Seconds of every round, by contestant.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
        run()
    end = time.perf_counter() + seconds
    for done in range(most):
        if done >= least and time.perf_counter() > end:
            break
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def summarise(times: list[float]) -> dict[str, float]:
    """Minimum and median in seconds, and the number of rounds."""
    return {"min": min(times), "median": statistics.median(times), "rounds": len(times)}


def in_process(module: str, isa: str, threads: int, **arguments: Any) -> Any:
    """``benchmarks.<module>.measure(threads=..., **arguments)`` in a process of its own.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails; its messages go to the terminal.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.measure", module, json.dumps(arguments | {"threads": threads}), str(answer)]
        subprocess.run(command, env=machine.environment(isa, threads), cwd=machine.ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(answer.read_text())


if __name__ == "__main__":
    _, name, given, target = sys.argv
    found = importlib.import_module(f"benchmarks.{name}").measure(**json.loads(given))
    Path(target).write_text(json.dumps(found))
