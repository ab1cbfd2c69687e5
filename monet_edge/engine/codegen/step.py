"""The records that kernels read. A step of a program is one; the tables it points to are arrays of others.

All fields are 64-bit integers: addresses, sizes, counts. Python writes a record by the names of its fields, a kernel reads
them by the same names: ``s.target_row`` of its step, ``source_row(s.sources, block)`` of a table.

Every algorithm has a step of its own: `HEAD`, which the interpreter and the bands read, then what its kernel needs. All
steps are equally large, so that a program is one array.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .simd import Micro, Vectors

ROOM = 35  # fields of a step at most: im2col has as many
HEAD = (
    "kernel",  # address of the compiled kernel
    "state",  # where threads share a slice: address of 0 (to be done), 1 (a thread has it) or 2 (done); else 0
    "dependencies", "dependency_count",  # address of other steps' states, side by side, that must be 2 before this one begins
    "y0", "y1",  # the output rows to make
)  # fmt: skip
TARGET = ("width", "target", "target_row", "target_pixel", "target_blocks")  # the value made, in NHWC16: see `layout`
SOURCES = ("sources", "source_blocks")  # the values read: the table `SOURCE`, a row for each channel block


def step(*fields: str) -> np.dtype:
    """The record of an algorithm's steps: `HEAD`, then ``fields``."""
    names = (*HEAD, *fields)
    if len(names) > ROOM:
        raise ValueError(f"a step has room for {ROOM} fields, found {len(names)}: {', '.join(names)}")
    return np.dtype({"names": names, "formats": [np.int64] * len(names), "itemsize": 8 * ROOM})


STEP = step()  # any step, as far as all are alike


def offset(field: str) -> int:
    """Bytes from the start of a step to a field of `HEAD`."""
    return 8 * HEAD.index(field)


def table(*columns: str) -> np.dtype:
    """The record of a table's rows."""
    return np.dtype([(column, np.int64) for column in columns])


def readers(name: str, rows: np.dtype) -> tuple[Micro, ...]:
    """Micro-kernels ``name_column(address, row)`` that read one number of a table."""
    return tuple(
        Micro(f"{name}_{column}", 2, partial(_emit_load64, stride=rows.itemsize, offset=8 * index), inline=True)
        for index, column in enumerate(rows.names or ())
    )


def _emit_load64(v: Vectors, address: Any, row: Any, stride: int, offset: int) -> Any:
    return v.load_integer(v.at(v.pointer(address), v.times(row, stride)), offset)


SOURCE = table("base", "row", "pixel")  # address of pixel (0, 0) of a channel block; bytes to the next row, to the next pixel
source_base, source_row, source_pixel = readers("source", SOURCE)
