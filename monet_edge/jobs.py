"""Which files are scans, and where every result of each goes: all of it known and refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from .errors import MonetError, OutputError, ScanError
from .files import missing, refuse_input
from .preprocess import check_threshold
from .volume import ENDINGS, SCANS, is_ours, peek


@dataclass(frozen=True)
class Options:
    """How scans are segmented, and what is made of each besides its mask.

    Attributes
    ----------
    threshold : float, optional
        For a binary model, instead of the model's own.
    volume : int, optional
        Which volume of a 4-D scan.
    flip : bool
        Average with the prediction of the mirrored slice.
    keep_largest : bool
        Keep only the largest connected piece of every label.
    min_volume : float
        Remove connected pieces smaller than this, ml.
    probabilities : bool
        Also write ``<stem>_prob.nii.gz``; the stem of this and what follows is the mask's.
    preview : bool
        Also draw ``<stem>_preview.png``.
    report : str or Path, optional
        Also write this page (.html), or ``<stem>_report.html`` into this folder.
    with_identifiers : bool
        Show the scan's file name in pictures, pages and tables.
    overwrite : bool
        Replace results that exist.
    """

    threshold: float | None = None
    volume: int | None = None
    flip: bool = False
    keep_largest: bool = False
    min_volume: float = 0.0
    probabilities: bool = False
    preview: bool = False
    report: str | Path | None = None
    with_identifiers: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if not 0 <= self.min_volume < inf:
            raise MonetError(f"min_volume: expected a number of ml, 0 or more, found {self.min_volume}")

    @property
    def cleaning(self) -> bool:
        """True if stray pieces are removed from the mask."""
        return self.keep_largest or self.min_volume > 0


@dataclass(frozen=True)
class Job:
    """One scan and where its results go."""

    scan: Path
    mask: Path
    probability: Path | None = None
    preview: Path | None = None
    report: Path | None = None

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that will be written."""
        return tuple(path for path in (self.mask, self.probability, self.preview, self.report) if path)


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
                raise ScanError(f"{path}: no scan (.nii, .nii.gz or .img) in this folder")
            scans.extend(found)
        else:
            scans.append(path)
    return list(dict.fromkeys(scans))


def plan_jobs(scans: list[Path], output: Path | None, options: Options) -> list[Job]:
    """Where every result goes: beside its scan, into the file ``output`` if there is one scan, or into this folder (created).

    Raises
    ------
    OutputError
        If two results would have the same name, one would replace a scan, or what should be a folder is none.
    """
    if output is not None:
        _make_place(output, ENDINGS, len(scans), "--output")
    if options.report is not None:
        _make_place(Path(options.report), (".html",), len(scans), "--report")
    masks: list[Path | None] = [output] * len(scans)
    if output is not None and not output.name.endswith(ENDINGS):
        masks = [output / f"{stem(scan)}_seg.nii.gz" for scan in scans]
    jobs = [make_job(scan, mask, options) for scan, mask in zip(scans, masks, strict=True)]
    _refuse_collisions(jobs)
    return jobs


def _make_place(path: Path, endings: tuple[str, ...], count: int, option: str) -> None:
    """A file's name is for one scan; a folder is made, unless its name has an ending and may be a file's that is mistyped."""
    if path.name.endswith(endings):
        if count > 1:
            raise OutputError(f"{path}: {count} scans cannot go into one file. Give a folder as {option}.")
    elif path.suffix and not os.path.isdir(path):
        one = f"a name in {' or '.join(endings)}"
        raise OutputError(f"{path}: neither a folder that exists nor {one}. Choose such a name for {option}, or make the folder.")
    else:
        make_folder(path)


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
        raise OutputError(f"{folder}: nothing can be written to this folder. Choose another.")


def _refuse_collisions(jobs: list[Job]) -> None:
    """Refuse a result that is another scan's result too, or another scan: with --overwrite it would be lost."""
    scans = {_identity(job.scan): job.scan for job in jobs}
    taken: dict[str, Path] = {}
    for job in jobs:
        for path in job.results:
            other = taken.setdefault(absolute(path), job.scan)
            if other != job.scan:
                raise OutputError(f"{other} and {job.scan} would both be written to {path}. Segment them into different folders.")
            there = _identity(path)
            if there is not None and scans.get(there, job.scan) != job.scan:
                raise OutputError(f"{path} is one of the scans: a result of {job.scan} may not replace it. Choose another --output.")


def absolute(path: Path) -> str:
    """A path as it can be compared with others."""
    return os.path.normcase(os.path.abspath(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def make_job(scan: Path, output: Path | None, options: Options) -> Job:
    """The results of one scan: ``output``, or ``<stem>_seg.nii.gz`` beside it, and beside that whatever else is asked for.

    Raises
    ------
    OutputError
        If ``output`` is not the name of a NIfTI file.
    """
    mask = output or scan.with_name(f"{stem(scan)}_seg.nii.gz")
    if not mask.name.endswith(ENDINGS):
        raise OutputError(f"{mask}: a mask is written as .nii.gz or .nii. Choose such a name for --output.")
    name = stem(mask).removesuffix("_seg")  # of the mask: whoever chose its name may have had a reason
    report = None if options.report is None else Path(options.report)
    if report is not None and report.suffix != ".html":
        report = report / f"{name}_report.html"
    return Job(
        scan,
        mask,
        mask.with_name(f"{name}_prob.nii.gz") if options.probabilities else None,
        mask.with_name(f"{name}_preview.png") if options.preview else None,
        report,
    )


def stem(path: Path) -> str:
    """The file's name without .nii, .nii.gz, .img or .hdr."""
    for ending in (*SCANS, ".hdr.gz", ".hdr"):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def check_output(job: Job, *, overwrite: bool) -> None:
    """Refuse before any work what could not be done or written after it.

    Raises
    ------
    ScanError
        If the scan is not there, or its header not that of a scan: said first, a mistyped folder is not the result's.
    OutputError
        If a result is the input itself, exists already, or cannot be written where it should go.
    """
    peek(job.scan)
    for path in job.results:
        check_path(path, [job.scan], overwrite=overwrite, option="--report" if path == job.report else "--output")


def check_path(path: Path, scans: Iterable[Path], *, overwrite: bool, option: str = "--output") -> None:
    """Refuse a result's path that is one of the scans, exists already, or cannot be written.

    Parameters
    ----------
    path : Path
    scans : iterable of Path
    overwrite : bool
    option : str
        Which the path was given by.

    Raises
    ------
    OutputError
        Saying which.
    """
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path.parent}: {missing(path.parent, 'folder for the result')}. Create it, or choose another {option}.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path.parent}: nothing can be written to this folder. Choose another {option}.")
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Choose another {option}.") from None
    for scan in scans:
        refuse_input(path, scan, option)
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder. Choose another {option}.")
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe
        raise OutputError(f"{path} is not a regular file. Choose another {option}.")
    if not overwrite:
        raise OutputError(f"{path} exists already. Choose another {option}, or say --overwrite.")
