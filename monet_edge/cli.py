"""The command line: parse, call one library function, print. Whatever is heavy is imported when a command needs it."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .about import DEFAULT, DISCLAIMER, __version__
from .errors import MonetError
from .options import Options
from .terminal import complain, failing_clearly, flag, make_app, progress_bar
from .text import printable, quantity

if TYPE_CHECKING:
    from .model import Model
    from .pipeline import Outcome
    from .weights import Weights

app = make_app("Segment medical scans on this computer's CPU, offline.")


def _model_names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from .weights import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option("-m", "--model", autocompletion=_model_names, help="A shipped model's name (see `models`) or a .safetensors file."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Default: the cores this process may use.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option more for every field of `Options`, between its positional parameters and the others."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    kinds = get_type_hints(Options)
    more = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[kinds[field.name], typer.Option(flag(field.name), **field.metadata)],
        )
        for field in fields(Options)
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=sorted([*own, *more], key=lambda parameter: (parameter.kind, parameter in own))
    )
    return command


@app.command()
@_with_options
def segment(
    scans: Annotated[  # readable=False: what cannot be read gets one line from us instead of a box of usage from Typer
        list[Path], typer.Argument(metavar="SCAN...", readable=False, help="NIfTI scans (.nii, .nii.gz), or folders of them.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The mask's file; a folder for several scans. Default: <stem>_seg.nii.gz.")
    ] = None,
    model: ModelOption = DEFAULT,
    threads: ThreadsOption = None,
    *,
    stats: Annotated[Path | None, typer.Option(help="Write one table of all scans: .json or .csv.")] = None,
    run_record: Annotated[Path | None, typer.Option(help="Write versions, machine, options, times, warnings to this .json.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")] = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Segment scans: a mask on each scan's own grid."""
    with failing_clearly(debug):
        from . import weights
        from .runs import make_plan, run_all

        found, chosen = weights.load(model), Options(**options)  # before anything is compiled: there may be no such model
        plan = make_plan(scans, output, chosen, images=found.preprocess.images, stats=stats, run_record=run_record)
        ready, failed, count = _load(found, threads, quiet), 0, len(plan.jobs)
        for _, became in run_all(plan, ready, lambda job: progress_bar(f"segmenting {job.scan.name}", quiet)):
            if not isinstance(became, Exception):
                _tell(became, quiet)
            elif debug:
                raise became
            else:
                failed += 1
                complain(became)
        if count > 1 and not quiet:
            print(f"{count - failed} of {count} scans segmented")
        if not quiet:
            print(DISCLAIMER)
        if failed:
            raise typer.Exit(2 if failed == count else 1)


def _tell(outcome: Outcome, quiet: bool) -> None:
    """Print what became of a scan, and its warnings to standard error."""
    for warning in outcome.warnings:
        print(f"monet-edge: {printable(f'{outcome.job.scan}: warning: {warning}')}", file=sys.stderr)
    if not quiet:
        print(_describe(outcome))


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
    model: Annotated[str, typer.Argument(autocompletion=_model_names, help="A shipped model's name or a .safetensors file.")],
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


def _version(show: bool) -> None:
    if show:
        print(f"monet-edge {__version__}. {DISCLAIMER}")
        raise typer.Exit()


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False) -> None:
    pass
