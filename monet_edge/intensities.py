"""What the intensities of one volume are like: its background, its foreground, their mean, spread and quantiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .volume import Voxels

QUANTILES = (0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5)


@dataclass(frozen=True)
class Statistics:
    """What one volume's intensities are like, in the scan's scaled units.

    Attributes
    ----------
    background : float
        The minimum if more than 10 % of the voxels have it (a z-scored, skull-stripped volume) or nothing, or no more than
        0.5 % of the voxels, lies above 0 (a part of a CT that is all air and fat); else 0.
    floor : float
        Foreground lies above it: background + 3 % of (99.5th percentile - background).
    mean, sd : float
        Of the foreground.
    quantiles : tuple of float
        Of the foreground, at `QUANTILES` percent.
    foreground : float
        Share of all voxels.
    nonfinite : int
        Voxels that are NaN or infinite; they count as background.
    """

    background: float
    floor: float
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    foreground: float
    nonfinite: int

    @property
    def constant(self) -> bool:
        """True if there is no foreground, or all of it has one intensity."""
        return self.sd == 0


def count(pieces: Iterable[np.ndarray], threads: int = 1) -> np.ndarray | None:
    """What `measure` counts first, of a volume whose voxels are still coming, see `Voxels.counts`; None if none came."""
    from .engine import voxels  # here: it brings LLVM, which whoever only reads a record does not need

    total = None
    for piece in pieces:
        found = voxels.count(piece, threads)
        total = found if total is None else total + found
    return total


def measure(volume: Voxels, threads: int = 1) -> Statistics:
    """Measure a volume, of which no copy is made.

    The same voxels give the same bits in any axis order, and with any number of threads: all comes from counts and sums of integers.

    Parameters
    ----------
    volume : Voxels
        Of any shape.
    threads : int
        That count.

    Returns
    -------
    Statistics
    """
    from .engine.voxels import Sorted  # here: it brings LLVM, which whoever only reads a record does not need

    slope, inter, size = volume.slope, volume.inter, volume.stored.size
    order, sign = Sorted(volume.stored, threads, volume.counts), -1 if slope < 0 else 1
    nonfinite, last = size - order.count, order.count - 1
    if last < 0:
        return Statistics(0.0, 0.0, 0.0, 0.0, (0.0,) * len(QUANTILES), 0.0, nonfinite)

    def scaled(key: int) -> float:
        return order.value(sign * key) * slope + inter

    def select(*ranks: int) -> list[int]:
        """The voxels' keys by their ranks among the scaled intensities, in whose order ``sign * key`` is."""
        return [sign * key for key in order.select([last - rank if slope < 0 else rank for rank in ranks])]

    first, bright_key, end = select(0, int(0.995 * last), last)
    lowest, bright = scaled(first), scaled(bright_key)
    alike = sorted((sign * first, sign * (_above(lowest, scaled, first, end) - 1)))  # the keys of the minimum
    shared = order.rank(alike[1] + 1) - order.rank(alike[0])
    below = bright < 0 or scaled(end) <= 0  # then 0 is no background that anything would lie above
    background = lowest if shared > 0.1 * order.count or below else 0.0
    floor = background + 0.03 * (bright - background)
    start = _above(floor, scaled, first, end)
    if start > end:
        return Statistics(background, floor, background, 0.0, (background,) * len(QUANTILES), 0.0, nonfinite)
    seen = order.moments(*sorted((sign * start, sign * end)))
    keys = select(*(order.count - seen.count + round(q / 100 * (seen.count - 1)) for q in QUANTILES))
    mean, sd = seen.mean * slope + inter, float(np.sqrt(seen.variance)) * abs(slope)
    return Statistics(background, floor, mean, sd, tuple(map(scaled, keys)), seen.count / size, nonfinite)


def _above(limit: float, scaled: Callable[[int], float], first: int, end: int) -> int:
    """The first key whose intensity lies above a limit; end + 1 if none does. There may be more keys than `bisect` can count."""
    end += 1
    while first < end:
        middle = (first + end) // 2
        first, end = (first, middle) if scaled(middle) > limit else (middle + 1, end)
    return first
