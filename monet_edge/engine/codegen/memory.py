"""Micro-kernels that read, copy and re-order memory, and integers; none of them calculates."""

from __future__ import annotations

from typing import Any

from .simd import FLOAT, Micro, Vectors


def _emit_min64(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.select(v.builder.icmp_signed("<", a, b), a, b)


def _emit_max64(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.select(v.builder.icmp_signed(">", a, b), a, b)


def _emit_copy(v: Vectors, source: Any, source_step: Any, target: Any, target_step: Any, count: Any) -> None:
    """``count`` channel blocks, ``source_step`` bytes apart, to places ``target_step`` bytes apart."""
    offsets = [part * v.isa.lanes * 4 for part in range(v.parts)]

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers
        for value, offset in [(v.load(source, offset), offset) for offset in offsets]:
            v.store(value, target, offset)
        return [v.at(source, source_step), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], body)


def _emit_zero(v: Vectors, target: Any, target_step: Any, count: Any) -> None:
    """Zero ``count`` channel blocks."""

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        for part in range(v.parts):
            v.store(v.constant(0.0), pointers[0], part * v.isa.lanes * 4)
        v.fence()  # or LLVM would make it a call of memset, which the object file must not need
        return [v.at(pointers[0], target_step)]

    v.loop(count, 1, [v.pointer(target)], body)


def _emit_scatter(v: Vectors, source: Any, source_step: Any, target: Any, target_step: Any, count: Any) -> None:
    """``count`` single floats: one channel between planes and NHWC16, either way."""

    def body(_: Any, pointers: list[Any]) -> list[Any]:
        source, target = pointers
        v.builder.store(v.builder.load(source, typ=FLOAT, align=4), target, align=4)
        return [v.at(source, source_step), v.at(target, target_step)]

    v.loop(count, 1, [v.pointer(source), v.pointer(target)], body)


min64 = Micro("min64", 2, _emit_min64, inline=True)  # Numba's own min and max are functions in modules of their own
max64 = Micro("max64", 2, _emit_max64, inline=True)
copy = Micro("copy", 5, _emit_copy)
zero = Micro("zero", 3, _emit_zero)
scatter = Micro("scatter", 5, _emit_scatter)
