"""At the terminal: its streams, how a command line is set up, its progress bar, its errors as one line.

`monet-train` uses the first three. Imports Typer alone; rich when there is a bar to draw.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from .about import DISCLAIMER
from .errors import MonetError
from .text import printable

PATIENCE = 3.0  # seconds of silence


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
    """A stream's bytes, dropped from the first that it refuses; a stream with a name reports that, unless its reader has left."""

    def __init__(self, buffer: Any, name: str) -> None:
        self._buffer, self._name, self._lost = buffer, name, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)

    def write(self, data: bytes) -> int:
        """Always returns the number of all bytes, also of those that were dropped."""
        self._try(self._buffer.write, data)
        return len(data)

    def flush(self) -> None:
        """Hand buffered bytes to the stream beneath."""
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


class _Commands(TyperGroup):
    """Refuses an argument of nothing, as a shell makes it of a variable that is not set: as a path it would be the folder one stands in."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Of the whole line, each command's own arguments included."""
        for argument in args:
            if not argument or (argument.startswith("--") and argument.endswith("=")):
                raise typer.BadParameter(f"{argument or 'an argument'} is empty: a variable of the shell that is not set?", ctx)
        return super().parse_args(ctx, args)


def make_app(purpose: str) -> typer.Typer:
    """An empty command line whose help begins with its purpose, and which leaves errors to us."""
    return typer.Typer(
        cls=_Commands,
        suggest_commands=False,  # click does so itself
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


class RunProgress:
    """How far a run is, with the time left: a bar on a terminal, a plain line a minute elsewhere, nothing when quiet.

    Parameters
    ----------
    title : str
    count : int
        Scans; of one alone its slices are counted.
    quiet : bool
    """

    EVERY = 60  # seconds from one plain line to the next

    def __init__(self, title: str, count: int, quiet: bool) -> None:
        self._title, self._count, self._quiet = printable(title), count, quiet
        self._ended = 0
        self._begun: dict[object, float] = {}  # the part of each scan that is done
        self._start = self._said = time.monotonic()
        self._bar: Any = None
        self._row: Any = None

    def __enter__(self) -> RunProgress:
        if self._quiet or not self._count:
            return self
        if not sys.stderr.isatty():
            print(self._title, file=sys.stderr, flush=True)
            return self
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        texts = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[left]}")
        columns = (texts[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), texts[1])
        # What is printed meanwhile goes above the bar, but for what goes to a file
        self._bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
        self._row = self._bar.add_task(self._title, total=self._count if self._count > 1 else None, left="")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def slices(self, scan: object, done: int, total: int) -> None:
        """So many slices of a scan are done, of ``total``; from any thread."""
        self._begun[scan] = done / total
        if self._bar is not None and self._count == 1:
            self._bar.update(self._row, completed=done, total=total, left=self._left())
        else:
            self._show()

    def ended(self, scan: object) -> None:
        """A scan has ended, however; with the last of them the bar does."""
        self._begun.pop(scan, None)
        self._ended += 1
        if self._count > 1:
            self._show()
        if self._bar is not None and self._ended == self._count:
            self._bar.stop()
        if self._bar is None and not self._quiet and self._ended < self._count and time.monotonic() > self._said + self.EVERY:
            self._said = time.monotonic()
            print(f"{self._ended:,} of {self._count:,} scans, {self._left()}", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._row, completed=self._done(), left=self._left())

    def _done(self) -> float:
        return min(self._ended + sum(list(self._begun.values())), self._count)

    def _left(self) -> str:
        """The time left, if the rest goes as what is done."""
        done = self._done()
        if not done:
            return ""
        seconds = (time.monotonic() - self._start) / done * (self._count - done)
        return f"{timedelta(seconds=round(seconds))} left"


@contextmanager
def patience(words: str, quiet: bool) -> Iterator[None]:
    """Say on stderr what is waited for, if it takes longer than `PATIENCE`."""
    timer = threading.Timer(PATIENCE, lambda: print(f"monet-edge: {printable(words)}", file=sys.stderr))
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
        message = error.text(flag)
    elif isinstance(error, MemoryError):
        message = "not enough memory. Close other programs, or segment a smaller scan."
    else:
        message = f"unexpected {type(error).__name__}: {error}. Run again with --debug, and report what it shows."
    print(f"monet-edge: {printable(' '.join(message.split()))}", file=sys.stderr)
