"""From a row's numbers to the network's input and from its output to labels: micro-kernels over a line of float32 pixels.

Every operation is NumPy's, in its precision and order, so that the reference in tests/naive.py agrees bit for bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir

from ..codegen.simd import BYTES, FLOAT, I1, I8, I32, I64, Micro, Vectors
from ..codegen.step import table
from .stored import DOUBLE

TAP = table("lower", "upper", "weight")  # of an output pixel: the two that it lies between, and how far: the bits of a float32


def emit_pixels(v: Vectors, count: Any, pointers: list[Any], steps: list[int], body: Any) -> None:
    """``body(lanes, pointers)`` for every pixel, by whole vectors first; the pointers move by ``steps`` bytes a pixel."""
    whole = v.builder.and_(count, v.integer(-v.isa.lanes))
    for stop, lanes in ((whole, v.isa.lanes), (v.builder.sub(count, whole), 1)):

        def one(_: Any, at: list[Any], lanes: int = lanes) -> list[Any]:
            body(lanes, at)
            return [v.at(pointer, step * lanes) for pointer, step in zip(at, steps, strict=True)]

        pointers = v.loop(stop, lanes, pointers, one)


def kind_of(scalar: ir.Type, lanes: int) -> ir.Type:
    """So many of them, one for 1."""
    return ir.VectorType(scalar, lanes) if lanes > 1 else scalar


def splat(v: Vectors, scalar: Any, lanes: int) -> Any:
    """``scalar`` in every lane."""
    if lanes == 1:
        return scalar
    kind = ir.VectorType(scalar.type, lanes)
    first = v.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return v.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def _emit_normalise(v: Vectors, source: Any, parameters: Any, target: Any, count: Any) -> None:
    """Stored numbers to float32 in [0, 1]: where low and low + 1 / share lie; 0 where they are not finite or not above the floor.

    Numbers and parameters, which are slope, inter, low, share and floor, are float64. To divide would take longer than all the rest.
    """
    builder = v.builder
    given = [builder.load(v.at(v.pointer(parameters), 8 * i), typ=DOUBLE, align=8) for i in range(5)]

    def body(lanes: int, at: list[Any]) -> None:
        slope, inter, low, share, floor = (splat(v, number, lanes) for number in given)
        zero, one, largest = (splat(v, ir.Constant(DOUBLE, number), lanes) for number in (0.0, 1.0, 1.7976931348623157e308))
        x = builder.load(at[0], typ=kind_of(DOUBLE, lanes), align=8)
        x = builder.fadd(builder.fmul(x, slope), inter)
        y = builder.fmul(builder.fsub(x, low), share)
        seen = builder.and_(builder.fcmp_ordered(">", x, floor), builder.fcmp_ordered("<=", x, largest))
        seen = builder.and_(seen, builder.fcmp_ordered(">", y, zero))
        y = builder.select(builder.fcmp_ordered("<", y, one), y, one)
        builder.store(builder.fptrunc(builder.select(seen, y, zero), kind_of(FLOAT, lanes)), at[1], align=4)

    emit_pixels(v, count, [v.pointer(source), v.pointer(target)], [8, 4], body)


def _between(v: Vectors, below: Any, above: Any, weight: Any) -> Any:
    return v.builder.fadd(below, v.builder.fmul(weight, v.builder.fsub(above, below)))


def _weight(v: Vectors, bits: Any) -> Any:
    return v.builder.bitcast(v.builder.trunc(bits, I32), FLOAT)


def _emit_blend(v: Vectors, below: Any, above: Any, weight: Any, target: Any, count: Any) -> None:
    """Between two lines."""
    weight = _weight(v, weight)

    def body(lanes: int, at: list[Any]) -> None:
        one, other = (v.builder.load(pointer, typ=kind_of(FLOAT, lanes), align=4) for pointer in at[:2])
        v.builder.store(_between(v, one, other, splat(v, weight, lanes)), at[2], align=4)

    emit_pixels(v, count, [v.pointer(place) for place in (below, above, target)], [4, 4, 4], body)


def _emit_resample(v: Vectors, source: Any, taps: Any, target: Any, count: Any) -> None:
    """A line of ``count`` pixels, each between two of the source's."""
    source = v.pointer(source)

    def body(_: Any, at: list[Any]) -> list[Any]:
        lower, upper, weight = (v.load_integer(at[0], 8 * i) for i in range(3))
        one, other = (v.builder.load(v.at(source, v.times(place, 4)), typ=FLOAT, align=4) for place in (lower, upper))
        v.builder.store(_between(v, one, other, _weight(v, weight)), at[1], align=4)
        return [v.at(at[0], TAP.itemsize), v.at(at[1], 4)]

    v.loop(count, 1, [v.pointer(taps), v.pointer(target)], body)


