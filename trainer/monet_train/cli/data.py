"""Commands for data sets: checked, joined, prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monet_edge.files import check_folder
from monet_edge.text import printable

from .. import options
from ..options import DatasetArgument, QuietOption, VolumeOption


def check(dataset: DatasetArgument, volume: VolumeOption = "0") -> None:
    """Open every case of a data set and say what is wrong with it; exit status 1 if anything is."""
    from ..dataset import check as check_dataset

    found = options.read(dataset, options.volumes(dataset, volume))
    counts = {"ok": 0, "warning": 0, "error": 0}
    for name, severity, message in check_dataset(found):
        counts[severity] += name in found.pairs  # what is said of all of them is no case's
        if severity != "ok":
            print(printable(f"{severity}: {name}: {message}"))
    print(f"{found.name}: {len(found.pairs)} cases, {counts['error']} with errors, {counts['warning']} with warnings")
    if counts["error"]:
        raise typer.Exit(1)


def join(
    datasets: Annotated[list[Path], typer.Argument(metavar="DATASET...", help="Data sets of the same labels, two or more.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make: links to the data sets, and a dataset.json.")],
    name: Annotated[str, typer.Option(help="What to call it. Default: the names of all.")] = "",
    volume: VolumeOption = "0",
    quiet: QuietOption = False,
) -> None:
    """Make one data set of several, such as patients and healthy people: nothing is copied, and the licences of all are stated."""
    from ..join import join as join_datasets

    check_folder(output)
    found = [options.read(dataset, options.volumes(dataset, volume), quiet) for dataset in datasets]
    join_datasets(found, output, name)
    if not quiet:
        print(f"{output}: {sum(len(part.pairs) for part in found)} cases of {len(found)} data sets")


def prepare(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    volume: VolumeOption = "0",
    quiet: QuietOption = False,
) -> None:
    """Check a data set and pack it for training: exact, compressed, unchanged cases are not done again."""
    check_folder(output)
    options.prepare(dataset, output, options.volumes(dataset, volume), quiet)
