"""What a run of several scans has to do: where every result goes, and what would fail, known before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import bids, postprocess
from ..channels import case_files, case_name
from ..errors import OutputError
from ..files import check_folder, refuse_special
from ..formats import ENDINGS, Header, begin, writer
from ..job import Job, absolute, check_job, check_path, make_folder, make_job
from ..options import Options, RunOptions
from . import journal
from .find import Found, Part, find_scans, parse_part
from .table import check_table
from .there import There, look


@dataclass(frozen=True)
class Plan:
    """A run that can begin.

    Attributes
    ----------
    jobs : tuple of Job
        In the order of the run.
    options : Options
    stats, run_record, records : Path or None
        The table of all scans, the record of the run, and its records while it goes.
    part : Part or None
        What the jobs are of all.
    base : Path or None
        The folder that the records' paths are relative to.
    there : There
        Which of the jobs are done already, and which are done anew.
    header : Header or None
        Of the only scan. Of several each is looked at when its turn comes: 100,000 headers would not fit into memory.
    """

    jobs: tuple[Job, ...]
    options: Options
    stats: Path | None = None
    run_record: Path | None = None
    records: Path | None = None
    part: Part | None = None
    base: Path | None = None
    there: There = field(default_factory=There)
    header: Header | None = None

    def go_on(self, model: str) -> Plan:
        """The same plan, what is there already known, see `there.look`.

        Parameters
        ----------
        model : str
            The sha256 of its weights file.
        """
        return replace(self, there=look(self.jobs, self.options.key(model), overwrite=self.options.overwrite))

    def begin(self) -> Plan:
        """The same plan, its only scan being read already while the model is loaded."""
        return self if self.header is None or self.there.done else replace(self, header=begin(self.header, self.options.volume))


def make_plan(
    scans: Iterable[Path],
    output: Path | None = None,
    options: Options = Options(),
    going: RunOptions = RunOptions(),
    *,
    derivative: str | None = None,
    modality: str = "",
    images: int = 1,
    ahead: Header | None = None,
) -> Plan:
    """Plan a run, refusing before any work what would fail after it.

    Parameters
    ----------
    scans : iterable of Path
        Files, or folders of them.
    output : Path, optional
        The mask's file, or a folder (created) for several. Default: beside each scan.
    options : Options
    going : RunOptions
        With ``skip_existing`` results that exist are no error: `Plan.go_on` says which they are.
    derivative : str, optional
        The name of the model, where ``output`` is to become a derivative data set of BIDS.
    modality : str
        Of the model, in its own words: see `formats.peek`.
    images : int
        That the model takes of a case: of several, files named as those of one case are one scan, see `channels`.
    ahead : Header, optional
        Of the only scan, as `formats.ahead` has begun to read it.

    Raises
    ------
    MonetError
        Saying what. Of several scans each is looked at when its turn comes, and one that cannot be segmented is no error here.
    """
    given = list(scans)
    part = None if going.part is None else parse_part(going.part)
    jobs = plan_jobs(_cases(find_scans(given, going.list), images), output, options, derivative, images)
    if options.cleaning:
        postprocess.library()
    if going.stats is not None:
        check_table(going.stats)
    records = None if going.records is None else journal.place(going.records, part)
    _check_places(jobs, options, {"stats": going.stats, "run_record": going.run_record, "records": records})
    header = None
    if len(jobs) == 1 and not going.skip_existing:
        header = check_job(jobs[0], options, modality, images, ahead if ahead and ahead.path == jobs[0].scan else None)
    chosen = tuple(jobs if part is None else part.of(jobs))  # at last, so that every part sees what two of them would both write
    base = given[0] if len(given) == 1 and os.path.isdir(given[0]) else None
    return Plan(chosen, options, going.stats, going.run_record, records, part, base, header=header)


def _check_places(jobs: list[Job], options: Options, places: dict[str, Path | None]) -> None:
    """Refuse what a run writes besides results, by option, where it would be a result too, or a scan, or cannot be written."""
    if not any(places.values()):
        return
    taken = {absolute(path) for job in jobs for path in job.results}
    for option, path in places.items():
        if path is None:
            continue
        if option == "records":  # which are added to
            check_folder(path.parent)
            refuse_special(path)
        else:
            check_path(path, [scan for job in jobs for scan in job.scans], overwrite=options.overwrite, option=option)
            if option == "run_record" and path.suffix != ".json":  # another name may be that of a slice, or of voxels that a header names
                raise OutputError(f"{path}: the record of a run is written as .json", "Choose such a name for {run_record}.")
        if absolute(path) in taken:
            raise OutputError(f"{path} would be another result, too", f"Choose another {{{option}}}.")
        taken.add(absolute(path))


def _cases(found: list[Found], images: int) -> list[Found]:
    """Every case once, by the first of its images."""
    cases = {case_files(one.scan, images)[0]: one for one in found}
    return [replace(one, scan=first) for first, one in cases.items()]


def plan_jobs(found: list[Found], output: Path | None, options: Options, derivative: str | None = None, images: int = 1) -> list[Job]:
    """Where every result goes: beside its scan, into the file ``output`` if there is one scan, or into this folder (created).

    Below the folders for results the folders between are those between a scan and the folder it was found in.

    Raises
    ------
    OutputError
        If two results would have the same name, one would replace a scan, or what should be a folder is none.
    """
    if derivative is not None:
        if output is None:
            raise OutputError("a derivative data set of BIDS needs a folder of its own", "Give it as {output}.")
        jobs = bids.make_jobs([one.scan for one in found], output, options, derivative)
        _refuse_collisions(jobs)
        return jobs
    if output is not None:
        _make_place(output, ENDINGS, len(found), "output")
    if options.report is not None:
        _make_place(Path(options.report), (".html",), len(found), "report")
    jobs = [_place(one, output, options, images) for one in found]
    _refuse_collisions(jobs)
    return jobs


def _place(found: Found, output: Path | None, options: Options, images: int) -> Job:
    """One scan and where its results go."""
    mask = output
    if output is not None and not output.name.endswith(ENDINGS):
        mask = output / found.branch / (case_name(found.scan, images) + writer(None, options.format).suffix)
    if options.report is not None and Path(options.report).suffix != ".html":
        options = replace(options, report=Path(options.report) / found.branch)
    return make_job(found.scan, mask, options, case_files(found.scan, images)[1:])


def _make_place(path: Path, endings: tuple[str, ...], count: int, option: str) -> None:
    """A file's name is for one scan; a folder is made, unless its name has an ending and may be a file's that is mistyped."""
    if path.name.endswith(endings):
        if count > 1:
            raise OutputError(f"{path}: {count} scans cannot go into one file", f"Give a folder as {{{option}}}.")
    elif path.suffix and not os.path.isdir(path):
        expected = f"neither a folder that exists nor a name in {' or '.join(endings)}"
        raise OutputError(f"{path}: {expected}", f"Choose such a name for {{{option}}}, or make the folder.")
    else:
        make_folder(path)


def _refuse_collisions(jobs: list[Job]) -> None:
    """Refuse a result that is another scan's result too, or another scan: overwritten, it would be lost."""
    scans = {_identity(scan): job.scan for job in jobs for scan in job.scans}
    taken: dict[str, Path] = {}
    for job in jobs:
        for path in job.results:
            other = taken.setdefault(absolute(path), job.scan)
            if other != job.scan:
                raise OutputError(f"{other} and {job.scan} would both be written to {path}", "Segment them into different folders.")
            there = _identity(path)
            if there is not None and scans.get(there, job.scan) != job.scan:
                raise OutputError(f"{path} is one of the scans: a result of {job.scan} may not replace it", "Choose another {output}.")


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