def _emit_threshold(v: Vectors, source: Any, threshold: Any, target: Any, step: Any, count: Any) -> None:
    """1 where a probability lies above the threshold, the bits of a float32, else 0; labels are ``step`` bytes apart."""
    threshold = _weight(v, threshold)

    def body(_: Any, at: list[Any]) -> list[Any]:
        above = v.builder.fcmp_ordered(">", v.builder.load(at[0], typ=FLOAT, align=4), threshold)
        v.builder.store(v.builder.zext(above, I8), at[1], align=1)
        return [v.at(at[0], 4), v.at(at[1], step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], body)


def _emit_above(v: Vectors, source: Any, threshold: Any, count: Any) -> Any:
    """Whether any pixel of a line lies above the threshold, the bits of a float32, or so near that a blend of two might."""
    builder = v.builder
    near = builder.fmul(_weight(v, threshold), ir.Constant(FLOAT, 1 - 2.0**-20))  # a blend's rounding is below 2^-22 of it
    lanes = v.isa.lanes
    whole = builder.and_(count, v.integer(-lanes))

    def several(_: Any, carried: list[Any]) -> list[Any]:
        at, seen = carried
        above = builder.fcmp_ordered(">", v.load(at), splat(v, near, lanes))
        return [v.at(at, 4 * lanes), builder.or_(seen, above)]

    def one(_: Any, carried: list[Any]) -> list[Any]:
        at, seen = carried
        return [v.at(at, 4), builder.or_(seen, builder.fcmp_ordered(">", builder.load(at, typ=FLOAT, align=4), near))]

    at, lines = v.loop(whole, lanes, [v.pointer(source), ir.Constant(ir.VectorType(I1, lanes), [0] * lanes)], several)
    any_lane = builder.icmp_signed("!=", builder.bitcast(lines, ir.IntType(lanes)), ir.Constant(ir.IntType(lanes), 0))
    return builder.zext(v.loop(builder.sub(count, whole), 1, [at, any_lane], one)[1], I64)


def _emit_clear(v: Vectors, target: Any, step: Any, count: Any) -> None:
    """No label; they are ``step`` bytes apart. Only labels are written over: of a new array, pages that hold none take no memory."""
    builder = v.builder
    whole = builder.select(builder.icmp_signed("==", step, v.integer(1)), builder.and_(count, v.integer(-BYTES)), v.integer(0))
    at = v.pointer(target)
    for stop, lanes, stride in ((whole, BYTES, v.integer(BYTES)), (builder.sub(count, whole), 1, step)):
        none, bits = ir.Constant(kind_of(I8, lanes), [0] * lanes if lanes > 1 else 0), ir.IntType(lanes)

        def one(_: Any, carried: list[Any], none: Any = none, bits: Any = bits, stride: Any = stride) -> list[Any]:
            labels = builder.icmp_unsigned("!=", builder.load(carried[0], typ=none.type, align=1), none)
            with builder.if_then(builder.icmp_unsigned("!=", builder.bitcast(labels, bits), ir.Constant(bits, 0))):
                builder.store(none, carried[0], align=1)
            return [v.at(carried[0], stride)]

        (at,) = v.loop(stop, lanes, [at], one)


def _emit_likeliest(v: Vectors, source: Any, plane: Any, classes: Any, target: Any, step: Any, count: Any) -> None:
    """The first class with the largest probability; those of a class are ``plane`` bytes after those of the class before."""
    builder = v.builder

    def several(_: Any, at: list[Any], lanes: int) -> list[Any]:
        def compare(index: Any, best: list[Any]) -> list[Any]:
            value = builder.load(v.at(at[0], builder.mul(index, plane)), typ=kind_of(FLOAT, lanes), align=4)
            more = builder.fcmp_ordered(">", value, best[0])
            return [builder.select(more, value, best[0]), builder.select(more, splat(v, builder.trunc(index, I32), lanes), best[1])]

        first = builder.load(at[0], typ=kind_of(FLOAT, lanes), align=4)
        none = ir.Constant(kind_of(I32, lanes), [0] * lanes if lanes > 1 else 0)
        labels = builder.trunc(v.loop(classes, 1, [first, none], compare)[1], kind_of(I8, lanes))
        place = at[1]
        for lane in range(lanes):
            one = builder.extract_element(labels, ir.Constant(I32, lane)) if lanes > 1 else labels
            builder.store(one, place, align=1)
            place = v.at(place, step)
        return [v.at(at[0], 4 * lanes), place]

    at, whole = [v.pointer(source), v.pointer(target)], builder.and_(count, v.integer(-v.isa.lanes))
    for stop, lanes in ((whole, v.isa.lanes), (builder.sub(count, whole), 1)):
        at = v.loop(stop, lanes, at, partial(several, lanes=lanes))


normalise = Micro("normalise", 4, _emit_normalise)
blend = Micro("blend", 5, _emit_blend)
resample = Micro("resample", 4, _emit_resample)
threshold = Micro("threshold", 5, _emit_threshold)
above = Micro("above", 3, _emit_above)
clear = Micro("clear", 3, _emit_clear)
likeliest = Micro("likeliest", 6, _emit_likeliest)
