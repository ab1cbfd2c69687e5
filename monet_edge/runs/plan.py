"""What a run of several scans has to do: which files are scans, where every result goes, and what would fail, known before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import postprocess
from ..channels import case_files, case_name, first_of_each
from ..errors import OutputError, ScanError
from ..formats import ENDINGS, SCANS, Header, is_ours
from ..job import Job, absolute, check_job, check_path, make_folder, make_job
from ..options import Options
from .table import check_table


@dataclass(frozen=True)
class Plan:
    """A run that can begin.

    Attributes
    ----------
    jobs : tuple of Job
        In the order of the run.
    options : Options
    stats, run_record : Path or None
        The table of all scans, and the record of the run.
    headers : tuple of Header
        Of the only case's scans. Of several each is looked at when its turn comes: 100,000 headers would not fit into memory.
    """

    jobs: tuple[Job, ...]
    options: Options
    stats: Path | None = None
    run_record: Path | None = None
    headers: tuple[Header, ...] = ()


def make_plan(
    scans: Iterable[Path],
    output: Path | None = None,
    options: Options = Options(),
    *,
    images: int = 1,
    stats: Path | None = None,
    run_record: Path | None = None,
) -> Plan:
    """Plan a run, refusing before any work what would fail after it.

    Parameters
    ----------
    scans : iterable of Path
        Files, or folders of them.
    output : Path, optional
        The mask's file, or a folder (created) for several. Default: beside each scan.
    options : Options
    images : int
        That the model takes of a case: of several, files of one case are one scan, see `channels`.
    stats, run_record : Path, optional

    Raises
    ------
    MonetError
        Saying what. Of several scans each is looked at when its turn comes, and one that cannot be segmented is no error here.
    """
    jobs = plan_jobs(first_of_each(find_scans(scans), images), output, options, images)
    if options.cleaning:
        postprocess.library()
    if stats is not None:
        check_table(stats)
    taken = {absolute(path) for job in jobs for path in job.results}
    for option, path in (("stats", stats), ("run_record", run_record)):
        if path is None:
            continue
        check_path(path, [scan for job in jobs for scan in job.scans], overwrite=options.overwrite, option=option)
        if absolute(path) in taken:
            raise OutputError(f"{path} would be another result, too", f"Choose another {{{option}}}.")
        taken.add(absolute(path))
    headers = check_job(jobs[0], overwrite=options.overwrite) if len(jobs) == 1 else ()
    return Plan(tuple(jobs), options, stats, run_record, headers)


def find_scans(paths: Iterable[Path]) -> list[Path]:
    """Every scan named, and those inside every folder named, in order and once; masks that we wrote are passed over in folders.

    Raises
    ------
    ScanError
        If a folder holds no scan.
    """
    scans: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            try:
                files = sorted(file for file in path.iterdir() if file.name.lower().endswith(SCANS) and not file.name.startswith("."))
            except OSError as error:
                raise ScanError(f"{path}: this folder cannot be read: {error.strerror}") from None
            found = [file for file in files if not is_ours(file)]
            if not found:
                raise ScanError(f"{path}: no scan ({', '.join(SCANS)}) in this folder")
            scans.extend(found)
        else:
            scans.append(path)
    return list(dict.fromkeys(scans))


def plan_jobs(scans: list[Path], output: Path | None, options: Options, images: int = 1) -> list[Job]:
    """Where every result goes: beside its scan, into the file ``output`` if there is one scan, or into this folder (created).

    Raises
    ------
    ScanError
        If an image of a case is not named as one.
    OutputError
        If two results would have the same name, one would replace a scan, or what should be a folder is none.
    """
    if output is not None:
        _make_place(output, ENDINGS, len(scans), "output")
    if options.report is not None:
        _make_place(Path(options.report), (".html",), len(scans), "report")
    masks: list[Path | None] = [output] * len(scans)
    if output is not None and not output.name.endswith(ENDINGS):
        masks = [output / f"{case_name(scan, images)}_seg.nii.gz" for scan in scans]
    jobs = [make_job(scan, mask, options, case_files(scan, images)[1:]) for scan, mask in zip(scans, masks, strict=True)]
    _refuse_collisions(jobs)
    return jobs


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
