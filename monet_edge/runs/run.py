"""Do a run: one scan after the other, a failed one costing its own result only, and at the end the table and the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from traceback import clear_frames
from typing import Any

from ..job import Job
from ..model import Model, Progress
from ..pipeline import Outcome, run
from . import record, table
from .plan import Plan


def _unwatched(job: Job) -> AbstractContextManager[Progress | None]:
    return nullcontext()


def run_all(
    plan: Plan, model: Model, watch: Callable[[Job], AbstractContextManager[Progress | None]] = _unwatched
) -> Iterator[tuple[Job, Outcome | Exception]]:
    """Segment every scan of a plan; the table and the record are written when the last has been taken from the iterator.

    Parameters
    ----------
    plan : Plan
    model : Model
    watch : callable, optional
        ``watch(job)`` is entered around each scan, and gives what is called with the number of slices done, and of all.

    Yields
    ------
    Job, Outcome or Exception
        An exception is what the scan failed of; once the next scan is asked for, it holds no volume any more.

    Raises
    ------
    Exception
        Of a run of one scan.
    """
    entries: list[dict[str, Any]] = []
    for number, job in enumerate(plan.jobs, 1):
        became: Outcome | Exception
        try:
            with watch(job) as progress:
                became = run(job, model, plan.options, headers=plan.headers, progress=progress)
        except Exception as error:
            if len(plan.jobs) == 1:
                raise
            became = error
        entries.append(record.entry(number, job.scan if plan.options.with_identifiers else None, became))
        yield job, became
        if isinstance(became, Exception):
            _release(became)
    if plan.stats is not None:
        table.write_table(plan.stats, model.weights.name, entries, overwrite=plan.options.overwrite)
    if plan.run_record is not None:
        asked = {**asdict(plan.options), "report": plan.options.report is not None}  # no paths
        record.write(plan.run_record, model, asked, entries, overwrite=plan.options.overwrite)


def _release(error: BaseException | None) -> None:
    """Free what the frames of an error hold, such as a volume: one that holds the error itself would wait for the collector."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__
