"""One scan and where its results go: all of it known and refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .channels import case_images, case_name
from .errors import OutputError
from .files import missing, refuse_input
from .formats import Header, peek, stem, writer
from .options import Options


@dataclass(frozen=True, slots=True)  # 100,000 of them at a time
class Job:
    """One case and where its results go.

    Attributes
    ----------
    scan, mask : Path
    format : str or None
        The mask's, where its name's ending does not decide it.
    probability, preview, report : Path or None
        Where asked for.
    sidecar : mapping or None
        What a .json beside the mask says of it, in a data set of BIDS.
    others : tuple of Path
        For models that take several images of a case, those after ``scan``, in their order; none if ``scan`` holds them all.
    """

    scan: Path
    mask: Path
    format: str | None = None
    probability: Path | None = None
    preview: Path | None = None
    report: Path | None = None
    sidecar: Mapping[str, Any] | None = field(default=None, hash=False)  # a job is looked up by the rest
    others: tuple[Path, ...] = ()

    @property
    def scans(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return (self.scan, *self.others)

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that will be written."""
        return tuple(path for path in (self.mask, self.probability, self.preview, self.report) if path)


def make_job(scan: Path, output: Path | None, options: Options, others: tuple[Path, ...] = ()) -> Job:
    """The results of one case: ``output``, or ``<stem>_seg.nii.gz`` beside it, and beside that whatever else is asked for.

    Raises
    ------
    OutputError
        If ``output`` is not the name of a file that a mask can be written to.
    """
    chosen = writer(None if output is None else str(output), options.format)
    if scan.name in ("", ".."):  # "." of whoever stands in the folder
        scan = scan.resolve()
    mask = output or scan.with_name(case_name(scan, 1 + len(others)) + chosen.suffix)
    name = stem(mask).removesuffix("_seg")  # of the mask: whoever chose its name may have had a reason
    report = None if options.report is None else Path(options.report)
    if report is not None and report.suffix != ".html":
        report = report / f"{name}_report.html"
    return Job(
        scan,
        mask,
        options.format,
        mask.with_name(f"{name}_prob.nii.gz") if options.probabilities else None,
        mask.with_name(f"{name}_preview.png") if options.preview else None,
        report,
        others=others,
    )


def check_job(job: Job, options: Options, modality: str = "", images: int = 1, known: Header | None = None) -> Header:
    """Refuse before any work what could not be done or written after it; gives the first scan's header, for whoever reads on.

    Parameters
    ----------
    job : Job
    options : Options
    modality : str
        Of the model, in its own words: see `formats.peek`.
    images : int
        That the model takes of a case.
    known : Header, optional
        Of the first scan, where it has been looked at.

    Raises
    ------
    ScanError
        If a scan is not there, its header not that of a scan, or the case not whole: said first, a mistyped folder is not the result's.
    OutputError
        If a result is an input itself, exists already, or cannot be written where it should go.
    """
    header = known or peek(job.scan, options.series, modality)
    case_images([header, *map(peek, job.others)], images, options.volume)
    check = writer(str(job.mask), job.format).check
    if check is not None:
        check(header)
    for path in job.results:
        check_path(path, (*job.scans, *header.files), overwrite=options.overwrite, option="report" if path == job.report else "output")
    return header


def check_path(path: Path, scans: Iterable[Path], *, overwrite: bool, option: str = "output") -> None:
    """Refuse a result's path that is one of the scans, exists already, or cannot be written.

    Parameters
    ----------
    path : Path
    scans : iterable of Path
    overwrite : bool
    option : str
        The name of what the path was given by.

    Raises
    ------
    OutputError
        Saying which.
    """
    another = f"Choose another {{{option}}}."
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path.parent}: {missing(path.parent, 'folder for the result')}", f"Create it, or choose another {{{option}}}.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path.parent}: nothing can be written to this folder", another)
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long
        raise OutputError(f"{path}: cannot be written: {error.strerror}", another) from None
    for scan in scans:
        refuse_input(path, scan, option)
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder", another)
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe
        raise OutputError(f"{path} is not a regular file", another)
    if not overwrite:
        raise OutputError(f"{path} exists already", f"{another[:-1]}, or say {{overwrite}}.")


def make_folder(folder: Path) -> None:
    """Make a folder for results, if it is not there.

    Raises
    ------
    OutputError
        If the disk refuses, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made a folder: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: nothing can be written to this folder", "Choose another.")


def absolute(path: Path) -> str:
    """A path as it can be compared with others."""
    return os.path.normcase(os.path.abspath(path))
