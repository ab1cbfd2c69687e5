"""What an engine keeps from slice to slice: programs for one size of image, and the arenas in which they run in turn."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache, partial

import numpy as np

from .arena import Layout
from .codegen.layout import aligned_zeros
from .plan import Plan
from .program import Key, Program, abreast, lay_out

# Bytes that every arena may have more than a thread alone needs, for the slice that all share. In nnU-Net's default network at 256x256
# eight threads need 106 MB on AVX2, where one takes 51: such an arena is made anew for every volume, 20 ms
EXTRA = 24 << 20


class Pool:
    """Idle programs and arenas, of one size of image at a time. Several threads may take and keep.

    Parameters
    ----------
    plan : Plan
    addresses : mapping of str to int
        The compiled kernels.
    threads : int
        That share a slice.
    sharing : bool
        Whether they share every one, or only the last.
    """

    def __init__(self, plan: Plan, addresses: Mapping[str, int], threads: int, sharing: bool) -> None:
        self._plan, self._addresses, self._threads, self._sharing = plan, addresses, threads, sharing
        # once a size: asked for before every scan
        self._layout, self.abreast = cache(partial(lay_out, plan)), cache(partial(abreast, plan))
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Let all go that is idle."""
        self.programs: dict[Key, list[Program]] = {}
        self.arenas: dict[tuple[int, int], list[np.ndarray]] = {}  # that idle programs have given back, by height and width

    def take(self, key: Key) -> Program:
        """A program, idle or new, without an arena."""
        with self._lock:
            self.programs = {other: kept for other, kept in self.programs.items() if other[:2] == key[:2]}
            self.arenas = {key[:2]: self.arenas.get(key[:2], [])}
            idle = self.programs.setdefault(key, [])
            program = idle.pop() if idle else None
        return program or Program(self._plan, self._addresses, *key[:3], slices=key[3])

    def settle(self, program: Program) -> None:
        """Give a program an arena, if it has none: of a program that has run, or in its place a new one if that is too small."""
        sides = program.key[:2]
        with self._lock:
            if program.memory.arena is None:
                kept = self.arenas.get(sides)
                arena = kept.pop() if kept else None
                if arena is None or arena.nbytes < program.layout.arena:
                    arena = None  # given back before the other is taken
                    arena = aligned_zeros(max(self.arena(*sides), program.layout.arena))
                program.settle(arena)

    def keep(self, program: Program) -> None:
        """For the next slice of that size, and its arena for any program."""
        with self._lock:
            arena, program.memory.arena = program.memory.arena, None
            if arena is not None and arena.nbytes == self.arena(*program.key[:2]):
                self.arenas.get(program.key[:2], []).append(arena)
            self.programs.get(program.key, []).append(program)  # unless another size is asked for by now

    def arena(self, height: int, width: int) -> int:
        """Bytes of the arenas that are kept: for any program of this size, unless the one that all share needs much more."""
        layouts = self.layouts(height, width)
        alone, shared = layouts[0], layouts[-1]
        return alone.arena if shared.arena > alone.arena + EXTRA else max(alone.arena, shared.arena)

    def keys(self, height: int, width: int) -> list[Key]:
        """Of the programs that a volume of slices of this size is run with: one for each thread, and last the one that all share."""
        slices = self.abreast(height, width)
        if self._sharing:
            return [(height, width, self._threads, slices)]
        return [(height, width, 1, slices)] * self._threads + [(height, width, self._threads, 1)]

    def layouts(self, height: int, width: int) -> list[Layout]:
        """What those programs need."""
        return [self._layout(*key[:3], slices=key[3]) for key in self.keys(height, width)]
