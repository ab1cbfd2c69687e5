"""Colours of labels: the same in every picture, page and file."""

from __future__ import annotations

from collections.abc import Sequence

from ..sides import rows, side

# Apart from each other also for colour-blind eyes, and none of them grey: they are drawn over a grey scan.
COLOURS = (
    *((255, 94, 58), (64, 196, 255), (255, 214, 64), (80, 220, 140)),
    *((214, 130, 255), (255, 150, 200), (170, 230, 90), (255, 160, 40)),
)
PALER = 0.5  # share of white in the colour of a right side

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255


def colours(names: Sequence[str]) -> list[Colour]:
    """The colours of labels 1, 2, ...: eight, and then again. Both sides of a structure have the same, the right one paler."""
    found = [COLOURS[0]] * len(names)
    for row, (_, labels) in enumerate(rows(names)):
        colour = COLOURS[row % len(COLOURS)]
        for label in labels:
            paler = len(labels) > 1 and side(names[label - 1])[0] == "right"
            found[label - 1] = _paler(colour) if paler else colour
    return found


def _paler(colour: Colour) -> Colour:
    red, green, blue = (round((1 - PALER) * part + PALER * 255) for part in colour)
    return red, green, blue
