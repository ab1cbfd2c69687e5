"""The command line: parse, call one library function, print. Whatever is heavy is imported when a command needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from ..about import DISCLAIMER, __version__
from . import begin, segment, tell  # noqa: F401  (their commands)
from .shared import app

__all__ = ["app"]


def _version(show: bool) -> None:
    if show:
        print(f"monet-edge {__version__}. {DISCLAIMER}")
        raise typer.Exit()


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False) -> None:
    pass
