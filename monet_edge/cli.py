"""The command line: parse, call one library function, print. Whatever is heavy is imported when a command needs it."""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from .about import DEFAULT, DISCLAIMER, __version__
from .errors import MonetError
from .options import Options, RunOptions
from .terminal import RunProgress, complain, failing_clearly, flag, make_app, progress_bar
from .text import printable, quantity

if TYPE_CHECKING:
    from .model import Model
    from .pipeline import Outcome
    from .runs import Plan
    from .runs.run import Way
    from .weights import Weights

T = TypeVar("T", Options, RunOptions)

app = make_app("Segment medical scans on this computer's CPU, offline.")


def _model_names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from .weights import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option("-m", "--model", autocompletion=_model_names, help="A shipped model (see `models`), a .safetensors file, or its folder."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Default: the cores this process may use.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _kind(record: type, field: Field[Any]) -> Any:
    """The type of a field's option: text where the field has a parser, whose type Typer does not know."""
    return str if "parser" in field.metadata else get_type_hints(record)[field.name]


def _with_options(command: Callable[..., None], names: Collection[str] = ()) -> Callable[..., None]:
    """The command with fields of `Options` and `RunOptions` as options, all or some, between its positional parameters and the others."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    more = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[_kind(record, field), typer.Option(flag(field.name), **field.metadata)],
        )
        for record in (Options, RunOptions)
        for field in fields(record)
        if not names or field.name in names
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=sorted([*own, *more], key=lambda parameter: (parameter.kind, parameter in own))
    )
    return command


@app.command()
@_with_options
def segment(
    scans: Annotated[  # readable=False: what cannot be read gets one line from us instead of a box of usage from Typer
        list[Path] | None,
        typer.Argument(
            metavar="SCAN...",
            readable=False,
            help="Scans (.nii.gz, .nrrd, .mha ...), DICOM (a folder, .zip or slice), or folders of them at any depth.",
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
        from .runs import make_plan
        from .weights import load

        going, found = _pick(RunOptions, options), load(model)
        plan = make_plan(scans or [], output, _pick(Options, options), going, **_needs(found), derivative=found.name if bids else None)
        _run(plan, output if bids else None, found, threads, going, quiet, debug)


def _run(plan: Plan, derivative: Path | None, found: Weights, threads: int | None, going: RunOptions, quiet: bool, debug: bool) -> None:
    """Do a plan, wherever that is to be; into a data set of BIDS, if that is what it is for."""
    if going.skip_existing:
        plan = _go_on(plan, found, quiet)
    if going.cluster is None:
        plan = plan.begin()
    with _way(found, threads, going, quiet) as way:
        if derivative is not None:
            from .bids import describe

            about = {"sha256": found.sha256, "licence": found.stated("licence")}
            describe(derivative, plan.jobs, found.name, found.preprocess.labels, about)
        _segment(plan, way, quiet, debug)


def _pick(record: type[T], options: dict[str, Any]) -> T:
    """A record of its own fields among all options."""
    return record(**{field.name: options[field.name] for field in fields(record)})


def _needs(found: Weights) -> dict[str, Any]:
    """What a plan must know of the model."""
    return {"modality": found.stated("modality"), "images": found.preprocess.images}


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
        from .runs.cluster import connected

        if going.jobs > 1:
            raise MonetError("jobs: they share the threads of this process; on a cluster every thread of a worker has a scan")
        with connected(going.cluster, found, threads) as cluster:
            if not quiet:
                print(f"{cluster.weights.name} ({cluster.weights.kind}) · {cluster}")
            yield cluster
        return
    from .limits import usable_cores
    from .runs import Here

    threads, jobs = threads or usable_cores(), going.jobs
    if jobs > threads:
        raise MonetError(f"jobs: {jobs} scans at a time cannot share {threads} thread{'s' if threads > 1 else ''}")
    yield Here(_load(found, threads // jobs, quiet), jobs)


def _segment(plan: Plan, way: Way, quiet: bool, debug: bool) -> None:
    """Do the run, printing what becomes of each scan; exit status 1 if some have failed, 2 if all."""
    from .runs import run_all

    failed, count, left = 0, len(plan.jobs), len(plan.jobs) - len(plan.there.done)
    if plan.records is not None and not quiet:
        print(f"{printable(str(plan.records))} will hold the scans' paths, and can be read by you alone", file=sys.stderr)
    title = f"segmenting {plan.jobs[0].scan.name if count == 1 else f'{left:,} scans'}" if count else ""
    with RunProgress(title, left, quiet) as progress:
        for job, became in run_all(plan, way, lambda task, done, total: progress.slices(task.job, done, total)):
            progress.ended(job)
            if not isinstance(became, Exception):
                _tell(became, quiet)
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
@_with_options
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
        from . import bids as layout
        from .runs import make_plan
        from .weights import load

        layout.check_level(level)
        if more and not participant_label:
            raise MonetError(f"expected a folder, a folder and {level}, found {' '.join(more)} besides")
        weights = load(model)
        wanted = suffix or layout.suffixes(weights.stated("modality"))
        if not wanted:
            raise MonetError(f"{weights.name} is for {weights.stated('modality')}: say which scans, such as --suffix T1w")
        scans = layout.find_scans(bids_dir, [*(participant_label or []), *(more or [])], wanted)
        going = _pick(RunOptions, options)
        plan = make_plan(scans, output_dir, _pick(Options, options), going, **_needs(weights), derivative=weights.name)
        _run(plan, output_dir, weights, threads, going, quiet, debug)


@app.command()
def series(
    path: Annotated[Path, typer.Argument(readable=False, help="A folder, a .zip or a file of DICOM.")],
    debug: DebugOption = False,
) -> None:
    """List the DICOM series of a folder, and what is wrong with each; `segment --series` takes their numbers."""
    with failing_clearly(debug):
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from .formats import list_series

        table = Table("series", "modality", "size", "mm", "slices", "description", "what is wrong", caption=DISCLAIMER)
        found, damaged = list_series(path)
        for one in found:
            mm = " x ".join(f"{length:.4g}" for length in one.spacing)
            size, volumes = f"{one.image.columns} x {one.image.rows}", f" in {len(one.volumes)} volumes" if len(one.volumes) > 1 else ""
            count = f"{sum(map(len, one.volumes))}{volumes}"
            words = "; ".join([one.problem] if one.problem else one.warnings)
            row = (str(one.number), one.image.modality, size if one.image.rows else "", mm, count, one.image.description, words)
            table.add_row(*(escape(printable(text)) for text in row))
        Console(width=None if sys.stdout.isatty() else 200).print(table)
        for words in damaged:
            print(f"monet-edge: {printable(words)}", file=sys.stderr)


def _tell(outcome: Outcome, quiet: bool) -> None:
    """Print what became of a scan, and its warnings to standard error."""
    _warn(outcome.job.scan, outcome.warnings)
    if not quiet:
        print(_describe(outcome))


def _warn(scan: Path, warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"monet-edge: {printable(f'{scan}: warning: {warning}')}", file=sys.stderr)


def _describe(outcome: Outcome) -> str:
    volumes = ", ".join(f"{name} {quantity(ml, 'ml')}" for name, ml in outcome.volumes.items())
    return printable(f"{volumes} → {', '.join(map(str, outcome.job.results))} ({outcome.seconds:.1f} s)")


def _load(found: Weights, threads: int | None, quiet: bool) -> Model:
    from .model import Model

    _compile(quiet)
    ready = Model(found, threads)
    if not quiet:
        print(f"{found.name} ({found.kind}) · {ready.threads} thread{'s' if ready.threads > 1 else ''}")
    return ready


@app.command()
@partial(_with_options, names=("volume", "spacing", "overwrite"))
def strip(
    head: Annotated[Path, typer.Argument(metavar="HEAD", readable=False, help="A scan of a head, skull on.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The stripped scan's file, its mask's beside it. Default: <stem>_brain.nii.gz, _brain_mask."),
    ] = None,
    model: ModelOption = "brain",
    threads: ThreadsOption = None,
    *,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")] = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Write the brain's mask, and the scan without what is around it."""
    with failing_clearly(debug):
        from .limits import usable_cores
        from .strip import strip as strip_head
        from .weights import load

        ready = _load(load(model), threads or usable_cores(), quiet)
        with progress_bar(f"stripping {head.name}", quiet) as progress:
            done = strip_head(head, output, ready, Options(**options), progress=progress)
        _warn(head, done.warnings)
        if not quiet:
            print(printable(f"brain {quantity(done.ml, 'ml')} → {done.scan}, {done.mask}"))
            print(DISCLAIMER)


@app.command()
def records(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What --records wrote: .jsonl files, or folders of them.")],
    failed: Annotated[
        bool, typer.Option("--failed", help="Print the paths of the scans that failed instead, as --list reads them.")
    ] = False,
    slow: Annotated[int, typer.Option(min=0, help="How many of the slowest scans to name.")] = 5,
    debug: DebugOption = False,
) -> None:
    """Sum up the records of one run or many: done, failed, left, how fast, what was slow."""
    with failing_clearly(debug):
        from .runs.summary import Summary

        summary = Summary(files)
        if failed:
            for path in summary.failed:
                typer.echo(os.fsencode(path))  # any bytes, as they are
            return
        for line in summary.lines(slow):
            print(printable(line))
        print(DISCLAIMER)


@app.command()
def models(debug: DebugOption = False) -> None:
    """List the shipped models."""
    with failing_clearly(debug):
        from rich.console import Console
        from rich.table import Column, Table

        from .weights import load, shipped

        first, last = Column("model", no_wrap=True), Column("use", no_wrap=True)  # on a narrow terminal the others give way
        table = Table(first, "modality", "labels", "Dice", "licence", last, caption=DISCLAIMER)
        for name, path in shipped().items():
            weights = load(path)
            licence = weights.stated("licence").partition(" (")[0]
            use = "non-commercial" if "NC" in licence else ""
            table.add_row(name, weights.stated("modality"), ", ".join(weights.preprocess.labels), weights.stated("dice"), licence, use)
        Console().print(table)


@app.command()
def info(
    model: Annotated[str, typer.Argument(autocompletion=_model_names, help="A shipped model's name, a .safetensors file, or its folder.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show the layers instead, as they run: algorithm, shape, work, bytes.")] = False,
    timed: Annotated[bool, typer.Option("--time", help="With --plan: time every algorithm that suits a layer, on one thread.")] = False,
    debug: DebugOption = False,
) -> None:
    """Say what a model is, how it was made and what it expects."""
    with failing_clearly(debug):
        import json
        from dataclasses import asdict

        from .spec import count_floats, count_macs
        from .weights import find, load

        if timed and not plan:
            raise MonetError("--time shows its times in the table of --plan: give both")
        weights = load(model)
        if plan:
            _show_plan(weights, timed)
            return
        sides = weights.preprocess.sides
        macs = sum(count_macs(weights.spec, *sides).values())
        print(f"{weights.name}: {weights.spec.name}, {len(weights.spec.ops)} ops, {count_floats(weights.spec):,} floats, "
              f"{macs / 1e9:.2f} GMAC a slice of {'x'.join(map(str, sides))}")  # fmt: skip
        print(f"file: {find(model)} ({find(model).stat().st_size / 1e6:.2f} MB), sha256 {weights.sha256}")
        for title, record in (("preprocessing", asdict(weights.preprocess)), ("provenance", dict(weights.provenance))):
            print(f"{title}: {json.dumps(record, indent=2, ensure_ascii=False)}")
        print(DISCLAIMER)


def _show_plan(weights: Weights, timed: bool) -> None:
    from .engine import layers

    sides = weights.preprocess.sides
    if timed:
        _compile(quiet=False)
    print(f"{weights.name}: a slice of {'x'.join(map(str, sides))}")
    for line in layers.table(weights.spec, weights.tensors, *sides, timed):
        print(printable(line))


@app.command()
def warmup(debug: DebugOption = False) -> None:
    """Compile the kernels for this CPU now, rather than at the first scan."""
    with failing_clearly(debug):
        start = time.perf_counter()
        _compile(quiet=False)
        print(f"ready ({time.perf_counter() - start:.1f} s)")


def _compile(quiet: bool) -> None:
    from .engine import compile_all, is_cached, is_kept

    if not is_cached():
        with progress_bar("compiling once for this CPU", quiet) as progress:
            compile_all(progress and (lambda done, total, name: progress(done, total)))
        if not is_kept() and not quiet:
            print("the compiled kernels cannot be kept: no cache folder of your own can be written", file=sys.stderr)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the phantom, its lesion and the mask.")] = Path("demo"),
    model: ModelOption = DEFAULT,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Segment a synthetic head whose lesion is known, and say how well it went."""
    with failing_clearly(debug):
        import numpy as np

        from . import phantom, weights
        from .formats import read
        from .job import check_path, make_folder, make_job
        from .pipeline import run

        found = weights.load(model)
        make_folder(folder)
        options = Options(overwrite=overwrite)
        job = make_job(folder / "phantom.nii.gz", None, options)
        lesion = folder / "phantom_lesion.nii.gz"
        for path in (job.scan, lesion, job.mask):
            check_path(path, [], overwrite=overwrite)
        ready = _load(found, threads, False)
        volume, truth = phantom.make()
        phantom.save(volume, job.scan, overwrite=overwrite)
        phantom.save(truth, lesion, overwrite=overwrite)
        with progress_bar(f"segmenting {job.scan.name}", False) as progress:
            outcome = run(job, ready, options, progress=progress)
        _tell(outcome, False)
        mask = read(job.mask).voxels.T
        dice = 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))
        print(f"Dice {dice:.2f} against the lesion as drawn")
        print(DISCLAIMER)
        if dice < 0.7:
            raise MonetError(
                f"the demo scored Dice {dice:.2f}, expected at least 0.7: this installation is not sound, "
                "or the model is not one for tumours in FLAIR images"
            )


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="The data set to write: imagesTr, labelsTr, dataset.json.")],
    cases: Annotated[int, typer.Option(min=1, max=100, help="How many heads.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other patients.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Write synthetic heads with known lesions, to train on and to try things with."""
    with failing_clearly(debug):
        from .phantom import write_dataset

        write_dataset(folder, cases, seed)
        print(f"{cases} heads with their lesions → {folder}")


@app.command("app")
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes one that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    model: Annotated[list[Path] | None, typer.Option("-m", "--model", help="Offer this .safetensors file, too; may be repeated.")] = None,
    threads: ThreadsOption = None,
    debug: DebugOption = False,
) -> None:
    """Open a page in the browser: drop a scan, see its mask, save it. On this computer alone, offline."""
    with failing_clearly(debug):
        from .app.server import serve

        def tell(address: str) -> None:
            print(f"{address}\nCtrl-C ends it and removes what was dropped. {DISCLAIMER}", flush=True)

        serve(port=port, browser=browser, models=map(str, model or ()), threads=threads, started=tell)


def _version(show: bool) -> None:
    if show:
        print(f"monet-edge {__version__}. {DISCLAIMER}")
        raise typer.Exit()


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False) -> None:
    pass
