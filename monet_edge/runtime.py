"""Run a network over slices: threads, progress, and their workspaces. Depends on NumPy, the plan and the kernels."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SpecError
from .kernels import _jit
from .plan import Plan, Program
from .spec import Spec, multiple_of

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

CHUNK = 4  # steps between looks at whether to stop: a U-Net-64's take up to 100 ms
SHARED_CHUNK = 72  # where threads share a slice, nine layers for two of them: to look after every second one costs 4 %


class Engine:
    """A network ready to run.

    Parameters
    ----------
    spec : Spec
        Folded and valid.
    tensors : mapping of str to float32 arrays
        Exactly those that the Spec names, with its shapes.
    threads : int
        How many slices run at the same time; a single slice, and the last of several, is shared by all of them.

    Notes
    -----
    The result does not depend on the number of threads, bit for bit. Several threads may use one Engine.
    """

    def __init__(self, spec: Spec, tensors: Mapping[str, np.ndarray], threads: int = 1) -> None:
        if not spec.folded:
            raise SpecError(f"network {spec.name!r} still has BatchNorm or dropout; export it with `monet-train export` first")
        self.spec = spec
        self.threads = max(1, threads)
        self._tensors = tensors
        self._plan = Plan(spec, tensors, _jit.target().isa)
        self._kernels = _jit.load(self._plan.kernels)
        self._idle: dict[tuple[int, int, int], list[Program]] = {}  # programs by height, width and parts
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}  # by process: a forked one has none of its parent's threads

    def run(self, images: np.ndarray, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Probabilities of a stack of slices.

        Parameters
        ----------
        images : (N, C, H, W) float32 array
        progress : callable, optional
            Called with the number of finished slices.

        Returns
        -------
        (N, classes, H, W) float32 array
        """
        images = np.ascontiguousarray(images, np.float32)
        if images.ndim != 4:
            raise SpecError(f"expected slices as (N, C, H, W), found an array of shape {images.shape}")
        results = np.empty((len(images), self.spec.classes, *images.shape[2:]), np.float32)
        self.map(len(images), images.__getitem__, results.__setitem__, progress)
        return results

    def map(self, count: int, load: Callable[[int], np.ndarray], store: Callable[[int, np.ndarray], None],
            progress: Callable[[int], None] | None = None) -> None:  # fmt: skip
        """``store(i, network(load(i)))`` for every i in range(count), over the threads.

        Parameters
        ----------
        count : int
        load : callable
            ``load(i)`` returns slice i, (C, H, W) float32. Called in a worker thread, and for the last slice in the caller's, first.
        store : callable
            ``store(i, probabilities)``, (classes, H, W) float32, valid during the call only. Called in a worker
            thread, and for the last slice in the caller's.
        progress : callable, optional
            Called with the number of finished slices, in the caller's thread.
        """
        if count < self.threads or self.threads == 1:
            for i in range(count):
                self._one(i, load, store, self.threads, threading.Event())
                if progress:
                    progress(i + 1)
            return
        last = count - 1
        todo = iter(range(last))
        done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()  # a slice: 1; a thread without work: 0
        stop = threading.Event()
        shared = self._program(load(last), self.threads)

        def work(part: int) -> None:
            try:
                while not stop.is_set():
                    with self._lock:
                        i = next(todo, None)
                    if i is None:
                        break
                    self._one(i, load, store, 1, stop)
                    done.put(1)
                self._walk(shared, part, stop)
                done.put(0)
            except BaseException as error:  # not lost with the thread: raised again by the caller
                done.put(error)

        with self._beside(work, [(part,) for part in range(self.threads)], stop):
            finished, busy = 0, self.threads
            while busy:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                finished, busy = finished + found, busy - (not found)
                if found and progress:
                    progress(finished)
        store(last, shared.output)
        self._keep(shared)
        if progress:
            progress(count)

    def values(self, image: np.ndarray, fused: bool) -> dict[str, np.ndarray]:
        """Every value of the network for one slice, by op name, (C, H, W); with ``fused`` those that the fast plan makes.

        For tests: takes a plan and memory of its own.
        """
        image = np.ascontiguousarray(image, np.float32)
        plan = Plan(self.spec, self._tensors, self._kernels.isa, fused)
        program = Program(plan, _jit.load(plan.kernels).addresses, *self._check(image), keep=True)
        program.begin(image)
        self._execute(program, threading.Event())
        return {layer.name: program.value(layer.name) for layer in plan.layers}

    def workspace_bytes(self, height: int, width: int) -> int:
        """Memory that all threads need for a volume of slices of this size, in bytes: one for each, and one for the last slice."""
        alone = Program.memory(self._plan, height, width)
        return alone if self.threads == 1 else self.threads * alone + Program.memory(self._plan, height, width, self.threads)

    def _check(self, image: np.ndarray) -> tuple[int, int]:
        if image.ndim != 3 or image.shape[0] != self.spec.in_channels:
            raise SpecError(f"expected a slice of {self.spec.in_channels} channels as (C, H, W), found shape {image.shape}")
        height, width = image.shape[1:]
        multiple = multiple_of(self.spec)
        if height % multiple or width % multiple or not height or not width:
            raise SpecError(f"expected sides that divide by {multiple}, found {height}x{width}; pad or resize the slice")
        return height, width

    def _one(self, i: int, load: Callable[[int], np.ndarray], store: Callable[[int, np.ndarray], None], parts: int,
             stop: threading.Event) -> None:  # fmt: skip
        """Slice i from ``load`` to ``store``."""
        program = self._program(load(i), parts)
        self._execute(program, stop)
        if not stop.is_set():
            store(i, program.output)
            self._keep(program)

    def _program(self, image: np.ndarray, parts: int) -> Program:
        """A program, idle or new, with an image in it, ready to run."""
        image = np.ascontiguousarray(image, np.float32)
        key = (*self._check(image), parts)
        with self._lock:
            self._idle = {other: kept for other, kept in self._idle.items() if other[:2] == key[:2]}  # of one size at a time
            idle = self._idle.setdefault(key, [])
            program = idle.pop() if idle else None
        if program is None:
            program = Program(self._plan, self._kernels.addresses, *key)
        program.begin(image)
        return program

    def _keep(self, program: Program) -> None:
        """For the next slice of that size."""
        key = (*program.image.shape[1:], len(program.steps))
        with self._lock:
            self._idle.get(key, []).append(program)  # unless another size is asked for by now

    def _execute(self, program: Program, stop: threading.Event) -> None:
        """Run a program, each part in a thread."""
        with self._beside(self._walk, [(program, part, stop) for part in range(1, len(program.steps))], stop):
            self._walk(program, 0, stop)

    @contextmanager
    def _beside(self, work: Callable[..., None], arguments: Iterable[tuple[Any, ...]], stop: threading.Event) -> Iterator[None]:
        """Other threads do ``work`` for each of ``arguments`` beside the block; what none has begun by its end is left undone.

        Threads are kept for the next slice: to start one takes 0.1 to 0.3 ms, and 15 took 4 of the 9 ms of a slice that 16 shared.
        """
        from concurrent.futures import ThreadPoolExecutor, wait  # 15 ms, which one thread need not pay

        if os.getpid() not in self._pools:
            self._pools = {os.getpid(): ThreadPoolExecutor(self.threads)}
        running: list[Future[None]] = []
        try:
            for each in arguments:
                running.append(self._pools[os.getpid()].submit(work, *each))
            yield
        except BaseException:
            stop.set()
            raise
        finally:
            wait([each for each in running if not each.cancel()])

    def _walk(self, program: Program, part: int, stop: threading.Event) -> None:
        """Run the steps of one part. Whatever other parts do not make, it makes itself."""
        steps, at = program.steps[part], 0
        chunk = CHUNK if len(program.steps) == 1 else SHARED_CHUNK
        while at < len(steps) and not stop.is_set():
            end = min(at + chunk, len(steps))
            reached = self._kernels.run(steps.ctypes.data, at, end)
            if reached < end:  # at a band that another must make: let it run
                time.sleep(0)
            at = reached
