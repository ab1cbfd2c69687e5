"""Memory as the kernels expect it: channels in blocks of 16, everything at multiples of 64 bytes.

A value in *NHWC16* is (H, W, blocks, 16) float32, its channels padded to blocks of 16: one vector of AVX-512, two of AVX2,
four of SSE and NEON.
"""

from __future__ import annotations

import numpy as np

from .simd import BLOCK

ALIGNMENT = 64  # bytes: a cache line and an AVX-512 vector


def blocks(channels: int) -> int:
    """Blocks of 16 that hold ``channels``."""
    return -(-channels // BLOCK)


def pad_blocks(array: np.ndarray, axis: int) -> np.ndarray:
    """Zeros behind ``axis`` up to the next multiple of 16."""
    missing = -array.shape[axis] % BLOCK
    if not missing:
        return array
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, missing)
    return np.pad(array, padding)


def place_lanes(matrix: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """(..., in, out) to (..., padded in, padded out): row i goes to lane ``lanes[i]`` of the concatenated inputs' blocks."""
    matrix = pad_blocks(matrix, -1)
    placed = np.zeros((*matrix.shape[:-2], blocks(int(lanes[-1]) + 1) * BLOCK, matrix.shape[-1]), matrix.dtype)
    placed[..., lanes, :] = matrix
    return placed


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes: NumPy promises 16, and unaligned weights cost 6 %."""
    copy = aligned_zeros(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned_zeros(size: int) -> np.ndarray:
    """``size`` zero bytes that start at a multiple of 64."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
