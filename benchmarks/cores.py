"""What more cores give: our threads against our one thread, and against processes that share nothing but the machine.

Processes of one thread each share caches, memory and whoever else is on the machine, and nothing else: what they lose against one
alone, threads lose too.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from . import peers
from .measure import interleave, summarise
from .network import VOLUME


def measure(threads: int, rounds: int) -> dict[str, Any]:
    """Time MoNet with random weights, all contestants in turn.

    Parameters
    ----------
    threads : int
    rounds : int

    Returns
    -------
    dict
        ``threads``, and seconds a slice as `measure.summarise` gives them: of a volume on ``one thread``, on several (``volume``)
        and in as many ``processes`` of one thread; of one slice on ``one thread, slice`` and on several (``slice``).
    """
    with tempfile.TemporaryDirectory() as folder, _processes(threads) as everybody:
        case = peers.random_case("monet", Path(folder))
        one, several, image = peers.ours(case, 1), peers.ours(case, threads), case.slices[:1]
        volume = case.volume(VOLUME * threads)

        def processes() -> None:
            for connection in everybody:
                connection.send(VOLUME)
            for connection in everybody:
                connection.recv()

        contestants = {
            "one thread": (len(volume), lambda: one(volume)),
            "volume": (len(volume), lambda: several(volume)),
            "processes": (len(volume), processes),
            "one thread, slice": (1, lambda: one(image)),
            "slice": (1, lambda: several(image)),
        }
        times = interleave({name: run for name, (_, run) in contestants.items()}, 0, rounds, rounds)
    counts = {name: count for name, (count, _) in contestants.items()}
    return {"threads": threads} | {name: summarise([time / counts[name] for time in found]) for name, found in times.items()}


@contextmanager
def _processes(count: int) -> Iterator[list[Connection]]:
    """So many processes, each ready to run its slices when it is sent how many; they sleep in between."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(count)]
    started = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pairs]
    for process in started:
        process.start()
    for ours, theirs in pairs:
        theirs.close()
        ours.recv()
    yield [ours for ours, _ in pairs]
    for ours, _ in pairs:
        ours.close()
    for process in started:
        process.join()


def _serve(connection: Connection) -> None:
    """In a process of its own: run slices until nobody asks any more."""
    with tempfile.TemporaryDirectory() as folder:
        case = peers.random_case("monet", Path(folder))
        run = peers.ours(case, 1)
        connection.send(None)
        try:
            while True:
                run(case.volume(connection.recv()))
                connection.send(None)
        except EOFError:
            return
