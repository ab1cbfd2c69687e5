"""The record that a kernel reads: one step of a program, all 64-bit integers (addresses, sizes, counts).

`plan` writes steps, kernels read them, and both sides use these names, so a program can be printed as a table.

Values live in *pixel layout*: (H, W, blocks, 16) float32, the channels padded to blocks of 16: one vector of
AVX-512, two of AVX2, four of SSE and NEON.
"""

from __future__ import annotations

import numpy as np

STEP = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kernel",  # address of the compiled kernel
            "y0", "y1",  # the output rows to make
            "height", "width",  # of the output
            "in_height", "in_width",  # of the inputs
            "channels",  # of the output, where the padding matters
            "sources", "source_blocks",  # address of a (blocks, 3) table: base, row, pixel, in bytes
            "target", "target_row", "target_pixel", "target_blocks",
            "other", "other_row", "other_pixel",  # second operand: residual, summand or factor; or planes, with steps between them
            "weights", "parameters",  # packed weights; (blocks, 3, 16) bias, scale, shift
            "finish",  # what is done to the sums, see finish.kind
            "phases", "phase_count",  # a table of the kernel's own: see gemm.py, filters.py, planes.py
            "in_step", "out_step",  # of a convolution, of a transposed one
            "places", "tiles", "dilation",  # Winograd, see winograd.py
            "window",  # of pooling; channels of a factor
            "strip",  # pixels or tiles worked on at a time
            "gathered", "sums", "tile",  # workspace of the thread
            # where threads share a slice: address of the step's state; of other steps' states, side by side, that must be done; how many
            "claim", "needs", "need_count",
        )
    ]
)  # fmt: skip


def offset(field: str) -> int:
    """Bytes from the start of a step to one of its fields."""
    return STEP.names.index(field) * 8 if STEP.names else 0
