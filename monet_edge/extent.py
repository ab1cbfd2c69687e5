"""Is a scan larger than those that a model was trained on? Each of its slices may look familiar, and the whole was never seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import ScanError

# The three volumes of brain-flair-external have 1.8 times the slices of brain-flair's longest and are segmented well; a whole abdominal
# CT has 7 times those of pancreas-ct's, a head is 4 times as long as hippocampus's crops.
MARGIN = 2.0
LONGEST = 3000.0  # mm; a scanner takes a body of 2 m from head to foot


@dataclass(frozen=True)
class Extent:
    """How large a scan is, or the largest ones are.

    Attributes
    ----------
    slices : int
    mm : (float, float, float) or None
        From end to end along Z, H, W of the canonical volume; None where the spacing is unknown.
    """

    slices: int
    mm: tuple[float, float, float] | None = None

    def beyond(self, usual: Extent) -> str:
        """What is too large about this scan for a model whose largest training scans are ``usual``; empty if nothing is.

        Where both are known in millimetres these count: more slices of the same body are thinner ones.
        """
        if self.mm and usual.mm:
            if all(length <= MARGIN * most for length, most in zip(self.mm, usual.mm, strict=True)):
                return ""
            here, there = (" x ".join(f"{length:.0f}" for length in lengths) for lengths in (self.mm, usual.mm))
            return f"measures {here} mm, and none that it was trained on more than {there} mm"
        if self.slices <= MARGIN * usual.slices:
            return ""
        return f"has {self.slices} slices, and none that it was trained on more than {usual.slices}"


def extent_of(shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> Extent:
    """The extent of a canonical volume (Z, H, W), of which ``spacing`` is in mm along the same axes, None where it is unknown."""
    if spacing is None:
        return Extent(shape[0])
    depth, height, width = (count * mm for count, mm in zip(shape, spacing, strict=True))
    return Extent(shape[0], (depth, height, width))


def check_lengths(shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Refuse voxels of a size in mm that nothing in a scanner has, before a network goes over metres of them.

    Raises
    ------
    ScanError
        If a side of so many of them is longer than `LONGEST`.
    """
    longest = max(count * mm for count, mm in zip(shape, spacing, strict=True))
    if longest > LONGEST:
        found = f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{mm:.4g}' for mm in spacing)} mm are {longest / 1000:.3g} m long"
        raise ScanError(f"{found}, and no scan is longer than {LONGEST / 1000:g} m", "State what they measure with {spacing}.")


def largest(extents: Iterable[Extent]) -> Extent:
    """The most of every measure; without millimetres if they are unknown of any."""
    found = list(extents)
    known = [extent.mm for extent in found if extent.mm]
    depth, height, width = map(max, zip(*known, strict=True)) if len(known) == len(found) else (0.0, 0.0, 0.0)
    return Extent(max(extent.slices for extent in found), (depth, height, width) if depth else None)
