"""Left and right in the names of labels: which of them are the two sides of one structure. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAMED = 5  # structures that a line has room for, at most
_SIDE = re.compile(r"(left|right)[ _-]+(?=\S)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def side(name: str) -> tuple[str, str]:
    """The side that a label's name begins with, "left", "right" or "", and the structure: the rest of it."""
    found = _SIDE.match(name)
    return (found[1].lower(), name[found.end() :]) if found else ("", name)


def mirrored(names: Sequence[str]) -> list[int]:
    """Which label every label 0, 1, 2, ... (0 is background) becomes in a mirrored patient: the two sides of a structure change places.

    Parameters
    ----------
    names : sequence of str
        Of the labels 1, 2, ...
    """
    sided = [side(name) for name in names]
    places = {found: label for label, found in enumerate(sided, 1)}
    return [0, *(places.get((_OTHER[at], structure), label) if at else label for label, (at, structure) in enumerate(sided, 1))]


def rows(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Labels 1, 2, ... as a legend has them, under a name: both sides of a structure share a row where one label follows the other.

    The ventricles of a heart, with the myocardium between them, are two structures.
    """
    found: dict[tuple[bool, str], list[int]] = {}
    exchanged = mirrored(names)
    for label, name in enumerate(names, 1):
        both = abs(exchanged[label] - label) == 1
        found.setdefault((both, side(name)[1] if both else name), []).append(label)
    return [(structure, labels) for (_, structure), labels in found.items()]


def structures(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The same rows for a line of text, where a name says which sides there are: "left/right thalamus"."""
    found = []
    for structure, labels in rows(names):
        both = "/".join(side(names[label - 1])[0] for label in labels)
        found.append((f"{both} {structure}" if len(labels) > 1 else structure, labels))
    return found
