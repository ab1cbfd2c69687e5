"""What the commands of `monet-train` share: options, checks of names, one split of several, the way from a folder to a prepared one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monet_edge.errors import DatasetError, MonetError
from monet_edge.terminal import progress_bar

if TYPE_CHECKING:
    from .prepare import Prepared

ChannelOption = Annotated[int, typer.Option(min=0, help="Which channel of a scan with several.")]
ChangesOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")]
NetOption = Annotated[str, typer.Option(help="monet, unet-16, unet-64 or attention-unet.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
RunOption = Annotated[Path, typer.Option("-o", "--output", help="The run folder.")]
SizeOption = Annotated[int, typer.Option(help="Height and width of the network's input.")]


def one_of(option: str, value: str, known: Iterable[str]) -> None:
    """Raise a MonetError unless a value is one of the known names."""
    if value not in known:
        raise MonetError(f"{option} {value}: expected one of {', '.join(known)}")


def prepare(dataset: Path, folder: Path, channel: int, quiet: bool) -> Prepared:
    """Prepare a data set in a folder, with a progress bar."""
    from .dataset import read
    from .prepare import prepare as prepare_dataset

    found = read(dataset, channel)
    with counting(f"preparing {found.name}: {len(found.pairs)} cases", len(found.pairs), quiet) as progress:
        return prepare_dataset(found, folder, channel, progress=progress)


@contextmanager
def counting(title: str, total: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar over so many cases; yields a function to be called with the name of every one that is done."""
    with progress_bar(title, quiet) as bar:
        done: list[str] = []

        def progress(name: str) -> None:
            done.append(name)
            if bar is not None:
                bar(len(done), total)

        yield progress


def prepared(dataset: Path, folder: Path, channel: int, quiet: bool) -> Prepared:
    """A prepared data set as it is; any other is prepared in ``folder``."""
    from .prepare import INDEX, open_prepared

    return open_prepared(dataset) if (dataset / INDEX).exists() else prepare(dataset, folder, channel, quiet)


def choose_split(splits: list[dict[str, list[str]]], fold: int | None) -> dict[str, list[str]]:
    """The split that ``--fold`` means, of those that `dataset.split` or `dataset.read_splits` gave.

    Raises
    ------
    DatasetError
        If there is none of that number, or there are several and none is said: one split trains on what another one validates on.
    """
    if fold is None and len(splits) > 1:
        raise DatasetError(f"there are {len(splits)} splits; say --fold 0 to {len(splits) - 1}, the one that the model was trained with")
    if fold is not None and fold >= len(splits):
        raise DatasetError(f"there are {len(splits)} splits, --fold counts them from 0")
    return splits[fold or 0]
