"""Between planes, (C, H, W), and pixels: the way in, the way out, and the two convolutions that spare it.

A first convolution of few channels reads the image's planes, which have a border of zeros as wide as its padding; a last 1x1
convolution to one channel writes its plane.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from llvmlite import ir

from .finish import ACTIVATIONS, activate, finish
from .gemm import pack_matrix, pad_blocks
from .memory import copy, least, peek, scatter, zero
from .simd import BLOCK, BYTES, I32, Isa, Micro, Vectors


def _emit_planes(v: Vectors, source: Any, offsets: Any, taps: Any, weights: Any, sums: Any, group: Any, columns: Any, count: Any) -> None:
    """sums (columns / 16, count, 16) of ``count`` pixels in a row; tap k of pixel x is the float at source + offsets[k] + 4 x.

    Works on whole tiles: reads and writes up to a tile beyond ``count``.
    """
    builder, lanes = v.builder, v.isa.lanes
    rows, width = v.isa.narrow
    vectors = width // lanes
    source, offsets, weights, sums = (v.pointer(a) for a in (source, offsets, weights, sums))

    def panel(column: Any, _: list[Any]) -> list[Any]:
        part = v.at(weights, builder.mul(column, v.times(taps, 4)))
        out = v.at(sums, builder.mul(builder.sdiv(column, v.integer(BLOCK)), group))
        out = v.at(out, v.times(builder.srem(column, v.integer(BLOCK)), 4))

        def tile(x: Any, _: list[Any]) -> list[Any]:
            begin = v.at(source, v.times(x, 4))

            def tap(k: Any, totals: list[Any]) -> list[Any]:
                at = v.at(begin, v.load_integer(offsets, v.times(k, 8)))
                factors = [v.load(part, builder.add(v.times(k, width * 4), v.integer(i * lanes * 4))) for i in range(vectors)]
                totals = list(totals)
                for row in range(rows):
                    value = v.load_splat(at, row * 4)
                    for i in range(vectors):
                        totals[row * vectors + i] = v.fma(value, factors[i], totals[row * vectors + i])
                    if vectors > 1 and (row % 3 == 2 or row == rows - 1):
                        some = slice((row - row % 3) * vectors, (row + 1) * vectors)
                        totals[some] = v.pin(totals[some])
                return totals

            for index, total in enumerate(v.loop(taps, 1, [v.constant(0.0)] * (rows * vectors), tap)):
                row, i = divmod(index, vectors)
                v.store(total, v.at(out, v.times(x, BYTES)), row * BYTES + i * lanes * 4)
            return []

        v.loop(count, rows, [], tile)
        return []

    v.loop(columns, width, [], panel)


def _emit_dot(v: Vectors, source: Any, pixel: Any, blocks: Any, weights: Any, bias: Any, activation: Any, target: Any, count: Any) -> None:
    """target[x] = act(pixel x . weights + bias) for the ``count`` pixels of a row, a multiple of the lanes."""
    builder, lanes = v.builder, v.isa.lanes
    source, weights, target = v.pointer(source), v.pointer(weights), v.pointer(target)
    constant = v.load_splat(v.pointer(bias))

    def pixels(x: Any, _: list[Any]) -> list[Any]:
        begin = v.at(source, builder.mul(x, pixel))

        def vector(i: Any, totals: list[Any]) -> list[Any]:
            offset = v.times(i, lanes * 4)
            factor = v.load(weights, offset)
            lines = [v.at(v.at(begin, v.times(pixel, row)), offset) for row in range(lanes)]
            return [v.fma(v.load(line), factor, total) for line, total in zip(lines, totals, strict=True)]

        totals = v.loop(v.times(blocks, v.parts), 1, [v.constant(0.0)] * lanes, vector)
        while len(totals) > 1:  # sum the lanes of all vectors: neighbours, then neighbours of sums, which ends in order
            totals = [v.add_neighbours(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
        logits = v.add(totals[0], constant)
        at = v.at(target, v.times(x, 4))
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.trunc(activation, I32), done)
        for index, name in enumerate(ACTIVATIONS):
            block = builder.append_basic_block(name)
            switch.add_case(ir.Constant(I32, index), block)
            builder.position_at_end(block)
            v.store(activate(v, name, logits), at)
            builder.branch(done)
        builder.position_at_end(done)
        return []

    v.loop(count, lanes, [], pixels)


planes = Micro("planes", 8, _emit_planes)
dot = Micro("dot", 8, _emit_dot)


def conv_planes(s):  # type: ignore[no-untyped-def]  # Numba infers
    """Output rows [y0, y1) of a convolution with stride 1 from the image, ``other``, whose border is its padding."""
    group = s.strip * BYTES
    for y in range(s.y0, s.y1):
        for x in range(0, s.width, s.strip):
            count = least(s.strip, s.width - x)
            planes(s.other + y * s.other_row + x * 4, s.phases, s.phase_count, s.weights, s.sums, group, s.target_blocks * BLOCK, count)
            target = s.target + y * s.target_row + x * s.target_pixel
            for block in range(s.target_blocks):
                finish(s.finish, s.sums + block * group, 0, BYTES, target + block * BYTES, 0, s.target_pixel,
                       target, 0, 0, s.parameters + block * 3 * BYTES, 1, count)  # fmt: skip


def conv_dot(s):  # type: ignore[no-untyped-def]
    """Output rows [y0, y1) of a 1x1 convolution to one channel, into the plane ``other``."""
    pixel = peek(s.sources + 16)
    for y in range(s.y0, s.y1):
        line, out = peek(s.sources) + y * peek(s.sources + 8), s.other + y * s.other_row
        whole = s.width // BLOCK * BLOCK
        dot(line, pixel, s.source_blocks, s.weights, s.parameters, s.finish // 4, out, whole)
        if whole < s.width:  # the last pixels from a copy: 16 of them would reach beyond the row
            copy(line + whole * pixel, BYTES, s.gathered, BYTES, (s.width - whole) * s.source_blocks)
            dot(s.gathered, pixel, s.source_blocks, s.weights, s.parameters, s.finish // 4, s.tile, BLOCK)
            scatter(s.tile, 4, out + whole * 4, 4, s.width - whole)


def from_planes(s):  # type: ignore[no-untyped-def]
    """The image, (C, H, W) at ``other`` with planes ``other_pixel`` bytes apart, to pixels; the padding is zero."""
    for y in range(s.y0, s.y1):
        target = s.target + y * s.target_row
        zero(target, BYTES, s.width * s.target_blocks)
        for channel in range(s.channels):
            scatter(s.other + channel * s.other_pixel + y * s.other_row, 4, target + channel * 4, s.target_pixel, s.width)


def to_planes(s):  # type: ignore[no-untyped-def]
    """A value to (C, H, W) at ``other``."""
    for y in range(s.y0, s.y1):
        line = peek(s.sources) + y * peek(s.sources + 8)
        for channel in range(s.channels):
            scatter(line + channel * 4, peek(s.sources + 16), s.other + channel * s.other_pixel + y * s.other_row, 4, s.width)


def pack_planes(weight: np.ndarray, isa: Isa) -> np.ndarray:
    """(out, in, k, k) to panels of the narrow tile's columns, in each (in * k * k, columns)."""
    matrix = pad_blocks(weight.reshape(len(weight), -1).T, 1)
    return pack_matrix(matrix, replace(isa, wide=isa.narrow, pairs=False))


def plane_offsets(channels: int, kernel: int, dilation: int, plane: int, row: int) -> np.ndarray:
    """Bytes from a pixel's first tap, in the bordered image, to each: in the order of `pack_planes`."""
    c, y, x = np.meshgrid(np.arange(channels), np.arange(kernel), np.arange(kernel), indexing="ij")
    return (c * plane + y * dilation * row + x * dilation * 4).ravel().astype(np.int64)
