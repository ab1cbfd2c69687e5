"""What the commands share: the program itself, options, the model at work, what is said of a result."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import Field, fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from ..options import Options, RunOptions
from ..sides import NAMED, rows, side, structures
from ..terminal import flag, make_app, progress_bar
from ..text import printable, quantity

if TYPE_CHECKING:
    from ..model import Model
    from ..pipeline import Outcome
    from ..report.statistics import LabelStatistics
    from ..weights import Weights

T = TypeVar("T", Options, RunOptions)

app = make_app("Segment medical scans on this computer's CPU, offline.")


def model_names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from ..registry import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option("-m", "--model", autocompletion=model_names, help="A shipped model (see `models`), a .safetensors file, or its folder."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Default: the cores this process may use.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _kinds(record: type) -> Iterator[tuple[Field[Any], Any]]:
    """Every field of a record, and its option's type: text where the field has a parser, whose type Typer does not know."""
    hints = get_type_hints(record)
    return ((field, str if "parser" in field.metadata else hints[field.name]) for field in fields(record))


def with_options(command: Callable[..., None], names: Collection[str] = ()) -> Callable[..., None]:
    """The command with fields of `Options` and `RunOptions` as options, all or some, between its positional parameters and the others."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    more = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[kind, typer.Option(flag(field.name), **field.metadata)],
        )
        for record in (Options, RunOptions)
        for field, kind in _kinds(record)
        if not names or field.name in names
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=sorted([*own, *more], key=lambda parameter: (parameter.kind, parameter in own))
    )
    return command


def pick(record: type[T], options: dict[str, Any]) -> T:
    """A record of its own fields among all options."""
    return record(**{field.name: options[field.name] for field in fields(record)})


def collect_again() -> None:
    """Turn the collector of circles on again, which `main` has turned off, for work that may be long; what is imported it need not see."""
    gc.freeze()
    gc.enable()


def tell(outcome: Outcome, quiet: bool, alone: bool = True) -> None:
    """Print what became of a scan, the only one of its run or one of many, and its warnings to standard error."""
    warn(outcome.job.scan, outcome.warnings)
    if not quiet:
        print(describe(outcome, alone))


def warn(scan: Path, warnings: Iterable[str]) -> None:
    """Print a scan's warnings to standard error, a line each."""
    for warning in warnings:
        print(f"monet-edge: {printable(f'{scan}: warning: {warning}')}", file=sys.stderr)


def describe(outcome: Outcome, alone: bool = True) -> str:
    """What became of a scan: volumes, files, seconds. One line; where a model has many structures, one for each of a scan that is alone."""
    names = [label.name for label in outcome.labels]
    found = [(name, [outcome.labels[label - 1] for label in both]) for name, both in structures(names)]
    went = printable(f"→ {', '.join(map(str, outcome.job.results))} ({outcome.seconds:.1f} s)")
    if len(found) <= NAMED:
        return printable(", ".join(f"{name} {_each(both)}" for name, both in found)) + f" {went}"
    if not alone:
        return f"{sum(any(label.voxels for label in both) for _, both in found)} of {len(found)} structures found {went}"
    width = max(len(name) for name, _ in rows(names))
    lines = [f"{name:{width}}{_line([outcome.labels[label - 1] for label in both])}" for name, both in rows(names)]
    return "\n".join([*(printable(line.rstrip()) for line in lines), went])


def _line(labels: list[LabelStatistics]) -> str:
    """In columns: the volume of a structure, or of its two sides, and where the Dice of all of it can be expected to lie."""
    at = [side(label.name)[0] if len(labels) > 1 else "" for label in labels]
    volumes = [f"{quantity(label.ml, 'ml'):>11} {which:5}" for label, which in zip(labels, at, strict=True)]
    known = [label.expected for label in labels if label.expected is not None]
    dice = f"  Dice ≈ {min(one.low for one in known):.2f}–{max(one.high for one in known):.2f}" if known else ""
    return f"{''.join(volumes):34}{dice}"


def _each(labels: list[LabelStatistics]) -> str:
    """The volume of a structure, or of its two sides, and the Dice to expect where the model says one."""
    volumes = " / ".join(quantity(label.ml, "ml") for label in labels)
    dice = [str(label.expected) for label in labels if label.expected is not None]
    return f"{volumes} (Dice ≈ {' / '.join(dice)})" if dice else volumes


def load_model(found: Weights, threads: int | None, quiet: bool) -> Model:
    """The model at work on so many threads, its kernels compiled first; says which it is unless ``quiet``."""
    from ..model import Model

    compile_kernels(quiet)
    ready = Model(found, threads)
    if not quiet:
        print(f"{found.name} ({found.kind}) · {ready.threads} thread{'s' if ready.threads > 1 else ''}")
    return ready


def compile_kernels(quiet: bool) -> None:
    """Compile the kernels unless the cache has them, with a bar; says so where they cannot be kept."""
    from ..engine import compile_all, is_cached, is_kept

    if not is_cached():
        with progress_bar("compiling once for this CPU", quiet) as progress:
            compile_all(progress and (lambda done, total, name: progress(done, total)))
        if not is_kept() and not quiet:
            print("the compiled kernels cannot be kept: no cache folder of your own can be written", file=sys.stderr)
