"""Colours of labels: the same in every picture, page and file."""

from __future__ import annotations

from collections.abc import Sequence

from ..sides import rows, side

# None of them grey or dark: they are drawn over a grey scan on black. The first eight are apart from each other for colour-blind eyes, too.
# Each further one was the furthest, of all that are left, from those before it and their paler sides: of the 26 labels of a brain no
# two are nearer than 13 (CIE 1976), of the whole table with its paler sides 8; 2 can just be told apart.
COLOURS = (
    (255, 94, 58), (64, 196, 255), (255, 214, 64), (80, 220, 140), (214, 130, 255), (255, 150, 200), (170, 230, 90),
    (255, 160, 40), (90, 105, 180), (180, 75, 90), (225, 0, 30), (90, 150, 75), (45, 150, 255), (180, 90, 165),
    (255, 165, 120), (15, 165, 120), (165, 135, 210), (225, 0, 210), (255, 90, 120), (210, 0, 135), (120, 240, 210),
    (210, 210, 0), (45, 240, 225), (240, 15, 0), (150, 165, 90), (90, 210, 60), (30, 135, 60), (135, 120, 225),
)  # fmt: skip
PALER = 0.5  # share of white in the colour of a right side

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255


def colours(names: Sequence[str]) -> list[Colour]:
    """The colours of labels 1, 2, ...: after the last the first again. Both sides of a structure have one hue, the right one paler."""
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
