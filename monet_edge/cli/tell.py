"""Commands that tell: the shipped models, what a model is, the series of a folder, what became of a run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from ..about import DISCLAIMER
from ..errors import MonetError
from ..terminal import failing_clearly
from ..text import printable
from .shared import DebugOption, app, compile_kernels, model_names

if TYPE_CHECKING:
    from ..weights import Weights


@app.command()
def models(debug: DebugOption = False) -> None:
    """List the shipped models."""
    with failing_clearly(debug):
        from rich.console import Console
        from rich.table import Column, Table

        from ..registry import shipped
        from ..weights import load

        first, last = Column("model", no_wrap=True), Column("licence", no_wrap=True)  # on a narrow terminal the others give way
        labels = Column("labels", overflow="fold")  # nothing of a name is cut off; from 80 letters a line on no word is broken
        table = Table(first, "modality", labels, "Dice", last, caption=DISCLAIMER)
        for name, path in shipped().items():
            weights = load(path)
            stated = weights.provenance.stated
            licence = re.split(r" \(|;", stated("licence"))[0]  # `info` and the card have all of it
            lines = [*wrap(licence, 15), *(["non-commercial"] if "NC" in licence else [])]
            table.add_row(name, stated("modality"), weights.contents, stated("dice"), "\n".join(lines))
        Console().print(table)


@app.command()
def info(
    model: Annotated[str, typer.Argument(autocompletion=model_names, help="A shipped model's name, a .safetensors file, or its folder.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show the layers instead, as they run: algorithm, shape, work, bytes.")] = False,
    timed: Annotated[bool, typer.Option("--time", help="With --plan: time every algorithm that suits a layer, on one thread.")] = False,
    debug: DebugOption = False,
) -> None:
    """Say what a model is, how it was made and what it expects: a shipped one's card, the record of any other."""
    with failing_clearly(debug):
        import json
        from dataclasses import asdict

        from ..registry import card, find
        from ..spec import count_floats, count_macs
        from ..weights import load

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
        if text := card(weights.name, weights.sha256):
            print(f"\n{text}")
            return
        for title, record in (("preprocessing", asdict(weights.preprocess)), ("provenance", dict(weights.provenance))):
            print(f"{title}: {json.dumps(record, indent=2, ensure_ascii=False)}")
        print(DISCLAIMER)


def _show_plan(weights: Weights, timed: bool) -> None:
    from ..engine import layers

    sides = weights.preprocess.sides
    if timed:
        compile_kernels(quiet=False)
    print(f"{weights.name}: a slice of {'x'.join(map(str, sides))}")
    for line in layers.table(weights.spec, weights.tensors, *sides, timed):
        print(printable(line))


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

        from ..formats import list_series

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
        from ..runs.summary import Summary

        summary = Summary(files)
        if failed:
            for path in summary.failed:
                typer.echo(os.fsencode(path))  # any bytes, as they are
            return
        for line in summary.lines(slow):
            print(printable(line))
        print(DISCLAIMER)
