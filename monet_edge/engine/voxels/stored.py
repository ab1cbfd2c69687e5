"""Voxels as they are stored, in any of 19 forms, made into numbers that the kernels work with: micro-kernels over a row.

A row is ``count`` voxels, ``step`` bytes apart, which may be negative. No address need be aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from ..codegen.simd import I64, Micro, Vectors

DOUBLE = ir.DoubleType()


@dataclass(frozen=True)
class Form:
    """How a voxel is stored: ``kind`` as NumPy says it (i, u, f), in ``size`` bytes, ``swapped`` if not in this machine's order."""

    kind: str
    size: int
    swapped: bool

    @property
    def bits(self) -> int:
        return 8 * self.size


FORMS = tuple(
    Form(kind, size, swapped) for kind in "iuf" for size in (1, 2, 4, 8) for swapped in (False, True)
    if (size > 1 or not swapped) and (size > 2 or kind != "f")
)  # fmt: skip


def form_of(dtype: np.dtype) -> int:
    """The index in `FORMS` of a real dtype of at most 64 bits, but float16."""
    return FORMS.index(Form(dtype.kind, dtype.itemsize, not dtype.isnative))


def known(array: np.ndarray) -> np.ndarray:
    """The array, if its dtype is one of `FORMS`; a float16 or boolean one in float32: no scan's file holds those."""
    return array.astype(np.float32) if array.dtype.char in "?e" else array


Convert = Callable[[Vectors, Form, Any, int], Any]  # of bits as loaded, so many lanes of them: 1 is no vector


def _kind(scalar: ir.Type, lanes: int) -> ir.Type:
    return ir.VectorType(scalar, lanes) if lanes > 1 else scalar


def _same(scalar: ir.Type, value: float, lanes: int) -> ir.Constant:
    return ir.Constant(_kind(scalar, lanes), [value] * lanes if lanes > 1 else value)


def _emit_rows(v: Vectors, convert: Convert, form: Any, source: Any, step: Any, count: Any, target: Any) -> None:
    """``convert`` every voxel of a row to 64 bits in ``target``; by vectors where the voxels lie side by side."""
    builder = v.builder
    for each in v.cases(form, FORMS):
        done = [v.pointer(source), v.pointer(target)]
        parts = [(count, 1, step)]
        if each.size <= 4 and not each.swapped:  # what most scans hold; for all forms it would take twice as long to compile
            dense = builder.icmp_signed("==", step, v.integer(each.size))
            whole = builder.select(dense, builder.and_(count, v.integer(-v.isa.lanes)), v.integer(0))
            parts = [(whole, v.isa.lanes, v.integer(v.isa.lanes * each.size)), (builder.sub(count, whole), 1, step)]
        for stop, lanes, stride in parts:

            def body(_: Any, pointers: list[Any], each: Form = each, lanes: int = lanes, stride: Any = stride) -> list[Any]:
                bits = builder.load(pointers[0], typ=_kind(ir.IntType(each.bits), lanes), align=1)
                if each.swapped:
                    vector = f"v{lanes}" if lanes > 1 else ""
                    bits = v.intrinsic(f"llvm.bswap.{vector}i{each.bits}", bits.type, [bits])
                builder.store(convert(v, each, bits, lanes), pointers[1], align=8)
                return [v.at(pointers[0], stride), v.at(pointers[1], 8 * lanes)]

            done = v.loop(stop, lanes, done, body)


def _number(v: Vectors, form: Form, bits: Any, lanes: int) -> Any:
    """As float64."""
    double = _kind(DOUBLE, lanes)
    if form.kind == "f":
        value = v.builder.bitcast(bits, _kind(ir.FloatType() if form.size == 4 else DOUBLE, lanes))
        return v.builder.fpext(value, double) if form.size == 4 else value
    return (v.builder.sitofp if form.kind == "i" else v.builder.uitofp)(bits, double)


def _key(v: Vectors, form: Form, bits: Any, lanes: int) -> Any:
    """As a signed integer of the voxel's width (16 bits for 8) in the order of the values; -0 and 0 are one."""
    builder, wide = v.builder, _kind(I64, lanes)
    extend = (lambda value: value) if form.size == 8 else lambda value: builder.sext(value, wide)
    if form.kind == "i":
        return extend(bits)
    narrow = ir.IntType(form.bits)
    if form.kind == "u":
        if form.size == 1:
            return builder.zext(bits, wide)
        return extend(builder.xor(bits, _same(narrow, 1 << (form.bits - 1), lanes)))
    scalar = ir.FloatType() if form.size == 4 else DOUBLE
    value = builder.fadd(builder.bitcast(bits, _kind(scalar, lanes)), _same(scalar, 0.0, lanes))
    bits = builder.bitcast(value, bits.type)
    sign = builder.ashr(bits, _same(narrow, form.bits - 1, lanes))
    return extend(builder.xor(bits, builder.lshr(sign, _same(narrow, 1, lanes))))


def _emit_numbers(v: Vectors, *arguments: Any) -> None:
    _emit_rows(v, _number, *arguments)


def _emit_keys(v: Vectors, *arguments: Any) -> None:
    _emit_rows(v, _key, *arguments)


numbers = Micro("numbers", 5, _emit_numbers)  # (form, source, step, count, target): to float64
keys = Micro("keys", 5, _emit_keys)  # likewise, to int64


def key_bits(dtype: np.dtype) -> int:
    """Bits of a key: 16, 32 or 64."""
    return max(16, 8 * dtype.itemsize)


def values_of(found: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What keys, an int64 array, stand for, as float64."""
    bits = key_bits(dtype)
    if dtype.kind == "i" or dtype.itemsize == 1:
        return found.astype(np.float64)
    narrow = found.astype(f"i{bits // 8}")
    if dtype.kind == "u":
        return (narrow.view(f"u{bits // 8}") ^ narrow.dtype.type(np.iinfo(narrow.dtype).min).view(f"u{bits // 8}")).astype(np.float64)
    return np.where(narrow < 0, narrow ^ np.iinfo(narrow.dtype).max, narrow).view(f"f{bits // 8}").astype(np.float64)


def finite_keys(dtype: np.dtype) -> tuple[int, int]:
    """The keys of the lowest and the highest number; those beyond are infinite or no numbers."""
    half = 1 << (key_bits(dtype) - 1)
    if dtype.kind != "f":
        return -half, half - 1
    highest = int(np.array(np.finfo(dtype).max, f"f{dtype.itemsize}").view(f"i{dtype.itemsize}"))
    return -highest - 1, highest
