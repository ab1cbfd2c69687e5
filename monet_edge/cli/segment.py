"""Commands that segment: scans and folders of them, a data set of BIDS, a head to strip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..about import DEFAULT, DISCLAIMER
from ..errors import MonetError
from ..options import Options, RunOptions
from ..terminal import RunProgress, complain, failing_clearly, patience, progress_bar
from ..text import printable, quantity
from .shared import DebugOption, ModelOption, QuietOption, ThreadsOption, app, collect_again, load_model, pick, tell, warn, with_options

if TYPE_CHECKING:
    from ..runs import Plan
    from ..runs.run import Way
    from ..weights import Weights


@app.command()
@with_options
def segment(
    scans: Annotated[  # readable=False: what cannot be read gets one line from us instead of a box of usage from Typer
        list[Path] | None,
        typer.Argument(
            metavar="SCAN...",
            readable=False,
            help="Scans (.nii.gz, .nrrd, .mha, .mgz ...), DICOM (a folder, .zip or slice), or folders of them at any depth.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The mask's file; a folder for several, that keeps their tree. Default: <stem>_seg.nii.gz."),
    ] = None,
    model: ModelOption = DEFAULT,
    threads: ThreadsOption = None,
    *,
    bids: Annotated[bool, typer.Option("--bids", help="Make --output a derivative data set of BIDS.")] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Segment scans: a mask on each scan's own grid."""
    with failing_clearly(debug):
        from ..streams import begin

        given, chosen, going = scans or [], pick(Options, options), pick(RunOptions, options)
        alone = len(given) == 1 and not (going.list or going.skip_existing or going.cluster)
        inflated = begin(given[0]) if alone else None  # while all else is imported, NumPy first: 0.06 s
        from ..formats import ahead

        begun = ahead(given[0], chosen.volume, inflated) if alone else None
        del inflated  # a volume: it goes as soon as nobody needs it
        from ..runs import make_plan
        from ..weights import load

        found = load(model)
        plan = make_plan(given, output, chosen, going, **_needs(found), derivative=found.name if bids else None, ahead=begun)
        _run(plan, output if bids else None, found, threads, going, quiet, debug)


def _run(plan: Plan, derivative: Path | None, found: Weights, threads: int | None, going: RunOptions, quiet: bool, debug: bool) -> None:
    """Do a plan, wherever that is to be; into a data set of BIDS, if that is what it is for."""
    if going.skip_existing:
        plan = _go_on(plan, found, quiet)
    if going.cluster is None:
        plan = plan.begin()
    with _way(found, threads, going, quiet) as way:
        if derivative is not None:
            from ..bids import describe

            about = {"sha256": found.sha256, "licence": found.provenance.stated("licence")}
            describe(derivative, plan.jobs, found.name, found.preprocess.labels, about)
        _segment(plan, way, quiet, debug)


def _needs(found: Weights) -> dict[str, Any]:
    """What a plan must know of the model."""
    return {"modality": found.provenance.stated("modality"), "images": found.preprocess.images}


def _go_on(plan: Plan, found: Weights, quiet: bool) -> Plan:
    """Leave out what is there, and say how much."""
    plan = plan.go_on(found.sha256)
    if not quiet:
        there, other = plan.there, plan.there.other
        counts = {"damaged": len(there.anew) - other, "of another model or other options": other}
        anew = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
        print(f"{len(there.done):,} of {len(plan.jobs):,} scans are done already{f'; done anew: {anew}' if anew else ''}")
    return plan


