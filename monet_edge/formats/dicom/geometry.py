"""From the slices of a series to one grid: in order along their normal, each where the grid has it, or told which is not.

Nothing is resampled. DICOM counts millimetres to left, posterior and superior, a Scan's affine to right, anterior, superior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .image import Slice

GAP_TOLERANCE = 0.01  # of the mean distance, by which one may differ: 0.05 mm of 5; positions rounded to 0.01 mm pass from 2 mm on
TILT_TOLERANCE = 0.01  # mm to the side for every mm along the normal, 0.6 degrees; what is within it the affine keeps
SAME = 0.1  # of the usual distance: slices nearer than this lie at the same place


def normal(one: Slice) -> np.ndarray:
    """The unit vector out of a slice's plane."""
    across = np.cross(one.orientation[:3], one.orientation[3:])
    return np.asarray(across / np.linalg.norm(across))


def heights(slices: Sequence[Slice]) -> np.ndarray:
    """Where every slice lies along the normal of the first, mm."""
    return np.array([one.position for one in slices]) @ normal(slices[0])


def levels(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices at every place along the normal, in order."""
    height = heights(slices)
    order = np.argsort(height, kind="stable")
    steps = np.diff(height[order])
    apart = steps[steps > 1e-3]
    least = SAME * float(np.median(apart)) if apart.size else 1e-3
    found: list[list[Slice]] = [[slices[order[0]]]]
    for step, index in zip(steps, order[1:], strict=True):
        if step > least:
            found.append([])
        found[-1].append(slices[index])
    return found


def problems(slices: Sequence[Slice]) -> list[str]:
    """What keeps slices in order, no two at one place, from being one grid."""
    if len(slices) == 1:
        return ["a single slice; expected a volume"]
    height, place = heights(slices), np.array([one.position for one in slices])
    whole = height[-1] - height[0]
    aside = place - place[0] - np.outer(height - height[0], normal(slices[0]))
    steps = np.diff(height)
    return [*_tilt(slices, aside, whole), *_gaps(slices, steps)]


def _tilt(slices: Sequence[Slice], aside: np.ndarray, whole: float) -> list[str]:
    lean = float(np.linalg.norm(aside[-1])) / whole
    if lean > TILT_TOLERANCE:
        return [f"the gantry was tilted, by {np.degrees(np.arctan(lean)):.1f} degrees: its slices are shifted against each other"]
    line = np.linalg.norm(aside - np.outer(np.linspace(0, 1, len(slices)), aside[-1]), axis=1)
    worst = int(np.argmax(line))
    if line[worst] > TILT_TOLERANCE * whole / (len(slices) - 1):
        return [f"{slices[worst]} lies {line[worst]:.2f} mm beside the others"]
    return []


def _gaps(slices: Sequence[Slice], steps: np.ndarray) -> list[str]:
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - steps.mean()) > GAP_TOLERANCE * steps.mean())
    if not odd.size:
        return []
    wide = odd[np.argmax(np.abs(steps[odd] - usual))]
    between = f"between {slices[wide]} and {slices[wide + 1]}"
    holes = np.rint(steps / usual)
    if (np.abs(steps / usual - holes) <= GAP_TOLERANCE).all() and (holes > 1).any():
        missing = int((holes - 1).sum())
        words = "1 slice is" if missing == 1 else f"{missing} slices are"
        return [f"{words} missing: {steps[wide]:.3f} mm {between}, {usual:.3f} mm elsewhere"]
    return [f"unequal distances of {steps.min():.3f} to {steps.max():.3f} mm, the oddest {between}; {usual:.3f} mm is usual"]


def affine(slices: Sequence[Slice]) -> np.ndarray:
    """Column, row and slice to world (right, anterior, superior), mm: (4, 4) float64, of slices without `problems`."""
    first, last = np.array(slices[0].position), np.array(slices[-1].position)
    matrix = np.eye(4)
    matrix[:3, 0] = np.multiply(slices[0].orientation[:3], slices[0].spacing[1])
    matrix[:3, 1] = np.multiply(slices[0].orientation[3:], slices[0].spacing[0])
    matrix[:3, 2] = (last - first) / (len(slices) - 1)
    matrix[:3, 3] = first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
