"""A volume as if sorted, without a copy of it: which intensity has a rank, and what those between two intensities add up to.

Every voxel has a key, an integer in the order of the values (`stored`), read 16 bits at a time: a pass over the volume counts
how many begin alike. All of 16-bit integers is known after one pass, a rank among floats of 32 after two. Counts, and sums of
integers, are the same in whatever order the voxels are taken: any axis order and any number of threads give the same bits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codegen.simd import Micro
from ..threads import Threads
from .kernels import BINS, RUN, count_keys, run, sum_keys
from .stored import finite_keys, form_of, key_bits, known, values_of

PIECE = 1 << 20  # voxels that a thread takes at a time


@dataclass(frozen=True)
class Moments:
    """Of some voxels, unscaled: how many, their mean, and the mean of their squared distances from it."""

    count: int
    mean: float
    variance: float


class Sorted:
    """The finite voxels of a volume, in the order of their intensities.

    Parameters
    ----------
    volume : array of any shape, strides and real dtype of at most 64 bits
    threads : int
        That count.
    counts : (BINS,) int64 array, optional
        The volume's, if it has been counted already, see `count`.

    Attributes
    ----------
    count : int
        Finite voxels.
    """

    def __init__(self, volume: np.ndarray, threads: int = 1, counts: np.ndarray | None = None) -> None:
        self._volume, self._threads = known(volume), threads
        self.dtype = self._volume.dtype
        self._bits = key_bits(self.dtype)
        self._half = 1 << (self._bits - 1)
        self.lowest, self.highest = finite_keys(self.dtype)
        # counts of the next 16 bits, by those above, with a 1 before them
        self._nodes = {1: np.cumsum(count(volume, threads) if counts is None else counts)}
        self.count = self._up_to(self.highest) - self._up_to(self.lowest - 1)

    def value(self, key: int) -> float:
        """The intensity, as stored, that a key stands for."""
        return float(values_of(np.array([key], np.int64), self.dtype)[0])

    def select(self, ranks: Sequence[int]) -> list[int]:
        """The keys of voxels by their ranks, from 0."""
        before = self._up_to(self.lowest - 1)
        places = [(1, rank + before) for rank in ranks]  # the bits so far, and the rank behind them
        for _ in range(self._bits // 16):
            self._ask([bits for bits, _ in places])
            for i, (bits, rank) in enumerate(places):
                ends = self._nodes[bits]
                digit = int(np.searchsorted(ends, rank, "right"))
                places[i] = (bits << 16 | digit, rank - (int(ends[digit - 1]) if digit else 0))
        return [bits - (1 << self._bits) - self._half for bits, _ in places]

    def rank(self, key: int) -> int:
        """How many voxels lie below a key."""
        return self._up_to(key - 1) - self._up_to(self.lowest - 1)

    def moments(self, first: int, last: int) -> Moments:
        """Of the voxels with keys from first to last; exact sums of integers, added up in one order."""
        shift = self._bits - 16
        start = (first + self._half) >> shift
        if shift:
            counts, sums, squares = self._sums(first, last)
        else:
            ends = self._nodes[1]
            counts = np.diff(ends, prepend=0)
            counts[:start] = counts[last + self._half + 1 :] = 0
        bins = np.flatnonzero(counts)
        n = counts[bins]
        total = int(n.sum())
        if not total:
            return Moments(0, 0.0, 0.0)
        base = (bins - BINS // 2) << shift
        begin = values_of(base, self.dtype)
        within = np.zeros(len(bins))
        if shift:
            # what a number more of the bits below adds to the value, exactly: a bin has one exponent, and one sign
            unit = np.abs(values_of(base + 1, self.dtype) - begin) if self.dtype.kind == "f" else np.ones(len(bins))
            whole, square = ([int(low) + (int(high) << 64) for low, high in table[bins]] for table in (sums, squares))
            spread = [(int(k) * b - a * a) / int(k) for k, a, b in zip(n, whole, square, strict=True)]  # of integers: no cancellation
            within = np.square(unit) * np.array(spread)
            begin = begin + unit * (np.array([a / int(k) for k, a in zip(n, whole, strict=True)]))
        mean = math.fsum(n * begin) / total if len(bins) > 1 else float(begin[0])  # of one intensity exactly that
        # the parallel form of Chan, Golub and LeVeque (1979), bin by bin
        return Moments(total, mean, math.fsum(within + n * np.square(begin - mean)) / total)

    def _up_to(self, key: int) -> int:
        """How many voxels have this key or one below."""
        place, total = key + self._half, 0
        if place < 0:
            return 0
        for level in range(1, self._bits // 16 + 1):
            left = self._bits - 16 * level
            bits, digit = 1 << (16 * (level - 1)) | place >> (left + 16), (place >> left) & (BINS - 1)
            self._ask([bits])
            ends = self._nodes[bits]
            before = int(ends[digit - 1]) if digit else 0
            inside, total = int(ends[digit]) - before, total + before
            if not inside:  # no need to look further
                break
        return total + inside

    def _ask(self, wanted: Sequence[int]) -> None:
        """Count behind bits that were not asked for yet, all of one length, in one pass."""
        new = sorted(set(wanted) - self._nodes.keys())
        if not new:
            return
        levels = (new[0].bit_length() - 1) // 16
        trie = np.full((levels, len(new), BINS), -1, np.int8)  # nobody asks for more than a few at a time
        paths: dict[int, int] = {1: 0}
        for level in range(levels):  # the nodes of every level by their bits
            below: dict[int, int] = {}
            for bits in new:
                here = bits >> (16 * (levels - level - 1))
                trie[level, paths[here >> 16], here & (BINS - 1)] = below.setdefault(here, len(below))
            paths = below
        counts = _count(self._volume, self._threads, levels, trie)
        for bits, node in paths.items():
            self._nodes[bits] = np.cumsum(counts[node])

    def _sums(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def make() -> list[np.ndarray]:
            return [np.zeros(BINS, np.int64), *(np.zeros((BINS, 2), np.uint64) for _ in range(2))]

        (counts, sums, squares), *others = _pass(self._volume, self._threads, sum_keys, [self._bits - 16, first, last], make)
        for more, sum_, square in others:
            counts, sums, squares = counts + more, _add128(sums, sum_), _add128(squares, square)
        return counts, sums, squares


def count(volume: np.ndarray, threads: int = 1) -> np.ndarray:
    """How many voxels begin with each 16 bits of a key: (BINS,) int64; those of a volume's parts add up to its own."""
    return _count(known(volume), threads, 0, np.empty((1, 1, BINS), np.int8))[0]


