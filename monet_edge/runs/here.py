"""Do tasks in this process: while the network runs over one scan, the next is read and the one before it written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf

from .. import limits
from ..errors import ResourceError
from ..model import Model
from ..weights import Weights
from .task import Ended, Task, do, failed, prepare

Watch = Callable[[Task, int, int], None]  # called with a task, the number of its slices done, and of all


class Here:
    """This process's threads.

    Parameters
    ----------
    model : Model
        Of so many threads as one scan gets.
    at_a_time : int
        Scans that the network runs over at a time; one more is read or written meanwhile, where the memory suffices.
    """

    def __init__(self, model: Model, at_a_time: int = 1) -> None:
        self.model, self.at_a_time = model, at_a_time
        self.weights: Weights = model.weights
        self.threads = model.threads * at_a_time

    def one(self, task: Task, watch: Watch | None = None) -> Ended:
        """Do one task in this thread.

        Raises
        ------
        Exception
            What it fails of.
        """
        return do(task, self.model, prepare(task), _watched(task, watch))

    def run(self, tasks: Iterable[Task], watch: Watch | None = None) -> Iterator[Ended]:
        """Do tasks: they are read in their order, one at a time, and come back in the order in which they end."""
        todo, stop = iter(tasks), threading.Event()
        reading, computing, room = threading.Lock(), threading.Semaphore(self.at_a_time), _Room()
        # bounded: whoever does not take what has ended, such as a terminal that is held, stops the work
        done: queue.Queue[Ended | None] = queue.Queue(self.at_a_time)

        @contextmanager
        def turn(read: ExitStack) -> Iterator[None]:
            with computing:
                read.close()  # the next may be
                yield

        def attempt(task: Task, read: ExitStack) -> Ended:
            progress = _watched(task, watch, stop)
            try:
                header = prepare(task)
                with room.of(self.model.peak(header, task.options)) as alone:
                    try:
                        return do(task, self.model, header, progress, turn(read))
                    except ResourceError:
                        if alone:
                            raise
                with room.of(inf):  # what was too much beside another
                    return do(task, self.model, header, progress, turn(read))
            except Exception as error:
                return failed(task, error)

        def work() -> None:
            with suppress(_Stopped):
                while not stop.is_set():
                    with ExitStack() as read:
                        read.enter_context(reading)
                        task = next(todo, None)
                        if task is None:
                            break
                        ended = attempt(task, read)
                    done.put(ended)
            done.put(None)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(self.at_a_time + 1)]
        for thread in threads:
            thread.start()
        try:
            busy = len(threads)
            while busy:
                ended = done.get()
                if ended is None:
                    busy -= 1
                else:
                    yield ended
        finally:
            stop.set()
            _leave(threads, done)


class _Stopped(BaseException):
    """Raised in a thread whose work nobody waits for any more."""


def _watched(task: Task, watch: Watch | None, stop: threading.Event | None = None) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if stop is not None and stop.is_set():
            raise _Stopped
        if watch is not None:
            watch(task, done, total)

    return progress


def _leave(threads: list[threading.Thread], done: queue.Queue[Ended | None]) -> None:
    """Let threads end at the next slice or once they have written, 0.7 seconds at most: what they leave is as after a kill."""
    for _ in range(70):
        while not done.empty():
            done.get()
        if not any(thread.is_alive() for thread in threads):
            break
        threads[0].join(0.01)


class _Room:
    """The memory that there was when a run began, shared out by what scans take at their worst moments."""

    def __init__(self) -> None:
        self._all = limits.available()
        self._taken: list[float] = []
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: float) -> Iterator[bool]:
        """Wait until a scan of this size fits beside the others, or is alone; yields whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._all is None or sum(self._taken) + size <= self._all)
            alone = not self._taken
            self._taken.append(size)
        try:
            yield alone
        finally:
            with self._changed:
                self._taken.remove(size)
                self._changed.notify_all()
