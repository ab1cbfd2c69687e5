"""Path in, mask out: the way of one scan from disk to disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import bids, postprocess, weights
from .about import DEFAULT
from .channels import case_files
from .errors import MonetError, kind
from .files import atomic_write
from .formats import Header, peek, write
from .intensities import Statistics
from .job import Job, check_job, make_job
from .model import Model, Progress, Segmentation
from .options import Options
from .report.statistics import LabelStatistics, measure
from .volume import Scan
from .ways import Turn


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

    Examples
    --------
    >>> import monet_edge
    >>> outcome = monet_edge.segment("scan.nii.gz", overwrite=True)
    >>> {name: round(ml, -1) for name, ml in outcome.volumes.items()}
    {'tumour': 40.0}
    >>> list(outcome.times)
    ['read', 'segment', 'clean', 'write', 'measure', 'show']
    """

    job: Job
    labels: tuple[LabelStatistics, ...]
    warnings: tuple[str, ...]
    times: dict[str, float]

    @property
    def volumes(self) -> dict[str, float]:
        """Millilitres of every label."""
        return {label.name: label.ml for label in self.labels}

    @property
    def seconds(self) -> float:
        """Seconds from reading to the last result."""
        return sum(self.times.values())


def segment(
    scan: str | Path | Sequence[str | Path],
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
    scan : path, or a sequence of them
        In any of `formats.FORMATS`. Of a model that takes several images of a case: all in their order, one that is named as
        nnU-Net names them (``case_0000.nii.gz``), beside which the others lie, or a file that holds them as its volumes.
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

    Examples
    --------
    >>> import monet_edge
    >>> outcome = monet_edge.segment("scan.nii.gz", model="brain-flair", overwrite=True)
    >>> outcome.job.mask.name
    'scan_seg.nii.gz'
    """
    scans = tuple(scan) if isinstance(scan, (list, tuple)) else (scan,)
    for what, given, paths in (("scan", scan, scans), ("output", output, () if output is None else (output,))):
        if not all(isinstance(path, (str, os.PathLike)) for path in paths):
            raise MonetError(f"{what}: expected the path of a file, found {kind(given)}; load(...).segment takes images in memory")
    chosen = Options(**options)
    if chosen.cleaning:
        postprocess.library()
    found = model.weights if isinstance(model, Model) else weights.load(model)
    files = case_files(Path(scans[0]), found.preprocess.images) if len(scans) == 1 else tuple(map(Path, scans))
    job = make_job(files[0], None if output is None else Path(output), chosen, files[1:])
    header = check_job(job, chosen, found.provenance.stated("modality"), found.preprocess.images)
    ready = model if isinstance(model, Model) else Model(found, threads)
    return run(job, ready, chosen, header=header, progress=progress)


def run(
    job: Job,
    model: Model,
    options: Options,
    *,
    header: Header | None = None,
    progress: Progress | None = None,
    turn: Turn = nullcontext(),
) -> Outcome:
    """The way of one scan: read, segment, clean, write, measure, draw.

    ``header`` is as `check_job` gave it, if it was asked; ``turn`` is entered while the network runs, and whatever is done outside of
    it others do meanwhile.
    """
    clock = _Clock()
    header = header or check_job(job, options, model.weights.provenance.stated("modality"), model.images)
    scans = model.read_case([header, *map(peek, job.others)], options)
    scan = scans[0]
    clock.lap("read")
    result = model.segment_scan(scans, options, progress=progress, turn=clock.waiting(turn))
    clock.lap("segment")
    mask, warnings = _clean(result, scan, options)
    clock.lap("clean")
    names, key = model.weights.preprocess.labels, options.key(model.weights.sha256)
    if job.probability is not None and result.probability is not None:
        write(job.probability, result.probability, like=scan, key=key, overwrite=options.overwrite)
    found = model.weights
    about: dict[str, Any] = {"labels": names, "codes": found.provenance.codes, "model": found.name, "key": key}
    write(job.mask, mask, scan, format=job.format, overwrite=options.overwrite, **about)
    if job.sidecar is not None:
        bids.write_sidecars(job, names, warnings)
    clock.lap("write")
    outcome = Outcome(job, measure(scan, mask, names, result.expected), warnings, clock.times)
    clock.lap("measure")
    if job.preview is not None or job.report is not None:
        _show(outcome, model, scan, mask, result.statistics, options)
    clock.lap("show")
    return outcome


class _Clock:
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, stage: str) -> None:
        """A stage ends, and the next begins."""
        now = time.perf_counter()
        self.times[stage], self._start = now - self._start, now

    @contextmanager
    def waiting(self, turn: Turn) -> Iterator[Callable[[], None] | None]:
        """Enter a turn: the wait for it is no work."""
        begun = time.perf_counter()
        with turn as dealt:
            self._start += time.perf_counter() - begun
            yield dealt


def _clean(result: Segmentation, scan: Scan, options: Options) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask without stray pieces, and what to tell the user."""
    if not options.cleaning or not result.mask.any():
        return result.mask, result.warnings
    mask = postprocess.remove_pieces(result.mask, scan.voxel_ml, keep_largest=options.keep_largest, min_volume=options.min_volume)
    if mask.any():
        return mask, result.warnings
    return mask, (*result.warnings, f"the mask is empty: every piece was smaller than {options.min_volume:g} ml")


def _show(outcome: Outcome, model: Model, scan: Scan, mask: np.ndarray, statistics: Statistics, options: Options) -> None:
    """The picture and the page, where asked for."""
    from .report import page, preview  # here, with pillow: a tenth of all that is imported
    from .report.slices import Finding, window

    job, found = outcome.job, model.weights
    title = f"{job.scan.name} · {found.name}" if options.with_identifiers else f"{found.name} · {found.kind}"
    limits, slicing = window(found.preprocess, statistics), found.preprocess.slicing
    finding = Finding(scan, mask, outcome.labels, limits, slicing, title, outcome.warnings)
    if job.preview is not None:
        preview.save(job.preview, preview.draw(finding), overwrite=options.overwrite)
    if job.report is not None:
        with atomic_write(job.report, overwrite=options.overwrite) as file:
            file.write(page.of(finding, found).encode())
