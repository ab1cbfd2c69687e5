"""Path in, mask out: which files are scans, where the results go, and the way of one scan from disk to disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import OutputError, ScanError
from .model import Model, Progress, load
from .volume import is_ours, read, write
from .weights import DEFAULT

ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Job:
    """One scan and where its results go."""

    scan: Path
    mask: Path
    probability: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Attributes
    ----------
    job : Job
    volumes : dict of str to float
        Millilitres of every label.
    warnings : tuple of str
    seconds : float
    """

    job: Job
    volumes: dict[str, float]
    warnings: tuple[str, ...]
    seconds: float


def segment(
    scan: str | Path,
    output: str | Path | None = None,
    *,
    model: str | Path | Model = DEFAULT,
    threads: int | None = None,
    threshold: float | None = None,
    volume: int | None = None,
    probabilities: bool = False,
    flip: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Segment one scan, path to path.

    Parameters
    ----------
    scan : path
        NIfTI, compressed or not.
    output : path, optional
        The mask's file. Default: ``<stem>_seg.nii.gz`` beside the scan.
    model : str, path or Model
        A shipped name, a .safetensors file, or what `load` returned.
    threads : int, optional
        Default: the cores this process may use.
    threshold : float, optional
        For a binary model, instead of the model's own.
    volume : int, optional
        Which volume of a 4-D scan.
    probabilities : bool
        Also write ``<stem>_prob.nii.gz``.
    flip : bool
        Average with the prediction of the mirrored slice.
    overwrite : bool
        Replace results that exist.
    progress : callable, optional
        Called with the number of slices done, and of all.

    Returns
    -------
    Outcome

    Raises
    ------
    MonetError
        Saying what was expected, what was found and what to do.
    """
    job = make_job(Path(scan), None if output is None else Path(output), probabilities)
    check_output(job, overwrite=overwrite)
    ready = model if isinstance(model, Model) else load(model, threads)
    return run(job, ready, threshold=threshold, volume=volume, flip=flip, overwrite=overwrite, progress=progress)


def run(
    job: Job,
    model: Model,
    *,
    threshold: float | None = None,
    volume: int | None = None,
    flip: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """The way of one scan: read, segment, write."""
    start = time.perf_counter()
    check_output(job, overwrite=overwrite)
    scan = read(job.scan, volume)
    result = model.segment_scan(scan, threshold=threshold, probabilities=job.probability is not None, flip=flip, progress=progress)
    if job.probability is not None:
        write(job.probability, result.probability, like=scan, overwrite=overwrite)
    write(job.mask, result.mask, like=scan, overwrite=overwrite)
    voxel = abs(np.linalg.det(scan.affine[:3, :3])) / 1000  # ml
    labels = enumerate(model.weights.preprocess.labels, 1)
    volumes = {name: voxel * sum(np.count_nonzero(plane == label) for plane in result.mask.T) for label, name in labels}
    return Outcome(job, volumes, result.warnings, time.perf_counter() - start)


def find_scans(paths: Iterable[Path]) -> list[Path]:
    """Every scan named, and those inside every folder named, in order; masks that we wrote are passed over in folders.

    Raises
    ------
    ScanError
        If a folder holds no scan.
    """
    scans: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS) and not file.name.startswith("."))
            found = [file for file in inside if not is_ours(file)]
            if not found:
                raise ScanError(f"{path}: no scan (.nii or .nii.gz) in this folder")
            scans.extend(found)
        else:
            scans.append(path)
    return scans


def plan_jobs(scans: list[Path], output: Path | None, probabilities: bool) -> list[Job]:
    """Where every result goes: beside its scan, or into the folder ``output`` (created) when there are several scans.

    Raises
    ------
    OutputError
        If two results would have the same name.
    """
    if len(scans) == 1 and (output is None or output.name.endswith(ENDINGS)):
        return [make_job(scans[0], output, probabilities)]
    if output is not None:
        if output.name.endswith(ENDINGS):
            raise OutputError(f"{output}: {len(scans)} scans cannot go into one file. Give a folder as --output.")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{output}: cannot be made a folder: {error.strerror}") from None
    jobs = [make_job(scan, None if output is None else output / f"{stem(scan)}_seg.nii.gz", probabilities) for scan in scans]
    taken: dict[str, Path] = {}
    for job in jobs:
        other = taken.setdefault(os.path.normcase(os.path.abspath(job.mask)), job.scan)
        if other != job.scan:
            raise OutputError(f"{other} and {job.scan} would both be written to {job.mask}. Segment them into different folders.")
    return jobs


def make_job(scan: Path, output: Path | None, probabilities: bool) -> Job:
    """The results of one scan: ``output``, or ``<stem>_seg.nii.gz`` beside it; probabilities as ``<stem>_prob.nii.gz``."""
    mask = output or scan.with_name(f"{stem(scan)}_seg.nii.gz")
    if not mask.name.endswith(ENDINGS):
        raise OutputError(f"{mask}: a mask is written as .nii.gz or .nii. Choose such a name for --output.")
    return Job(scan, mask, mask.with_name(f"{stem(scan)}_prob.nii.gz") if probabilities else None)


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    for ending in ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.stem


def check_output(job: Job, *, overwrite: bool) -> None:
    """Refuse before any work what could not be written after it.

    Raises
    ------
    OutputError
        If a result is the input itself, exists already, or its folder does not exist.
    """
    for path in filter(None, (job.mask, job.probability)):
        if path.exists():
            if job.scan.exists() and path.samefile(job.scan):
                raise OutputError(f"{path} is the input itself{' (through a link)' if path != job.scan else ''}. Choose another --output.")
            if path.is_dir():
                raise OutputError(f"{path} is a folder. Choose another --output.")
            if not overwrite:
                raise OutputError(f"{path} exists already. Choose another --output, or say --overwrite.")
        elif not path.parent.is_dir():
            raise OutputError(f"{path.parent}: no such folder for the result. Create it, or choose another --output.")
