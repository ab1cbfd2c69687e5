"""One scan of a run: what is done of it, wherever that is, and what comes back. Picklable, and small: no volume travels."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from traceback import clear_frames

from .. import system
from ..formats import Header
from ..job import Job, check_job, make_folder
from ..model import Model, Progress
from ..options import Options
from ..pipeline import Outcome, run
from ..ways import Turn


@dataclass(frozen=True, slots=True)
class Task:
    """A scan to segment.

    Attributes
    ----------
    place : int
        In the run's jobs, from 0.
    job : Job
    options : Options
    anew : bool
        Its results are replaced, whatever the options say: a look at them has found that they may be.
    header : Header or None
        Of the scan, if it was asked for already.
    """

    place: int
    job: Job
    options: Options
    anew: bool = False
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a task.

    Attributes
    ----------
    task : Task
    became : Outcome or Exception
        An exception is what the scan failed of; its frames hold nothing any more.
    slices : int
        How many went through the network.
    host : str
        The machine that did it.
    """

    task: Task
    became: Outcome | Exception
    slices: int = 0
    host: str = ""


def prepare(task: Task, modality: str) -> Header:
    """The scan's header, its results' places having been looked at and their folders made.

    ``modality`` is the model's, in its own words: see `formats.peek`.

    Raises
    ------
    MonetError
        If it cannot be segmented.
    """
    if os.path.exists(task.job.scan):  # else its folder may be a mistyped one, and beside it lie its results
        for path in task.job.results:
            make_folder(path.parent)
    return task.header or check_job(task.job, _replacing(task), modality)


def _replacing(task: Task) -> Options:
    """Its options, those of a task that is done anew replacing what is there."""
    return replace(task.options, overwrite=True) if task.anew else task.options


def do(task: Task, model: Model, header: Header, progress: Progress | None = None, turn: Turn = nullcontext()) -> Ended:
    """Segment a task's scan, see `pipeline.run`.

    Raises
    ------
    Exception
        What it fails of.
    """
    slices = 0

    def count(done: int, total: int) -> None:
        nonlocal slices
        slices = total
        if progress is not None:
            progress(done, total)

    if task.anew:
        for shown in filter(None, (task.job.preview, task.job.report)):  # of another mask, if this run were killed before it draws
            with suppress(FileNotFoundError):
                shown.unlink()
    outcome = run(task.job, model, _replacing(task), header=header, progress=count, turn=turn)
    return Ended(task, outcome, slices, system.host())


def failed(task: Task, error: Exception) -> Ended:
    """A task whose error keeps its words only: the frames of an exception hold the volume, and one that holds itself waits for
    the collector.
    """
    within: BaseException | None = error
    while within is not None:
        clear_frames(within.__traceback__)
        within = within.__context__
    return Ended(task, error, 0, system.host())