@contextmanager
def _way(found: Weights, threads: int | None, going: RunOptions, quiet: bool) -> Iterator[Way]:
    """Where the work is done."""
    if going.cluster is not None:
        from ..runs.cluster import connected

        if going.jobs > 1:
            raise MonetError("jobs: they share the threads of this process; on a cluster every thread of a worker has a scan")
        with ExitStack() as stack:
            with patience(f"waiting for an answer from the cluster at {going.cluster}", quiet):
                cluster = stack.enter_context(connected(going.cluster, found, threads))
            if not quiet:
                print(f"{cluster.weights.name} ({cluster.weights.kind}) · {cluster}")
            yield cluster
        return
    from ..limits import usable_cores
    from ..runs.here import Here

    threads, jobs = threads or usable_cores(), going.jobs
    if jobs > threads:
        raise MonetError(f"jobs: {jobs} scans at a time cannot share {threads} thread{'s' if threads > 1 else ''}")
    yield Here(load_model(found, threads // jobs, quiet), jobs)


def _segment(plan: Plan, way: Way, quiet: bool, debug: bool) -> None:
    """Do the run, printing what becomes of each scan; exit status 1 if some have failed, 2 if all."""
    from ..runs.run import run_all

    collect_again()
    failed, count, left = 0, len(plan.jobs), len(plan.jobs) - len(plan.there.done)
    if plan.records is not None and not quiet:
        print(f"{printable(str(plan.records))} will hold the scans' paths, and can be read by you alone", file=sys.stderr)
    title = f"segmenting {plan.jobs[0].scan.name if count == 1 else f'{left:,} scans'}" if count else ""
    with RunProgress(title, left, quiet) as progress:
        for job, became in run_all(plan, way, lambda task, done, total: progress.slices(task.job.mask, done, total)):
            progress.ended(job.mask)
            if not isinstance(became, Exception):
                tell(became, quiet, alone=count == 1)
            elif debug:
                raise became
            else:
                failed += 1
                complain(became)
    if count > 1 and not quiet:
        print(f"{left - failed:,} of {left:,} scans segmented")
    if not quiet:
        print(DISCLAIMER)
    if failed:
        raise typer.Exit(2 if failed == count else 1)


@app.command()
@with_options
def bids(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", readable=False, help="The data set, with dataset_description.json.")],
    output_dir: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="The folder that becomes a derivative data set.")],
    level: Annotated[str, typer.Argument(metavar="participant", help="The level of analysis; there is no other.")],
    more: Annotated[list[str] | None, typer.Argument(hidden=True, help="More labels, as --participant-label 01 02 gives them.")] = None,
    participant_label: Annotated[
        list[str] | None,
        typer.Option("--participant-label", "--participant_label", help="Only these, with sub- or without. Default: all."),
    ] = None,
    suffix: Annotated[list[str] | None, typer.Option(help="Which scans, such as T1w. Default: as the model's modality says.")] = None,
    model: ModelOption = DEFAULT,
    threads: ThreadsOption = None,
    *,
    quiet: QuietOption = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Segment a data set in BIDS's layout, as a BIDS App does: masks as a derivative data set."""
    with failing_clearly(debug):
        from .. import bids as layout
        from ..runs import make_plan
        from ..weights import load

        layout.check_level(level)
        if more and not participant_label:
            raise MonetError(f"expected a folder, a folder and {level}, found {' '.join(more)} besides")
        weights = load(model)
        wanted = suffix or layout.suffixes(weights.provenance.stated("modality"))
        if not wanted:
            raise MonetError(f"{weights.name} is for {weights.provenance.stated('modality')}: say which scans, such as --suffix T1w")
        scans = layout.find_scans(bids_dir, [*(participant_label or []), *(more or [])], wanted)
        going = pick(RunOptions, options)
        plan = make_plan(scans, output_dir, pick(Options, options), going, **_needs(weights), derivative=weights.name)
        _run(plan, output_dir, weights, threads, going, quiet, debug)


@app.command()
@partial(with_options, names=("volume", "spacing", "overwrite"))
def strip(
    head: Annotated[Path, typer.Argument(metavar="HEAD", readable=False, help="A scan of a head, skull on.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The stripped scan's file, its mask's beside it. Default: <stem>_brain.nii.gz, _brain_mask."),
    ] = None,
    model: ModelOption = "brain",
    threads: ThreadsOption = None,
    *,
    quiet: QuietOption = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Write the brain's mask, and the scan without what is around it."""
    with failing_clearly(debug):
        from ..limits import usable_cores
        from ..strip import strip as strip_head
        from ..weights import load

        ready = load_model(load(model), threads or usable_cores(), quiet)
        with progress_bar(f"stripping {head.name}", quiet) as progress:
            done = strip_head(head, output, ready, Options(**options), progress=progress)
        warn(head, done.warnings)
        if not quiet:
            print(printable(f"brain {quantity(done.ml, 'ml')} → {done.scan}, {done.mask}"))
            print(DISCLAIMER)
