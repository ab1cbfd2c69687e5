"""Do a run: every scan, a failed one costing its own result only, its records as it goes, and at the end the table and the record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Protocol

from ..about import __version__
from ..job import Job
from ..pipeline import Outcome
from ..weights import Weights
from . import journal, record, table
from .here import Watch
from .plan import Plan
from .task import Ended, Task


class Way(Protocol):
    """Where and how tasks are done: `here.Here`, `cluster.Cluster`.

    Attributes
    ----------
    weights : Weights
        Of the model that does them.
    threads : int
        How many slices run at a time, all scans together.
    """

    weights: Weights
    threads: int

    def one(self, task: Task, watch: Watch | None = None) -> Ended:
        """Do one task, the only one of its run."""
        ...

    def run(self, tasks: Iterable[Task], watch: Watch | None = None) -> Iterator[Ended]:
        """Do tasks, taken one by one as there is room for them, and give each back as it ends; closed before its end, it leaves off."""
        ...


def run_all(plan: Plan, way: Way, watch: Watch | None = None) -> Iterator[tuple[Job, Outcome | Exception]]:
    """Segment every scan of a plan; the table and the record are written when the last has been taken from the iterator.

    Parameters
    ----------
    plan : Plan
    way : Way
    watch : callable, optional
        Called with a task, the number of its slices done, and of all, from any thread.

    Yields
    ------
    Job, Outcome or Exception
        An exception is what the scan failed of; it holds no volume any more.
    """
    unnamed = {name: getattr(plan.options, name) is not None for name in ("report", "series")}  # no paths, no UIDs
    asked = {**asdict(plan.options), **unnamed}
    entries: dict[int, dict[str, Any]] = {}
    kept = plan.stats is not None or plan.run_record is not None

    def name(job: Job) -> Any:
        return job.scan if plan.options.with_identifiers else None

    with ExitStack() as stack:
        lines = None if plan.records is None else stack.enter_context(journal.opened(plan.records, plan.base))
        if lines is not None:
            lines.begin(_beginning(plan, way.weights, asked))
        for ended in _all(plan, way, watch):
            place, job = ended.task.place, ended.task.job
            if lines is not None:
                lines.end(ended)
            if kept:
                entries[place] = record.entry(place + 1, name(job), ended.became)
            yield job, ended.became
    if kept:
        entries |= {place: record.passed_over(place + 1, name(plan.jobs[place])) for place in plan.there.done}
    rows = [entries[place] for place in sorted(entries)]
    if plan.stats is not None:
        table.write_table(plan.stats, way.weights.name, rows, overwrite=plan.options.overwrite)
    if plan.run_record is not None:
        record.write(plan.run_record, way.weights, way.threads, asked, rows, overwrite=plan.options.overwrite)


def _all(plan: Plan, way: Way, watch: Watch | None) -> Iterator[Ended]:
    tasks = (
        Task(place, job, plan.options, place in plan.there.anew, plan.header)
        for place, job in enumerate(plan.jobs)
        if place not in plan.there.done
    )
    if len(plan.jobs) > 1:
        yield from way.run(tasks, watch)
    else:
        yield from (way.one(task, watch) for task in tasks)


def _beginning(plan: Plan, weights: Weights, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": weights.name,
        "sha256": weights.sha256,
        "options": asked,
        "part": None if plan.part is None else str(plan.part),
        "scans": len(plan.jobs),
        "there": len(plan.there.done),
    }