def _count(volume: np.ndarray, threads: int, levels: int, trie: np.ndarray) -> np.ndarray:
    """How many voxels have each next 16 bits behind those that a trie asks for, see `count_keys`: (nodes, BINS) int64."""
    fixed, nodes = [key_bits(volume.dtype) - 16 * (levels + 1), levels, trie, trie.strides[0]], trie.shape[1]
    tables = _pass(volume, threads, count_keys, fixed, lambda: [np.zeros((nodes, BINS), np.int64)])
    return np.sum([each for (each,) in tables], axis=0)


def _pass(
    volume: np.ndarray, threads: int, kernel: Micro, fixed: list[Any], make: Callable[[], list[np.ndarray]]
) -> list[list[np.ndarray]]:
    """A kernel over all voxels, shared by the threads, each with tables of its own."""
    pieces, lock, stop = _pieces(volume), threading.Lock(), threading.Event()
    failed: list[BaseException] = []
    bits = key_bits(volume.dtype)
    form, bias = form_of(volume.dtype), 1 << bits - 1 if bits < 64 else -(1 << bits - 1)  # the same bits, as a signed number

    def work(tables: list[np.ndarray]) -> None:
        try:
            scratch = np.empty(RUN, np.int64)
            while not stop.is_set():
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                run(kernel, form, *piece, scratch, bias, *fixed, *tables)
        except BaseException as error:  # not lost with the thread
            failed.append(error)

    several = min(threads, -(-volume.size // PIECE))
    tables = [make() for _ in range(max(several, 1))]
    with Threads().beside(work, [(each,) for each in tables[1:]], stop):
        work(tables[0])
    if failed:
        raise failed[0]
    return tables


def _add128(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of 128 bits, low half first."""
    low = a[:, 0] + b[:, 0]
    return np.stack([low, a[:, 1] + b[:, 1] + (low < a[:, 0])], axis=1)


def _pieces(volume: np.ndarray) -> Iterator[tuple[int, int, int, int, int]]:
    """All voxels as (source, rows, row, count, step), see `kernels`: as they lie in memory, whatever the order of the axes."""
    axes = [(abs(stride), extent) for stride, extent in zip(volume.strides, volume.shape, strict=True) if extent > 1]
    start = volume.ctypes.data
    start += sum(stride * (extent - 1) for stride, extent in zip(volume.strides, volume.shape, strict=True) if stride < 0)
    merged: list[tuple[int, int]] = []  # (bytes from one to the next, how many), the nearest first
    for stride, extent in sorted(axes):
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0], merged[-1][1] * extent)
        else:
            merged.append((stride, extent))
    (step, count), (row, rows), *outer = [*merged, *[(0, 1)] * (2 - len(merged))]
    if volume.size == 0:
        return
    for index in np.ndindex(*(extent for _, extent in outer)):
        at = start + sum(i * stride for i, (stride, _) in zip(index, outer, strict=True))
        for first in range(0, count, PIECE):
            wide = min(PIECE, count - first)
            high = max(1, PIECE // wide)
            for top in range(0, rows, high):
                yield at + top * row + first * step, min(high, rows - top), row, wide, step
