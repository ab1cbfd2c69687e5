"""A convolution's filters at the points of Winograd, in double precision, when a model is loaded; and what to multiply with them.

Three convolutions go by the same 36 positions of 6x6 tiles. One of 3x3 with stride 1 as it is. The others are made of 2x2
convolutions, which are padded to 3x3 with zeros first or last; a filter that starts with a zero has a zero at the point 0, one
that ends with one has it at infinity, and those products are left out: 25 of 36 remain.

- A transposed one of 4x4 with stride 2: each of the four *phases* of its output is a 2x2 convolution of its input.
- One of 4x4 with stride 2: its output is the sum of four 2x2 convolutions of the input's even and odd rows and columns.

Products are a table (n, 4) of int64 that `conv_winograd` goes down, once a phase: position, first block of the input, step to
the next block, number of blocks. The weights of each follow each other in its order.
"""

from __future__ import annotations

import numpy as np

from .gemm import pack_matrix, place_lanes
from .simd import BLOCK, Isa
from .winograd import P, Q

# G: a filter's values at the points, scaled so that the transforms of inputs and outputs cost the fewest operations
_SCALES = ((P, 2 * P * (P**2 - Q**2)), (Q, 2 * Q * (Q**2 - P**2)))
G = np.array([[1, 0, 0], *([1 / n, sign * p / n, p * p / n] for p, n in _SCALES for sign in (1, -1)), [0, 0, 1]])

Packed = tuple[np.ndarray, np.ndarray]  # products (n, 4), weights


def pack_winograd(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> Packed:
    """(out, in, 3, 3), stride 1: 36 products with all blocks."""
    matrices = place_lanes(_transform(weight), lanes)
    blocks = matrices.shape[1] // BLOCK
    return np.array([(position, 0, 1, blocks) for position in range(36)]), pack_matrix(matrices, isa).ravel()


def pack_transposed(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> Packed:
    """(in, out, 4, 4), stride 2, padding 1: four phases of 25 products.

    Output row 2 i + fy is a sum over input rows i - 1, i, i + 1: taps (3, 1, -) for fy = 0, (-, 2, 0) for fy = 1.
    """
    grid = np.arange(36).reshape(6, 6)
    products, packed = [], []
    for fy in range(2):
        for fx in range(2):
            filters = _padded(weight.swapaxes(0, 1), ((3, 1), (2, 0))[fy], ((3, 1), (2, 0))[fx], fy, fx)
            positions = grid[fy : fy + 5, fx : fx + 5].ravel()
            matrices = place_lanes(_transform(filters)[positions], lanes)
            products += [(position, 0, 1, matrices.shape[1] // BLOCK) for position in positions]
            packed.append(pack_matrix(matrices, isa).ravel())
    return np.array(products), np.concatenate(packed)


def pack_strided(weight: np.ndarray, lanes: np.ndarray, isa: Isa) -> Packed:
    """(out, in, 4, 4), stride 2, padding 1: 36 products with the blocks that count in each.

    Output row i is a sum over rows i, i + 1 of the even ones, taps (-, 1, 3), and rows i - 1, i of the odd ones, taps (0, 2, -).
    The input's blocks come in the order (odd row, block, odd column), so that those of the even or odd rows are side by side and
    those of the even or odd columns are two apart: what has a zero at a position is never read.
    """
    halves = [_transform(_padded(weight, ((1, 3), (0, 2))[py], ((1, 3), (0, 2))[px], 1 - py, 1 - px)) for py in range(2) for px in range(2)]
    placed = np.stack([place_lanes(half, lanes) for half in halves])  # (4, 36, lanes, out)
    blocks, out = placed.shape[2] // BLOCK, placed.shape[3]
    ordered = placed.reshape(2, 2, 6, 6, blocks, BLOCK, out).transpose(2, 3, 0, 4, 1, 5, 6)  # (6, 6, odd row, block, odd column, 16, out)
    products, packed = [], []
    for i in range(6):
        rows = slice(int(i == 0), 1 + (i < 5))  # at the point 0 only the odd rows count, at infinity only the even ones
        for j in range(6):
            columns = slice(int(j == 0), 1 + (j < 5))
            chosen = ordered[i, j, rows, :, columns]
            first, step = rows.start * 2 * blocks + columns.start, 1 if chosen.shape[2] == 2 else 2
            products.append((i * 6 + j, first, step, chosen[..., 0, 0].size))
            packed.append(pack_matrix(chosen.reshape(-1, out), isa).ravel())
    return np.array(products), np.concatenate(packed)


def _padded(weight: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], down: int, right: int) -> np.ndarray:
    """The taps ``rows`` x ``columns`` of (out, in, 4, 4) as 3x3 filters, after ``down`` rows and ``right`` columns of zeros."""
    filters = np.zeros((*weight.shape[:2], 3, 3))
    filters[:, :, down : down + 2, right : right + 2] = weight[:, :, rows][:, :, :, columns]
    return filters


def _transform(filters: np.ndarray) -> np.ndarray:
    """(out, in, 3, 3) to (36, in, out) float32: G g G', in float64."""
    rows = np.einsum("ia,ocab->ibco", G, filters.astype(np.float64))  # in two steps, which is four times less work than in one
    return np.einsum("jb,ibco->ijco", G, rows).reshape(36, *filters.shape[1::-1]).astype(np.float32)
