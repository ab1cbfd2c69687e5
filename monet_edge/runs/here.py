"""Do tasks in this process: while the network runs over one scan, the next is read and the one before it written.

A thread that finds no slice of a scan left goes on with the next one's, while others still have some: at no scan's end one waits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import inf

from .. import limits
from ..errors import ResourceError
from ..formats import Header
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
        """Do one task in this thread."""
        try:
            return do(task, self.model, prepare(task, self.model.weights.provenance.stated("modality")), watch and partial(watch, task))
        except Exception as error:
            return failed(task, error)

    def run(self, tasks: Iterable[Task], watch: Watch | None = None) -> Iterator[Ended]:
        """Do tasks: they are read in their order, one at a time, and come back in it too or, of several at a time, as they end."""
        line = _Line(self.model, self.at_a_time, enumerate(tasks), watch)
        threads = [threading.Thread(target=line.work, daemon=True) for _ in range(self.at_a_time + 1)]
        for thread in threads:
            thread.start()
        try:
            busy, told, early = len(threads), 0, dict[int, Ended]()
            while busy:
                found = line.take()
                if found is None:
                    busy -= 1
                elif self.at_a_time > 1:
                    yield found[1]
                else:  # a small scan, or one that cannot be read, may end before the one ahead of it
                    early[found[0]] = found[1]
                    while told in early:
                        yield early.pop(told)
                        told += 1
        finally:
            line.stop.set()
            _leave(threads, line)


class _Stopped(BaseException):
    """Raised in a thread whose work nobody waits for any more."""


class _Line:
    """What the threads of one run share: the tasks, and who may read, compute, and take how much memory.

    Attributes
    ----------
    done : SimpleQueue of (int, Ended) or None
        The number of a task, from 0, and what became of it; None is the last of a thread. One that Ctrl-C may interrupt: a Queue then
        releases a lock that another thread has taken.
    stop : Event
        Nobody waits any more.
    writing : set of int
        The threads whose network has run: they write results.
    """

    def __init__(self, model: Model, at_a_time: int, tasks: Iterator[tuple[int, Task]], watch: Watch | None) -> None:
        self.done: queue.SimpleQueue[tuple[int, Ended] | None] = queue.SimpleQueue()
        self.stop, self._places = threading.Event(), threading.Semaphore(at_a_time)
        self._model, self._tasks, self._watch = model, tasks, watch
        self._next = next(tasks, None)  # taken one ahead: a scan knows whether it is the last
        self._reading, self._computing, self._room = threading.Lock(), threading.Semaphore(at_a_time), _Room()
        self.writing: set[int] = set()

    def work(self) -> None:
        """Do tasks until there are no more."""
        with suppress(_Stopped):
            while not self.stop.is_set():
                with ExitStack() as read:
                    read.enter_context(self._reading)
                    now, self._next = self._next, next(self._tasks, None)
                    if now is None:
                        break
                    number, task = now
                    ended = self._attempt(task, read)
                self._give((number, ended))
        self._give(None)

    def take(self) -> tuple[int, Ended] | None:
        """Wait for what is `done`."""
        found = self.done.get()
        self._places.release()
        return found

    def _give(self, what: tuple[int, Ended] | None) -> None:
        """Wait until there is a place for it: whoever does not take what has ended, such as a terminal that is held, stops the work."""
        self._places.acquire()
        self.done.put(what)

    def _attempt(self, task: Task, read: ExitStack) -> Ended:
        try:
            header = prepare(task, self._model.weights.provenance.stated("modality"))
            with self._room.of(self._model.peak(header, task.options)) as alone:
                try:
                    return self._do(task, header, read)
                except ResourceError:
                    if alone:
                        raise
            with self._room.of(inf):  # what was too much beside another
                return self._do(task, header, read)
        except Exception as error:
            return failed(task, error)

    def _do(self, task: Task, header: Header, read: ExitStack) -> Ended:
        def progress(done: int, total: int) -> None:
            if self.stop.is_set():
                raise _Stopped
            if self._watch is not None:
                self._watch(task, done, total)

        try:
            return do(task, self._model, header, progress, self._turn(read))
        finally:
            self.writing.discard(threading.get_ident())

    @contextmanager
    def _turn(self, read: ExitStack) -> Iterator[Callable[[], None] | None]:
        """Wait to compute; then the next scan may be read, and it computes as soon as a thread has none of these slices left."""
        with ExitStack() as computing:
            computing.enter_context(self._computing)
            last = self._next is None
            read.close()
            yield None if last else computing.close
        self.writing.add(threading.get_ident())
        if self.stop.is_set():  # looked at last: whoever leaves sees that it is writing, or it does not begin
            raise _Stopped


def _leave(threads: list[threading.Thread], line: _Line) -> None:
    """Let threads end at the next slice, 0.7 seconds at most, and once they have written; a second Ctrl-C leaves all as a kill does."""
    ends = time.monotonic() + 0.7
    while (alive := [thread for thread in threads if thread.is_alive()]) and (line.writing or time.monotonic() < ends):
        while not line.done.empty():
            line.take()
        alive[0].join(0.01)


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
