"""Path in, mask out: the way of one scan from disk to disk, and what a run of several leaves behind."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import DEFAULT, postprocess
from .errors import MonetError, OutputError, kind
from .files import atomic_write
from .jobs import Job, Options, absolute, check_output, check_path, make_job
from .model import Model, Progress, Segmentation, load
from .report import record
from .report.statistics import LabelStatistics, axis_codes, check_table, measure, write_table
from .volume import Scan, write

if TYPE_CHECKING:
    from .report.slices import Finding


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Attributes
    ----------
    job : Job
    labels : tuple of LabelStatistics
    warnings : tuple of str
    times : dict of str to float
        Seconds of every stage, in order.
    """

    job: Job
    labels: tuple[LabelStatistics, ...]
    warnings: tuple[str, ...]
    times: dict[str, float]

    @property
    def volumes(self) -> dict[str, float]:
        """Millilitres of every label."""
        return {one.name: one.ml for one in self.labels}

    @property
    def seconds(self) -> float:
        """Seconds from reading to the last result."""
        return sum(self.times.values())


def segment(
    scan: str | Path,
    output: str | Path | None = None,
    *,
    model: str | Path | Model = DEFAULT,
    threads: int | None = None,
    progress: Progress | None = None,
    **options: Any,
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
    progress : callable, optional
        Called with the number of slices done, and of all.
    **options
        The fields of `Options`: ``threshold=0.3, preview=True, overwrite=True`` ...

    Returns
    -------
    Outcome

    Raises
    ------
    MonetError
        Saying what was expected, what was found and what to do.
    """
    for what, path in (("scan", scan), ("output", output)):
        if not isinstance(path, (str, os.PathLike)) and (path is not None or what == "scan"):
            raise MonetError(f"{what}: expected the path of a file, found {kind(path)}; load(...).segment takes images in memory")
    chosen = Options(**options)
    job = make_job(Path(scan), None if output is None else Path(output), chosen)
    check([job], chosen, None, None)
    ready = model if isinstance(model, Model) else load(model, threads)
    return run(job, ready, chosen, progress=progress)


def run(job: Job, model: Model, options: Options, *, progress: Progress | None = None) -> Outcome:
    """The way of one scan: read, segment, clean, write, measure, draw."""
    times: dict[str, float] = {}
    start = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal start
        now = time.perf_counter()
        times[stage], start = now - start, now

    check_output(job, overwrite=options.overwrite)
    scan = model.read_scan(job.scan, options.volume, probabilities=options.probabilities, cleaning=options.cleaning)
    lap("read")
    result = model.segment_scan(
        scan, threshold=options.threshold, probabilities=options.probabilities, flip=options.flip, progress=progress
    )
    lap("segment")
    mask, warnings = _clean(result, scan, options)
    lap("clean")
    names = model.weights.preprocess.labels
    if job.probability is not None and result.probability is not None:
        write(job.probability, result.probability, like=scan, overwrite=options.overwrite)
    write(job.mask, mask, like=scan, labels=names, overwrite=options.overwrite)
    lap("write")
    labels = measure(scan, mask, names)
    lap("measure")
    if job.preview is not None or job.report is not None:
        from .report.slices import Finding, window  # here, with pillow: a tenth of all that is imported

        weights = model.weights
        title = f"{job.scan.name} · {weights.name}" if options.with_identifiers else f"{weights.name} · {weights.kind}"
        limits = window(weights.preprocess, result.statistics)
        _show(job, model, Finding(scan, mask, labels, limits, weights.preprocess.slicing, title, warnings), options.overwrite)
    lap("show")
    return Outcome(job, labels, warnings, times)


def _clean(result: Segmentation, scan: Scan, options: Options) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask without stray pieces, and what to tell the user."""
    if not options.cleaning or not result.mask.any():
        return result.mask, result.warnings
    mask = postprocess.remove_pieces(result.mask, scan.voxel_ml, keep_largest=options.keep_largest, min_volume=options.min_volume)
    if mask.any():
        return mask, result.warnings
    return mask, (*result.warnings, f"the mask is empty: every piece was smaller than {options.min_volume:g} ml")


def _show(job: Job, model: Model, finding: Finding, overwrite: bool) -> None:
    """The picture and the page, where asked for."""
    from .report import page, preview

    if job.preview is not None:
        preview.save(job.preview, preview.draw(finding), overwrite=overwrite)
    if job.report is not None:
        scan, weights = finding.scan, model.weights
        size, step = " x ".join(map(str, scan.shape)), " x ".join(f"{mm:.3g}" for mm in scan.spacing)
        facts = f"{size} voxels of {step} mm, axes {axis_codes(scan)}"
        about = {"name": weights.name, "network": weights.spec.name, "sha256": weights.sha256, **weights.provenance}
        text = page.build(finding, facts, about, page.model_card(weights))
        with atomic_write(job.report, overwrite=overwrite) as file:
            file.write(text.encode())


def check(jobs: Sequence[Job], options: Options, stats: Path | None, run_record: Path | None) -> None:
    """Refuse before any work what would fail after it, for the whole run.

    Raises
    ------
    MonetError
        Saying what; a folder's own results are judged one by one, when their turn comes.
    """
    if options.cleaning:
        postprocess.library()
    if stats is not None:
        check_table(stats)
    taken = {absolute(path) for job in jobs for path in job.results}
    for option, path in (("--stats", stats), ("--run-record", run_record)):
        if path is None:
            continue
        check_path(path, [job.scan for job in jobs], overwrite=options.overwrite, option=option)
        if absolute(path) in taken:
            raise OutputError(f"{path} would be another result, too. Choose another {option}.")
        taken.add(absolute(path))
    if len(jobs) == 1:
        check_output(jobs[0], overwrite=options.overwrite)


def entry(number: int, job: Job, became: Outcome | Exception, options: Options) -> dict[str, Any]:
    """What a run keeps of a scan, see `record.entry`: words and numbers; an exception would keep the volume that its frames hold."""
    shown = job.scan if options.with_identifiers else None
    if isinstance(became, Exception):
        return record.entry(number, shown, error=became)
    return record.entry(number, shown, labels=became.labels, warnings=became.warnings, times=became.times)


def write_tables(entries: Sequence[Mapping[str, Any]], model: Model, options: Options, stats: Path | None, run_record: Path | None) -> None:
    """The table of statistics and the record of a run, where asked for."""
    if stats is not None:
        write_table(stats, model.weights.name, entries, overwrite=options.overwrite)
    if run_record is not None:
        asked = {key: value for key, value in asdict(options).items() if key != "report"} | {"report": options.report is not None}
        record.write(run_record, model, asked, entries, overwrite=options.overwrite)
