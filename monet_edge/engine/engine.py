"""Run a network over slices: threads, progress, and their workspaces."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from math import prod

import numpy as np

from .. import system
from ..errors import SpecError
from ..spec import Spec, multiples
from . import paging
from .algorithms import families
from .codegen import jit
from .fuse import BEFORE
from .plan import Plan
from .pool import Pool
from .program import Key, Program
from .threads import Threads

CHUNK = 4 << 16  # pixels of a slice times steps between looks at whether to stop: of 256x256 a U-Net-64's take up to 100 ms each
SHARED_CHUNK = 72  # where threads share a slice, nine layers for two of them: to look after every second one costs 4 %
# Pixels, and slices, that a thread loads one after the other, and stores so: after every single run of the network Python's code is out of
# the caches, and takes 0.2 ms a slice of 64x64 in place of 0.1
TOGETHER, MOST = 1 << 16, 16
# Threads that share every slice of a network with mapped weights, at most: nnU-Net's default one takes 210 MB in place of 298 at
# 256x256, 338 in place of 503 at 512x512, for 1 to 3 % of the time (Zen 5; for minutes at a time 10 to 25, when one core holds up the
# other). More than two were not measured
SHARING = 2
Sides = tuple[int, int]  # height and width
Load = Callable[[int, np.ndarray], None]
Store = Callable[[int, np.ndarray], None]


class Engine:
    """A network ready to run.

    Parameters
    ----------
    spec : Spec
        Folded and valid.
    tensors : mapping of str to float32 arrays
        Exactly those that the Spec names, with its shapes.
    threads : int
        How many slices run at the same time; a single slice, and the last of several, is shared by all of them. Two share every slice of
        a network whose weights are mapped, see `paging`.
    sides : (height, width), optional
        Of most slices that will come, see `plan.Plan`.

    Notes
    -----
    The result does not depend on the number of threads, bit for bit. Several threads may use one Engine at a time, and so may
    the functions that it calls.
    """

    def __init__(self, spec: Spec, tensors: Mapping[str, np.ndarray], threads: int = 1, sides: tuple[int, int] | None = None) -> None:
        if not spec.folded:
            raise SpecError(f"network {spec.name!r} still has BatchNorm or dropout; export it with `monet-train export` first")
        self.spec = spec
        self.threads = max(1, threads)
        self._tensors = tensors
        self._multiples = multiples(spec)  # once: a tenth of a slice of 64x64
        self._plan = Plan(spec, tensors, jit.target().isa, sides=sides, paged=paging.pays(spec))
        system.trim()
        self._code = jit.load(families(self._plan.algorithms))
        self._sharing = self.threads == 1 or (self.threads <= SHARING and self._plan.mapped > 0)  # every slice, not only the last
        self.pool = Pool(self._plan, self._code.addresses, self.threads, self._sharing)
        self._lock = threading.Lock()
        self._threads = Threads()

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
        if images.shape[1] != self.spec.in_channels:
            raise SpecError(f"expected slices of {self.spec.in_channels} channels as (C, H, W), found shape {images.shape[1:]}")

        def load(i: int, image: np.ndarray) -> None:
            image[...] = images[i]

        self.map(len(images), images.shape[2:], load, results.__setitem__, progress)
        return results

    def map(
        self,
        count: int,
        sides: Sides,
        load: Load,
        store: Store,
        progress: Callable[[int], None] | None = None,
        dealt: Callable[[], None] | None = None,
    ) -> None:
        """``store(i, probabilities of slice i)`` for every i in range(count), over the threads.

        Parameters
        ----------
        count : int
        sides : (height, width)
            Of all slices.
        load : callable
            ``load(i, image)`` writes slice i into (C, H, W) float32, the network's own memory. Called in a worker thread, and for the
            last slice in the caller's, first; where threads share every slice, always in the caller's.
        store : callable
            ``store(i, probabilities)``, (classes, H, W) float32, valid during the call only. Called in a worker
            thread, and for the last slice in the caller's.
        progress : callable, optional
            Called with the number of finished slices, some more every time, in the caller's thread.
        dealt : callable, optional
            Called in the caller's thread whenever a thread finds no slice left while others may still have some: whoever follows may
            begin. Then nobody waits for the last slices, and the threads need not end together, nor share the last one.
        """
        self._check(*sides)
        most, slices = _together(*sides), min(self.pool.abreast(*sides), count)
        if count < self.threads or self._sharing:
            abreast = slices if self._sharing else 1
            for first, end in _groups(count, most, abreast, self.threads):
                self._several(first, end, (*sides, self.threads, abreast), load, store, threading.Event())
                if progress:
                    progress(end)
            return
        last = count - 1 if dealt is None else count
        todo = _groups(last, most, slices, self.threads if dealt is None else 1)
        done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()  # so many slices; a thread without work: 0
        stop = threading.Event()
        shared = self.pool.take((*sides, self.threads, 1)) if dealt is None else None
        if shared is not None:
            load(last, shared.begin())

        def work(thread: int) -> None:
            try:
                while not stop.is_set():
                    with self._lock:
                        first, end = next(todo, (last, last))
                    if first == last:
                        break
                    self._several(first, end, (*sides, 1, slices), load, store, stop)
                    done.put(end - first)
                if shared is not None:
                    self.pool.settle(shared)
                    self._walk(shared, thread, stop)
                done.put(0)
            except BaseException as error:  # not lost with the thread: raised again by the caller
                done.put(error)

        with self._threads.beside(work, [(thread,) for thread in range(self.threads)], stop) as busy:
            if not busy:  # no thread can be started
                work(0)
                busy = 1
            finished = 0
            while busy:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                finished, busy = finished + found, busy - (not found)
                if found and progress:
                    progress(finished)
                if not found and dealt:
                    dealt()
        if shared is not None:
            store(last, shared.output)
            self.pool.keep(shared)
            if progress:
                progress(count)

    def values(self, image: np.ndarray, fused: bool) -> dict[str, np.ndarray]:
        """Every value of the network for one slice, by op name, (C, H, W); with ``fused`` those that the fast plan makes.

        For tests: takes a plan and memory of its own.
        """
        height, width = image.shape[1:]
        self._check(height, width)
        plan = Plan(self.spec, self._tensors, jit.target().isa, fused)
        program = Program(plan, jit.load(families(plan.algorithms)).addresses, height, width, keep=True)
        program.settle()
        program.begin()[...] = image
        self._execute(program, 1, threading.Event())
        return {layer.name: program.memory.value(layer.name) for layer in plan.layers if not layer.name.endswith(BEFORE)}

    def prepare(self, height: int, width: int) -> None:
        """Make now what a volume of slices of this size is run with: 20 ms of Python, while its scan is still being read."""
        for program in [self.pool.take(key) for key in self.pool.keys(height, width)]:
            self.pool.keep(program)

    def workspace_bytes(self, height: int, width: int) -> int:
        """Bytes for a volume of such slices: arenas, a layer's mapped weights for each that a program runs in, all programs' planes."""
        layouts = self.pool.layouts(height, width)
        alone, shared, others = layouts[0], layouts[-1], max(len(layouts) - 2, 0)
        most = _together(height, width)
        kept = (most > 1) * 4 * most * height * width * (self.spec.in_channels + self.spec.classes)
        arena, mapped = self.pool.arena(height, width), (1 + others) * self._plan.mapped  # in the page cache already, but to be had
        return (
            mapped + others * (arena + alone.planes + kept) + max(arena, shared.arena) + alone.planes + kept + (others > 0) * shared.planes
        )

    def _check(self, height: int, width: int) -> None:
        rows, columns = self._multiples
        if height % rows or width % columns or not height or not width:
            sides = f"sides that divide by {rows}" if rows == columns else f"{rows} to divide the rows and {columns} the columns"
            raise SpecError(f"expected {sides}, found {height}x{width}; pad or resize the slice")

    def _several(self, first: int, end: int, key: Key, load: Load, store: Store, stop: threading.Event) -> None:
        """Slices [first, end) from ``load`` to ``store``."""
        program = self.pool.take(key)
        self.pool.settle(program)
        count, memory = end - first, program.memory
        kept = count > program.slices  # apart from the program, which runs several times
        images, outputs = (
            [np.empty(one[0].shape, np.float32) for _ in range(count)] if kept else one[:count] for one in (memory.images, memory.outputs)
        )
        for i, image in enumerate(images, first):
            load(i, image)
        for at in range(0, count, program.slices):
            some = min(program.slices, count - at)
            program.begin()
            for i in range(some if kept else 0):
                memory.images[i][...] = images[at + i]
            self._execute(program, some, stop)
            for i in range(some if kept else 0):
                outputs[at + i][...] = memory.outputs[i]
        if not stop.is_set():
            for i, output in enumerate(outputs, first):
                store(i, output)
            self.pool.keep(program)

    def _execute(self, program: Program, slices: int, stop: threading.Event) -> None:
        """Run a program for so many slices, or for one with as many threads as share it."""
        first, *others = range((slices - 1) * program.threads, slices * program.threads)
        if not others:
            self._walk(program, first, stop)
            return
        with self._threads.beside(self._walk, [(program, other, stop) for other in others], stop):
            self._walk(program, first, stop)

    def _walk(self, program: Program, number: int, stop: threading.Event) -> None:
        """Run every step of a program's list ``number``, a thread's where threads share it, that no other thread has taken."""
        steps, count, at = program.addresses[number], len(program.steps[number]), 0
        chunk = max(CHUNK // prod(program.key[:2]), 1) if program.threads == 1 else SHARED_CHUNK
        for rest, weights in [*program.rests[number], (count, [])]:
            while at < rest and not stop.is_set():
                end = min(at + chunk, rest)
                reached = self._code.run(steps, at, end)
                if reached < end:  # at a band that another must make: let it run
                    time.sleep(0)
                at = reached
            for each in weights:
                each.give_back()


def _together(height: int, width: int) -> int:
    """How many slices of this size a thread takes at a time."""
    return min(max(TOGETHER // (height * width), 1), MOST)


def _groups(count: int, most: int, slices: int, threads: int) -> Iterator[tuple[int, int]]:
    """Slices [first, end) that a thread takes at a time: of several threads fewer towards the end, where none shall wait for another.

    As many as run together, ``slices``, as long as there are as many for all.
    """
    first = 0
    while first < count:
        left = count - first
        some = left if threads == 1 else max(left // (2 * threads), 1)
        end = first + max(min(some, most), min(slices, -(-left // threads)))
        yield first, end
        first = end
