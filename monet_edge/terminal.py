"""At the terminal: how a command line is set up, its progress bar, its errors as one line. `monet-train` uses the first two.

Imports Typer alone; rich when there is a bar to draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from . import DISCLAIMER
from .errors import MonetError
from .text import printable


def make_app(purpose: str) -> typer.Typer:
    """An empty command line whose help begins with its purpose, and which leaves errors to us."""
    return typer.Typer(
        help=f"{purpose} {DISCLAIMER}",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


@contextmanager
def progress_bar(title: str, quiet: bool) -> Iterator[Callable[..., None] | None]:
    """A bar on a terminal, one plain line elsewhere, nothing when quiet; yields a function of (done, total, ...)."""
    title = printable(title)
    if quiet or not sys.stderr.isatty():
        if not quiet:
            print(title, file=sys.stderr, flush=True)
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, *_: bar.update(task, completed=done, total=total)


@contextmanager
def failing_clearly(debug: bool) -> Iterator[None]:
    """Any error becomes one line on stderr and exit status 2 (130 for Ctrl-C); ``debug`` lets the traceback through."""
    try:
        yield
    except (typer.Exit, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        print("monet-edge: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        if debug:
            raise
        complain(error)
        raise typer.Exit(2) from None


def complain(error: Exception) -> None:
    """Print an error as one line on stderr; file names in it cannot steer the terminal."""
    if isinstance(error, MonetError):
        message = str(error)
    elif isinstance(error, MemoryError):
        message = "not enough memory. Close other programs, or segment a smaller scan."
    else:
        message = f"unexpected {type(error).__name__}: {error}. Run again with --debug, and report what it shows."
    print(f"monet-edge: {printable(' '.join(message.split()))}", file=sys.stderr)
