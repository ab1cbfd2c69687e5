"""Do tasks on a cluster of Dask's `distributed` (the extra `cluster`): on a scheduler's workers, or on processes of this machine.

Paths go out and records come back; scans and masks are read and written by the workers, as files that all of them see. Dask gives a
killed worker's tasks to others, and gives a task up once some workers have died that held it, be it that they worked at it or that it
waited behind another. So what was given up is tried again alone: what then still kills its workers has failed.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..about import __version__
from ..errors import KilledError, MonetError
from ..files import remove_leftovers
from ..limits import usable_cores
from ..model import Model
from ..weights import Weights
from .here import Watch
from .task import Ended, Task, do, failed, prepare
from .there import State, state

try:
    import dask
    from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, get_worker
except ModuleNotFoundError as missing:
    raise MonetError(
        "a cluster is worked on with Dask's distributed, which is not installed",
        "pip install 'monet-edge[cluster]', or leave {cluster} out.",
    ) from missing

AHEAD = 4  # tasks in hand for every thread of a worker: with 2 it idles for part of the round trip, 4.6 instead of 3.5 ms an empty task
DEATHS = 3  # workers of this machine that a task may kill before it is given up
LOOK = 2.0  # seconds between looks at how many workers there are
_SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    # Dask would look 100 times a second where every thread is, and 50 times whether every loop still runs: nobody asks
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
}


class Cluster:
    """The workers of a cluster; from `connected`.

    Parameters
    ----------
    client : distributed.Client
    weights : Weights
    threads : int
        Of one scan; every thread of a worker, as Dask counts them, has a scan.
    """

    def __init__(self, client: Client, weights: Weights, threads: int) -> None:
        self.client, self.weights, self._each = client, weights, threads
        self._room, self._looked = 0, 0.0
        self.threads = threads * self._at_a_time()

    def __str__(self) -> str:
        count = len(self.client.nthreads())
        return f"{count} worker{'s' * (count != 1)} · {self.threads} thread{'s' * (self.threads != 1)}"

    def one(self, task: Task, watch: Watch | None = None) -> Ended:
        """Do one task."""
        (ended,) = self.run([task], watch)
        return ended

    def run(self, tasks: Iterable[Task], watch: Watch | None = None) -> Iterator[Ended]:
        """Do tasks as there is room for them; they come back in the order in which they end. Their slices are not watched.

        What killed workers were writing is removed at the end: those that did their tasks again had looked for it before.
        """
        ready = _Ready(self.weights, self._each, self.client.cluster is not None)
        with _told():
            self._send(ready)
        folders: set[Path] = set()
        try:
            suspects = []
            for task, ended in self._gather(tasks, ready.name, lambda: AHEAD * self._at_a_time()):
                folders.update(path.parent for path in task.job.results)
                if ended is None:
                    suspects.append(task)
                else:
                    yield ended
            for task, ended in self._gather(suspects, ready.name, lambda: 1):
                yield ended or failed(task, KilledError(f"{task.job.scan}: every worker that had it died. Too little memory?"))
        finally:
            for folder in folders:
                remove_leftovers(folder)
            with suppress(Exception):  # it may be why the block ended
                self.client.unregister_worker_plugin(ready.name)

    def _send(self, ready: _Ready) -> None:
        """Give all workers what they need. One that dies just then takes the call with it; whoever follows it is told by the scheduler."""
        for _ in range(DEATHS):
            try:
                return self.client.register_plugin(ready)
            except OSError:
                if self.client.status != "running":
                    raise
        return self.client.register_plugin(ready)

    def _gather(self, tasks: Iterable[Task], ready: str, room: Callable[[], int]) -> Iterator[tuple[Task, Ended | None]]:
        """Every task with what became of it, None if it was given up; never more than ``room()`` are given out."""
        todo = iter(tasks)
        given: dict[Any, tuple[Task, Future]] = {}
        news: queue.SimpleQueue[Future] = queue.SimpleQueue()
        while True:
            with _told():
                for task in islice(todo, max(room() - len(given), 0)):
                    clean = not any(os.path.lexists(path) for path in task.job.results)
                    future = self.client.submit(_do, ready, replace(task, header=None), clean, key=f"scan-{uuid4()}")
                    given[future.key] = task, future
                    future.add_done_callback(news.put)
                if not given:
                    return
                _wait(news)
                found = self._results([future for _, future in given.values()])
            for key, ended in found.items():
                yield given.pop(key)[0], ended

    def _results(self, futures: list[Future]) -> dict[Any, Ended | None]:
        """What has come of futures, by key; those that are done are fetched together, None stands for one that was given up."""
        if self.client.status != "running" or any(future.status == "cancelled" for future in futures):
            raise _lost()
        done = {future.key: future for future in futures if future.status in ("finished", "error")}  # not if lost with its worker again
        found: dict[Any, Ended | None] = self.client.gather(done, errors="skip")
        for key in [key for key, ended in found.items() if ended is None]:
            error = done[key].exception()
            if not isinstance(error, KilledWorker):
                raise MonetError(f"a worker cannot do its work: {type(error).__name__}: {error}")
        return found

    def _at_a_time(self) -> int:
        """Threads of all workers, 1 while there is no worker yet; asked for from time to time, as workers come and go."""
        if time.monotonic() > self._looked + LOOK:
            self._room, self._looked = max(sum(self.client.nthreads().values()), 1), time.monotonic()
        return self._room


def _wait(news: queue.SimpleQueue[Future]) -> None:
    """Until something is done, but not for long: there may be room for more meanwhile, or the scheduler be lost."""
    with suppress(queue.Empty):
        news.get(timeout=LOOK)
        while True:
            news.get_nowait()


@contextmanager
def _told() -> Iterator[None]:
    """Whatever says that the scheduler is lost, in one line."""
    try:
        yield
    except (OSError, CancelledError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "IOLoop" not in str(error):
            raise
        raise _lost() from error


def _lost() -> MonetError:
    return MonetError(
        "the scheduler of the cluster is lost; results that were written are whole", "Run again with {skip_existing} for the rest."
    )


class _Ready(WorkerPlugin):
    """What a worker needs for tasks: the model, made once for its own CPU when its first task comes."""

    def __init__(self, weights: Weights, threads: int, ours: bool = False) -> None:
        self.name, self.version = f"monet-edge-{uuid4()}", __version__
        self.weights, self.threads, self.ours = weights, threads, ours

    def setup(self, worker: Any) -> None:
        """Called in every worker, also in those that come later."""
        if self.ours:
            with suppress(ValueError):  # not the process's first thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the driver ends the others
        if self.version != __version__:
            raise MonetError(f"the worker has monet-edge {__version__}; expected {self.version}, as here")
        self._model: Model | None = None
        self._making = threading.Lock()

    def model(self) -> Model:
        """The model, made by the first who asks."""
        with self._making:
            self._model = self._model or Model(self.weights, self.threads)
            return self._model


def _do(ready: str, task: Task, clean: bool) -> Ended:
    """In a worker: do a task of which nothing was there when it was given out, if it is ``clean``; nothing is raised."""
    try:
        plugin: Any = get_worker().plugins[ready]
        model = plugin.model()
        key = task.options.key(model.weights.sha256)
        if clean and state(task.job, key) in (State.DONE, State.DAMAGED):  # by now: of a worker that was killed at it
            task = replace(task, anew=True)
        return do(task, model, prepare(task, model.weights.provenance.stated("modality")))
    except Exception as error:
        words = error if isinstance(error, MonetError | MemoryError) else RuntimeError(f"{type(error).__name__}: {error}")
        return failed(task, words)  # another's error may be of a kind that cannot be sent


@contextmanager
def connected(address: str, weights: Weights, threads: int | None = None) -> Iterator[Cluster]:
    """A cluster to work on, until the block ends.

    Parameters
    ----------
    address : str
        Of a Dask scheduler, such as ``tcp://host:8786`` or ``tls://host:8786`` (with certificates as Dask's configuration has them),
        or ``local:N`` for N processes of this machine, which listen on the loopback interface only.
    weights : Weights
    threads : int, optional
        Of one scan. Default: 1 on a scheduler's workers, else the cores of this machine shared out.

    Raises
    ------
    MonetError
        If nobody answers there, or there are fewer threads than processes.
    """
    local = re.fullmatch(r"local:(\d{1,4})", address)
    if local is None and "://" not in address:
        raise MonetError(f"cluster: expected tcp://HOST:PORT, tls://HOST:PORT or local:N, found {address!r}")
    with ExitStack() as stack, dask.config.set(_SETTINGS):
        _silence()
        if local is None:
            target: str | LocalCluster = address
            each = threads or 1
        else:
            count, threads = int(local[1]), threads or usable_cores()
            if not 1 <= count <= threads:
                raise MonetError(f"cluster: {count} processes cannot share {threads} thread{'s' if threads > 1 else ''}")
            target, each = stack.enter_context(_local(count)), threads // count
        try:
            client = Client(target, set_as_default=False, name="monet-edge")
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise MonetError(f"cluster: no scheduler answers at {address}: {error}") from None
        stack.callback(_close, client)
        yield Cluster(client, weights, each)


def _close(client: Client) -> None:
    """Hang up; where that fails it hides nothing that happened before."""
    with suppress(RuntimeError):  # where a connection was being made as the scheduler was lost, Dask gives it up twice
        client.close()


def _silence() -> None:
    """What matters of Dask's is said in one line; its loggers have a level each."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _local(count: int) -> Iterator[LocalCluster]:
    """Processes of this machine, one scan each; a killed one is started anew."""
    with (
        tempfile.TemporaryDirectory(prefix="monet-edge-", ignore_cleanup_errors=True) as folder,
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=0,  # what a scan takes is looked at before it is read
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster
