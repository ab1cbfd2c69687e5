"""Does a mask show what the label maps of the training show? For models that have seen no scan, which one could be held against.

A network that knows heads only finds pieces of them in any scan. Their sizes give it away: of a head each structure is about as large
as in other heads; of an abdomen, a knee, six slices, or voxels of a false size most are not. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ModelError

# Of 26 structures none was strange in 10 heads of brain-t1, 5 of brain-contrasts and 3 of brain-flair-external; 18 or more in abdomens,
# hearts and crops, 10 or 14 in heads of which a false thickness of slices was stated.
MARGIN = 2.0  # times less than the least, or more than the most of the training, is strange
SHARE = 0.25  # of the structures may be strange: a tumour, large ventricles, the lowest slices cut off
MOST = 1e6  # ml
_NAMED = 2  # of them, in a warning


def strange(known: Mapping[str, Sequence[float]], ml: Mapping[str, float]) -> str:
    """What is wrong with the sizes of a scan's structures; empty if nothing is.

    Parameters
    ----------
    known : mapping
        As `check` returns it.
    ml : mapping of str to float
        Of every label of the mask.
    """
    odd = [name for name, (least, most) in known.items() if not least / MARGIN <= ml[name] <= MARGIN * most]
    if len(odd) <= SHARE * len(known):
        return ""
    words = ", ".join(f"{name} {ml[name]:.3g} ml instead of {known[name][0]:.3g} to {known[name][1]:.3g}" for name in odd[:_NAMED])
    return f"of {len(known)} structures {len(odd)} are far from any size in the training ({words}{', ...' if len(odd) > _NAMED else ''})"


def check(record: Any, labels: Sequence[str]) -> dict[str, tuple[float, float]]:
    """How large every label is in the training's label maps, ml: the least and the most, as it was given, or why it is none.

    Parameters
    ----------
    record : Any
        From JSON: for every label a list of two numbers, or an empty dict.
    labels : sequence of str
        Of the model.

    Raises
    ------
    ModelError
        Saying what is wrong.
    """
    if not isinstance(record, Mapping) or (record and record.keys() != {*labels}):
        raise ModelError(f"sizes of structures: there must be a JSON object with each of the labels {', '.join(labels)}")
    for label, sizes in record.items():
        numbers = isinstance(sizes, list) and len(sizes) == 2 and all(type(ml) in (int, float) for ml in sizes)
        if not numbers or not 0 <= sizes[0] <= sizes[1] < MOST:
            raise ModelError(f"size of {label!r}: there must be the least and the most ml, found {sizes!r:.120}")
    return {label: (sizes[0], sizes[1]) for label, sizes in record.items()}
