"""The loops over stored voxels: counted, made the network's input, and labelled. Micro-kernels throughout: none needs Numba.

They are called from Python with all that they need; scratch is the caller's, so any number of threads may run them.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from ..codegen import jit
from ..codegen.memory import min64, scatter
from ..codegen.simd import I8, I32, I64, Micro, Vectors
from ..codegen.step import table
from .halves import share, weigh
from .lines import TAP, above, blend, clear, likeliest, normalise, resample, splat, threshold
from .stored import keys, numbers

BINS = 1 << 16
ALIKE = 8  # keys that are added at once where they are the same
RUN = 1024  # keys made at a time: 8 KB, which stay in the first cache
KEPT = table("base", "row", "step")  # where the probabilities of a class go: its first pixel, bytes to the next row, to the next pixel


def _runs(v: Vectors, form: Any, source: Any, rows: Any, row: Any, count: Any, step: Any, scratch: Any, visit: Any) -> None:
    """``visit(how many)`` for every run of keys in scratch, of rows of ``count`` voxels."""
    builder = v.builder

    def one_row(y: Any, _: list[Any]) -> list[Any]:
        start = builder.add(source, builder.mul(y, row))

        def one_run(x: Any, _: list[Any]) -> list[Any]:
            several = v.call(min64, v.integer(RUN), builder.sub(count, x))
            v.call(keys, form, builder.add(start, builder.mul(x, step)), step, several, scratch)
            visit(several)
            return []

        v.loop(count, RUN, [], one_run)
        return []

    v.loop(rows, 1, [], one_row)


def _add(v: Vectors, address: Any, index: Any, number: Any) -> None:
    """Add an integer to one of a table of such integers."""
    place = v.at(v.pointer(address), v.times(index, number.type.width // 8))
    v.builder.store(v.builder.add(v.builder.load(place, typ=number.type, align=8), number), place, align=8)


def _emit_count_keys(
    v: Vectors, form: Any, source: Any, rows: Any, row: Any, count: Any, step: Any, scratch: Any, bias: Any, shift: Any,
    levels: Any, trie: Any, plane: Any, counts: Any,
) -> None:  # fmt: skip
    """How many keys have each 16 bits, those above bit ``shift``, behind every node of a trie of the bits above those.

    ``bias`` makes the highest 16 bits count from 0. The trie is (levels, nodes, BINS) int8, a level ``plane`` bytes long: the node
    of the next level behind each 16 bits, -1 where nobody asks. Counts are (nodes, BINS) int64.
    """
    builder = v.builder
    mask, none = v.integer(BINS - 1), v.integer(-1)

    def visit(several: Any) -> None:
        def find(i: Any, kept: list[Any]) -> list[Any]:
            key = builder.add(v.load_integer(v.pointer(scratch), v.times(i, 8)), bias)

            def descend(level: Any, node: list[Any]) -> list[Any]:
                left = builder.add(shift, v.times(builder.sub(levels, level), 16))
                digit = builder.and_(builder.ashr(key, left), mask)
                asked = builder.icmp_signed(">=", node[0], v.integer(0))
                place = builder.add(v.times(builder.select(asked, node[0], v.integer(0)), BINS), digit)
                place = v.at(v.pointer(trie), builder.add(builder.mul(level, plane), place))
                return [builder.select(asked, builder.sext(builder.load(place, typ=I8, align=1), I64), none)]

            node = v.loop(levels, 1, [v.integer(0)], descend)[0]
            place = builder.add(v.times(node, BINS), builder.and_(builder.ashr(key, shift), mask))
            # written over the keys, further down than they are read: a branch would be guessed wrong too often
            builder.store(place, v.at(v.pointer(scratch), v.times(kept[0], 8)), align=8)
            return [builder.add(kept[0], builder.zext(builder.icmp_signed(">=", node, v.integer(0)), I64))]

        def add(i: Any, _: list[Any]) -> list[Any]:
            _add(v, counts, v.load_integer(v.pointer(scratch), v.times(i, 8)), v.integer(1))
            return []

        def add_all(i: Any, number: int = 1) -> None:
            key = builder.add(v.load_integer(v.pointer(scratch), v.times(i, 8)), bias)
            _add(v, counts, builder.and_(builder.ashr(key, shift), mask), v.integer(number))

        def together(i: Any, _: list[Any]) -> list[Any]:
            """Of a background that is one number each addition would wait for the one before: 2 ns a voxel in place of 0.7."""
            keys_ = builder.load(v.at(v.pointer(scratch), v.times(i, 8)), typ=ir.VectorType(I64, ALIKE), align=8)
            alike = builder.icmp_signed("==", keys_, splat(v, builder.extract_element(keys_, ir.Constant(I32, 0)), ALIKE))
            bits = ir.IntType(ALIKE)
            with builder.if_else(builder.icmp_signed("==", builder.bitcast(alike, bits), ir.Constant(bits, -1))) as (same, different):
                with same:
                    add_all(i, ALIKE)
                with different:
                    for place in range(ALIKE):
                        add_all(builder.add(i, v.integer(place)))
            return []

        def alone(i: Any, _: list[Any]) -> list[Any]:
            add_all(builder.add(whole, i))
            return []

        whole = builder.and_(several, v.integer(-ALIKE))
        with builder.if_else(builder.icmp_signed("==", levels, v.integer(0))) as (root, nodes):
            with root:  # the usual pass: 0.7 ns a voxel, where the other way takes twice as long
                v.loop(whole, ALIKE, [], together)
                v.loop(builder.sub(several, whole), 1, [], alone)
            with nodes:
                v.loop(v.loop(several, 1, [v.integer(0)], find)[0], 1, [], add)

    _runs(v, form, source, rows, row, count, step, scratch, visit)


def _emit_sum_keys(
    v: Vectors, form: Any, source: Any, rows: Any, row: Any, count: Any, step: Any, scratch: Any, bias: Any, shift: Any,
    low: Any, high: Any, counts: Any, sums: Any, squares: Any,
) -> None:  # fmt: skip
    """Of keys from low to high, by their highest 16 bits: how many, and the sums of what stands below and of its squares.

    Counts are (BINS,) int64, sums of 128 bits each (BINS, 2) uint64: what stands below may have 48 bits.
    """
    builder, wide = v.builder, ir.IntType(128)
    below = builder.sub(builder.shl(v.integer(1), shift), v.integer(1))

    def visit(several: Any) -> None:
        def one(i: Any, _: list[Any]) -> list[Any]:
            key = v.load_integer(v.pointer(scratch), v.times(i, 8))
            inside = builder.and_(builder.icmp_signed("<=", low, key), builder.icmp_signed("<=", key, high))
            with builder.if_then(inside):
                key = builder.add(key, bias)
                digit, rest = builder.and_(builder.ashr(key, shift), v.integer(BINS - 1)), builder.zext(builder.and_(key, below), wide)
                _add(v, counts, digit, v.integer(1))
                _add(v, sums, digit, rest)
                _add(v, squares, digit, builder.mul(rest, rest))
            return []

        v.loop(several, 1, [], one)

    _runs(v, form, source, rows, row, count, step, scratch, visit)


def _tap(v: Vectors, taps: Any, index: Any) -> list[Any]:
    """Lower, upper and weight of one pixel."""
    return [v.load_integer(v.at(v.pointer(taps), v.times(index, TAP.itemsize)), 8 * i) for i in range(3)]


def _emit_feed(
    v: Vectors, form: Any, count: Any, source: Any, plane: Any, row: Any, step: Any, width: Any, parameters: Any, vertical: Any,
    horizontal: Any, doubles: Any, lines: Any, target: Any, target_plane: Any, target_row: Any, target_height: Any, target_width: Any,
) -> None:  # fmt: skip
    """Slices as the network sees them; every stored row is normalised once, whatever the sizes.

    Scratch is a row in float64 and three in float32.
    """
    builder = v.builder
    length = v.times(width, 4)
    mixed = builder.add(lines, v.times(length, 2))

    def make(start: Any, index: Any, line: Any) -> None:
        v.call(numbers, form, builder.add(start, builder.mul(index, row)), step, width, doubles)
        v.call(normalise, doubles, parameters, line, width)

    def one_slice(z: Any, _: list[Any]) -> list[Any]:
        start, place = builder.add(source, builder.mul(z, plane)), builder.add(target, builder.mul(z, target_plane))
        held = [lines, v.integer(-1), builder.add(lines, length), v.integer(-1)]
        v.loop(target_height, 1, held, lambda y, held: one(start, place, y, held))
        return []

    def one(start: Any, place: Any, y: Any, held: list[Any]) -> list[Any]:
        line, line_row, other, other_row = held
        lower, upper, weight = _tap(v, vertical, y)
        same = builder.icmp_signed("==", lower, line_row)  # else it may be what was the upper one before
        line, line_row, other, other_row = (
            builder.select(same, a, b) for a, b in ((line, other), (line_row, other_row), (other, line), (other_row, line_row))
        )
        with builder.if_then(builder.icmp_signed("!=", lower, line_row)):
            make(start, lower, line)
        two = builder.icmp_signed("!=", lower, upper)
        with builder.if_then(builder.and_(two, builder.icmp_signed("!=", upper, other_row))):
            make(start, upper, other)
        v.call(blend, line, builder.select(two, other, line), weight, mixed, width)
        v.call(resample, mixed, horizontal, builder.add(place, builder.mul(y, target_row)), target_width)
        return [line, lower, other, builder.select(two, upper, other_row)]

    v.loop(count, 1, [], one_slice)


def _emit_label(
    v: Vectors, source: Any, plane: Any, row: Any, width: Any, classes: Any, vertical: Any, horizontal: Any, mixed: Any, lines: Any,
    level: Any, target: Any, target_row: Any, target_step: Any, target_height: Any, target_width: Any, kept: Any,
) -> None:  # fmt: skip
    """A slice's labels from its probabilities, and the probabilities themselves where ``kept``, the table `KEPT`, is not 0.

    ``level`` is the threshold, the bits of a float32. Scratch is a line of the source, and one of the target for each class. Of one
    class, lines between two that lie below the threshold are not made unless they are kept: most of a scan's.
    """
    builder = v.builder
    length = v.times(target_width, 4)
    skips = builder.and_(builder.icmp_signed("==", classes, v.integer(1)), builder.icmp_signed("==", kept, v.integer(0)))

    def one(y: Any, _: list[Any]) -> list[Any]:
        lower, upper, weight = _tap(v, vertical, y)
        found = [v.call(above, builder.add(source, builder.mul(index, row)), level, width) for index in (lower, upper)]
        empty = builder.and_(skips, builder.icmp_signed("==", builder.or_(*found), v.integer(0)))
        labels = builder.add(target, builder.mul(y, target_row))
        with builder.if_else(empty) as (nothing, something):
            with nothing:
                v.call(clear, labels, target_step, target_width)
            with something:
                make(y, lower, upper, weight, labels)
        return []

    def make(y: Any, lower: Any, upper: Any, weight: Any, labels: Any) -> None:
        def resize(c: Any, _: list[Any]) -> list[Any]:
            start, line = builder.add(source, builder.mul(c, plane)), builder.add(lines, builder.mul(c, length))
            v.call(blend, *(builder.add(start, builder.mul(index, row)) for index in (lower, upper)), weight, mixed, width)
            v.call(resample, mixed, horizontal, line, target_width)
            with builder.if_then(builder.icmp_signed("!=", kept, v.integer(0))):
                place = v.at(v.pointer(kept), v.times(c, KEPT.itemsize))
                base, kept_row, kept_step = (v.load_integer(place, 8 * i) for i in range(3))
                v.call(scatter, line, v.integer(4), builder.add(base, builder.mul(y, kept_row)), kept_step, target_width)
            return []

        v.loop(classes, 1, [], resize)
        with builder.if_else(builder.icmp_signed("==", classes, v.integer(1))) as (binary, several):
            with binary:
                v.call(threshold, lines, level, labels, target_step, target_width)
            with several:
                v.call(likeliest, lines, length, classes, labels, target_step, target_width)

    v.loop(target_height, 1, [], one)


count_keys = Micro("count_keys", 13, _emit_count_keys, calls=(min64, keys))
sum_keys = Micro("sum_keys", 14, _emit_sum_keys, calls=(min64, keys))
feed = Micro("feed", 17, _emit_feed, calls=(numbers, normalise, blend, resample))
label = Micro("label", 16, _emit_label, calls=(above, clear, blend, resample, scatter, threshold, likeliest))
FAMILY: jit.Families = {"voxels": (count_keys, sum_keys, feed, label, weigh, share)}


@cache
def _function(micro: Micro) -> Any:
    address = jit.load(FAMILY).addresses[micro.name]
    return ctypes.CFUNCTYPE(*[ctypes.c_int64] * (micro.arguments + 1))(address)


def run(micro: Micro, *arguments: int | np.ndarray) -> None:
    """Call one of `FAMILY` without the GIL; arrays are given by their addresses."""
    _function(micro)(*[one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments])
