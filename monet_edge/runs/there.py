"""Which results of a run are there already: whole, ours, and of the same model and options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import OutputError
from ..formats import ENDINGS, Seal, seal
from ..job import Job


class State(Enum):
    """What there is of a scan's results."""

    NOTHING = "nothing is there, or something that is none of ours: the scan's turn will tell"
    DAMAGED = "ours, but not all of them, or not whole"
    OTHER = "ours, of another model or other options"
    DONE = "all of them, whole, of this model and these options"


@dataclass(frozen=True)
class There:
    """What a look at all results found, each scan by its place in the run's jobs.

    Attributes
    ----------
    done : frozenset of int
    anew : frozenset of int
        Whose results are replaced: damaged ones, and those of another model or other options where that was asked for.
    other : int
        How many of ``anew`` are of another model or other options.
    """

    done: frozenset[int] = frozenset()
    anew: frozenset[int] = frozenset()
    other: int = 0


def look(jobs: Sequence[Job], key: str, *, overwrite: bool) -> There:
    """Look at the results of every scan of a run; a tenth of a millisecond each on a local disk.

    Parameters
    ----------
    jobs : sequence of Job
    key : str
        Of the model and options, see `Options.key`.
    overwrite : bool
        Results of another model or other options are done anew, rather than refused.

    Raises
    ------
    OutputError
        If there are such and they may not be replaced.
    """
    places: dict[State, list[int]] = {state: [] for state in State}
    for place, job in enumerate(jobs):
        places[state(job, key)].append(place)
    others = places[State.OTHER]
    if others and not overwrite:
        raise OutputError(
            f"{jobs[others[0]].mask}{f' and {len(others) - 1:,} more' if len(others) > 1 else ''}: of another model or other options",
            "Say {overwrite} to do these anew, or choose another {output}.",
        )
    return There(frozenset(places[State.DONE]), frozenset(places[State.DAMAGED] + others), len(others))


def state(job: Job, key: str) -> State:
    """What there is of one scan's results."""
    found: list[Seal | None] = []
    missing = False
    for path in job.results:
        size = _size(path)
        missing = missing or not size
        if size and path.name.endswith(ENDINGS):
            sealed = seal(path)
            if sealed is None:
                return State.NOTHING
            found.append(sealed)
        elif size == 0:
            found.append(None)  # a kill on a file system without links leaves it so: see `files`
    if not found:
        return State.NOTHING
    if any(sealed is not None and sealed.key != key for sealed in found):
        return State.OTHER
    return State.DAMAGED if missing or not all(sealed is not None and sealed.whole for sealed in found) else State.DONE


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
