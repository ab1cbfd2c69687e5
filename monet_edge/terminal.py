"""At the terminal: its streams, how a command line is set up, its progress bar, its errors as one line.

`monet-train` uses the first three. Imports Typer alone; rich when there is a bar to draw.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer

from .about import DISCLAIMER
from .errors import MonetError
from .text import printable


def steady_streams() -> None:
    """Make whatever is printed from now on harmless: a stream that is closed, full or left by its reader loses text and nothing else.

    A letter that a stream's encoding does not have is printed as an escape. For the beginning of a program's `main`: it
    replaces ``sys.stdout`` and ``sys.stderr``.
    """
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) < 3:  # else a result's file would be stream 1 or 2, and hold what libraries print
            pass
        os.close(handle)
    sys.stdout, sys.stderr = _steady(sys.stdout, "standard output"), _steady(sys.stderr, "")


def _steady(stream: TextIO | None, name: str) -> TextIO:
    if stream is None:  # closed before Python started
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    buffer: Any = _Steady(stream.buffer, name)
    lines = stream.line_buffering
    return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=lines, write_through=True)


class _Steady:
    """The bytes of a stream, lost once it does not take them; that of ``name`` says so, unless its reader has merely seen enough."""

    def __init__(self, buffer: Any, name: str) -> None:
        self._buffer, self._name, self._lost = buffer, name, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)

    def write(self, data: bytes) -> int:
        """The number of bytes, always all."""
        self._try(self._buffer.write, data)
        return len(data)

    def flush(self) -> None:
        """Hand over what is kept back."""
        self._try(self._buffer.flush)

    def close(self) -> None:
        """The stream beneath stays open: it is the process's."""
        self.flush()

    def _try(self, act: Callable[..., Any], *arguments: Any) -> None:
        if self._lost:
            return
        try:
            act(*arguments)
        except (OSError, ValueError) as error:  # ValueError: closed by somebody else
            self._lost = True
            if self._name and getattr(error, "errno", None) not in (errno.EPIPE, errno.EBADF):
                print(f"{self._name} cannot be written: {getattr(error, 'strerror', None) or error}", file=sys.stderr)


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


def flag(option: str) -> str:
    """How the command line spells an option of the library: ``--run-record`` of run_record."""
    return f"--{option.replace('_', '-')}"


def complain(error: Exception) -> None:
    """Print an error as one line on stderr; file names in it cannot steer the terminal."""
    if isinstance(error, MonetError):
        message = error.told(flag)
    elif isinstance(error, MemoryError):
        message = "not enough memory. Close other programs, or segment a smaller scan."
    else:
        message = f"unexpected {type(error).__name__}: {error}. Run again with --debug, and report what it shows."
    print(f"monet-edge: {printable(' '.join(message.split()))}", file=sys.stderr)
