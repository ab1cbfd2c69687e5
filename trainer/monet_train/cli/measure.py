"""Commands that measure a model on labelled scans, in figures and in pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from monet_edge import DISCLAIMER
from monet_edge.errors import MonetError
from monet_edge.files import check_folder, refuse_special
from monet_edge.text import printable

from .. import options
from ..options import DatasetArgument, QuietOption, SidesOption, StatedSpacingOption, TrainedVolumeOption, WeightsArgument

EngineOption = Annotated[str, typer.Option(help="runtime (as users run it) or torch.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Average with the mirrored slice.")]


def evaluate(
    weights: WeightsArgument,
    dataset: DatasetArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A folder for scores.csv and summary.json.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Only the validation part of this splits.json.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Which split of --splits, where it holds several.")] = None,
    engine: EngineOption = "runtime",
    flip: FlipOption = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores this process may use.")] = None,
    volume: TrainedVolumeOption = None,
    spacing: StatedSpacingOption = None,
    sides_as_one: SidesOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on labelled scans: Dice and distances per patient and label of the same name, missed and invented ones counted.

    Exit status 1 if cases could not be scored: their reasons are printed, and stand in missing.json.
    """
    from monet_edge.weights import load

    from ..cases import weights_channels
    from ..evaluate import check_names, make_model
    from ..evaluate import evaluate as evaluate_model
    from ..labels import match
    from ..scores import FILES, summarise, tell, write_scores
    from ..splits import choose_split, read_splits

    options.one_of("--engine", engine, ("runtime", "torch"))
    if output is not None:
        check_folder(output)
        for name in FILES:
            refuse_special(output / name)
    if fold is not None and splits is None:
        raise MonetError("--fold chooses a split of --splits, which is not given")
    held = choose_split(read_splits(splits), fold)["val"] if splits else None
    ready = load(weights)
    found = options.read(dataset, weights_channels(ready, options.volumes(dataset, volume)), quiet, spacing)
    names = list(found.pairs) if held is None else held
    matched = match(ready.preprocess.labels, found.labels, ready.merged, sides_as_one)
    check_names(found, names)
    failures: dict[str, str] = {}
    with options.counting(f"evaluating {ready.name} on {found.name}: {len(names)} cases", len(names), quiet) as progress:
        model = make_model(ready, engine, threads)
        scores = list(evaluate_model(model, found, names, flip=flip, sides_as_one=sides_as_one, progress=progress, failures=failures))
    summary = summarise(scores)
    try:
        if output is not None:  # before anything is printed: a terminal that cannot show it loses no scores
            write_scores(output, scores, summary, matched, failures)
    finally:
        if not quiet:
            print(tell(summary, matched))
            print(DISCLAIMER)
    for name, reason in failures.items():
        print(f"monet-train: not scored: {printable(' '.join(f'{name}: {reason}'.split()))}", file=sys.stderr)
    if failures:
        raise typer.Exit(2 if len(failures) == len(names) else 1)


def figures(
    weights: WeightsArgument,
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for the pictures.")],
    case: Annotated[list[str] | None, typer.Option(help="Cases to show. Default: the first four.")] = None,
    volume: TrainedVolumeOption = None,
) -> None:
    """Draw overlays of truth and prediction, box plots of the scores, activations with their histograms."""
    from ..figures import draw

    check_folder(output)
    for path, silent in draw(weights, dataset, output, case or [], options.volumes(dataset, volume)):
        print(f"{path}{''.join(f'; {name}: {share:.0%} near zero' for name, share in silent.items())}")
