"""Colours of labels: the same in every picture, page and file."""

from __future__ import annotations

# Apart from each other also for colour-blind eyes, and none of them grey: they are drawn over a grey scan.
COLOURS = (
    *((255, 94, 58), (64, 196, 255), (255, 214, 64), (80, 220, 140)),
    *((214, 130, 255), (255, 150, 200), (170, 230, 90), (255, 160, 40)),
)


def colour(label: int) -> tuple[int, int, int]:
    """Red, green, blue (0 to 255) of a label, counted from 1; after eight they repeat."""
    return COLOURS[(label - 1) % len(COLOURS)]
