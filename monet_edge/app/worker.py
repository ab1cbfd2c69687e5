"""The work: one scan at a time, in the order of asking, in a thread of its own."""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..errors import MonetError
from ..text import printable
from ..weights import Weights
from .cases import Case
from .findings import Found, segment

if TYPE_CHECKING:
    from ..model import Model


HERE = ("volume", "threshold")  # options that the page has, too


class Stopped(Exception):
    """The page is gone, somebody pressed Stop, or the server ends."""


@dataclass(frozen=True)
class Task:
    """A scan to be segmented; `stop` is set by whoever does not want it any more."""

    case: Case
    weights: Weights
    volume: int | None
    stop: threading.Event


class Worker:
    """One thread and its queue; a context manager, at whose end the work has stopped.

    Parameters
    ----------
    threads : int, optional
        Of the engine; default: the cores this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._tasks: list[Task] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._model: Model | None = None  # of the scan before; one at a time is held

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._queue.put(None)
        self._thread.join(5)  # a kernel takes under 0.1 s, compiling one a second or two; a daemon, it holds nobody up

    def ask(self, case: Case, weights: Weights, volume: int | None) -> None:
        """Put a case into the queue."""
        case.state, case.stage, case.done, case.total, case.error = "waiting", "", 0, 0, ""
        task = Task(case, weights, volume, threading.Event())
        self._tasks.append(task)
        self._queue.put(task)

    def stop(self, case: Case) -> None:
        """Stop working on a case, or take it out of the queue."""
        for task in list(self._tasks):
            if task.case is case:
                task.stop.set()

    def ahead(self, case: Case) -> int:
        """How many others come before it."""
        return next((place for place, task in enumerate(list(self._tasks)) if task.case is case), 0)

    def _serve(self) -> None:
        while (task := self._queue.get()) is not None and not self._closing.is_set():
            case = task.case
            try:
                with case.lock:
                    case.found = self._work(task)
                case.state = "done"
            except Stopped:
                case.state = "ready"
            except Exception as error:  # of this case alone: the next one is worked on
                case.error, case.state = explain(error, case), "failed"
            finally:
                self._tasks.remove(task)

    def _work(self, task: Task) -> Found:
        case = task.case
        case.state = "working"

        def progress(stage: str, done: int, total: int) -> None:
            case.stage, case.done, case.total = stage, done, total
            if task.stop.is_set() or case.closed or self._closing.is_set():
                raise Stopped

        progress("loading", 0, 0)
        from ..engine import compile_all  # here: it brings LLVM, and the page is there before
        from ..model import Model

        compile_all(lambda done, total, _: progress("compiling", done, total))
        if self._model is None or self._model.weights is not task.weights:
            self._model = None
            self._model = Model(task.weights, self._threads)
        progress("reading", 0, 0)
        assert case.header is not None
        found = segment(case.header, self._model, task.volume, lambda done, total: progress("segmenting", done, total))
        progress("measuring", 0, 0)
        return found


def explain(error: Exception, case: Case | None = None) -> str:
    """An error as one line for the page, which knows files by their names, not by where they are kept."""
    if isinstance(error, MemoryError):
        return "not enough memory. Close other programs, or choose a smaller scan."
    told = (
        error.text(lambda option: option if option in HERE else f"the command's --{option.replace('_', '-')}")
        if isinstance(error, MonetError)
        else f"unexpected {type(error).__name__}: {error}"
    )
    if case is not None:
        files = case.folder / "files"
        told = told.replace(f"{files}{os.sep}", "").replace(str(files), "this folder")
    return printable(told)
