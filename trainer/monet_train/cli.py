"""The command line `monet-train`: parse, call one library function, print. Torch is imported when a command needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monet_edge import DISCLAIMER
from monet_edge.errors import MonetError
from monet_edge.terminal import make_app, progress_bar, steady_streams

from . import options
from .federated.commands import federated, federated_server, federated_site
from .options import (
    ChangesOption,
    ChannelOption,
    DeviceOption,
    GroupOption,
    NetOption,
    QuietOption,
    RunOption,
    SizeOption,
    TrainedChannelOption,
)

if TYPE_CHECKING:
    from .config import Settings
    from .prepare import Prepared
    from .splits import Split

EXTRAS = {"torch": "train", "scipy": "train", "matplotlib": "train", "flwr": "federated"}  # which brings what

app = make_app("Train, evaluate and export networks for monet-edge.")

DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder with dataset.json, imagesTr and labelsTr.")]


@app.command()
def check(dataset: DatasetArgument, channel: ChannelOption = 0) -> None:
    """Open every case of a data set and say what is wrong with it; exit status 1 if anything is."""
    from .dataset import check as check_dataset

    found = options.read(dataset, channel)
    counts = {"ok": 0, "warning": 0, "error": 0}
    for name, severity, message in check_dataset(found, channel):
        counts[severity] += 1
        if severity != "ok":
            print(f"{severity}: {name}: {message}")
    print(f"{found.name}: {len(found.pairs)} cases, {counts['error']} with errors, {counts['warning']} with warnings")
    if counts["error"]:
        raise typer.Exit(1)


@app.command()
def prepare(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    channel: ChannelOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Check a data set and pack it for training: exact, compressed, unchanged cases are not done again."""
    options.prepare(dataset, output, channel, quiet)


@app.command()
def fit(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set, or a folder that `prepare` wrote.")],
    output: RunOption,
    net: NetOption = "monet",
    recipe: Annotated[str, typer.Option(help="paper or strong.")] = "strong",
    changes: ChangesOption = None,
    size: SizeOption = 256,
    slicing: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    context: Annotated[int, typer.Option(min=0, help="Neighbouring slices on either side that the network sees too.")] = 0,
    intensity: Annotated[str, typer.Option(help="window (CT), zscore or percentile (MRI).")] = "zscore",
    low: Annotated[float, typer.Option(help="What becomes 0: HU, standard deviations or a percentile.")] = -3.0,
    high: Annotated[float, typer.Option(help="What becomes 1.")] = 6.0,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel counts.")] = 0.5,
    merge: Annotated[str | None, typer.Option(metavar="NAME", help="Merge all labels into one of this name.")] = None,
    splits: Annotated[Path | None, typer.Option(help="A splits.json to use instead of the 70 % / 30 % split.")] = None,
    group: GroupOption = None,
    folds: Annotated[int, typer.Option(min=0, help="Cross-validation with so many folds instead.")] = 0,
    fold: Annotated[int, typer.Option(min=0, help="Which fold, or which split of --splits.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights, the order of slices and the augmentation.")] = 0,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="The same bits every time.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    device: DeviceOption = "",
    channel: TrainedChannelOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a network. Several GPUs: torchrun --nproc-per-node N -m monet_train.cli fit ..."""
    from monet_edge.architectures import ARCHITECTURES
    from monet_edge.preprocess import Preprocess

    from .cases import run_channel
    from .config import RECIPES, Settings
    from .config_text import override

    options.one_of("--net", net, ARCHITECTURES)
    options.one_of("--recipe", recipe, RECIPES)
    chosen = override(RECIPES[recipe], changes or [])
    if resume and (output / "config.json").exists():
        channel = run_channel(output, channel)
    silent = quiet or int(os.environ.get("RANK", "0")) > 0  # of several processes one speaks
    ready = options.prepared(dataset, output / "prepared", channel, silent)
    record = Preprocess(size, slicing, context, intensity, low, high, threshold, (merge,) if merge else ready.labels)
    settings = Settings(ready.name, net, record, merge is not None, chosen, seed, deterministic)
    part, rule = options.plan(ready, output, resume=resume, splits=splits, folds=folds, fold=fold, group=group or "", quiet=silent)
    _fit(settings, ready, part, rule, output, resume, device, quiet)


for command in (federated, federated_server, federated_site):
    app.command()(command)


EngineOption = Annotated[str, typer.Option(help="runtime (as users run it) or torch.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Average with the mirrored slice.")]
AlsoOption = Annotated[list[Path] | None, typer.Option(metavar="DATASET", help="Another data set to measure on, all of it.")]


@app.command()
def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A shipped model's name or a .safetensors file.")],
    dataset: DatasetArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A folder for scores.csv and summary.json.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Only the validation part of this splits.json.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Which split of --splits, where it holds several.")] = None,
    engine: EngineOption = "runtime",
    flip: FlipOption = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores this process may use.")] = None,
    channel: TrainedChannelOption = None,
) -> None:
    """Measure a model on labelled scans: Dice and distances per patient, missed and invented structures counted."""
    from monet_edge.weights import load

    from .cases import weights_channel
    from .evaluate import evaluate as evaluate_model
    from .evaluate import make_model, summarise, to_csv
    from .splits import read_splits

    options.one_of("--engine", engine, ("runtime", "torch"))
    if fold is not None and splits is None:
        raise MonetError("--fold chooses a split of --splits, which is not given")
    held = options.choose_split(read_splits(splits), fold)["val"] if splits else None
    model = load(weights)
    channel = weights_channel(model.provenance, channel)
    found = options.read(dataset, channel)
    names = list(found.pairs) if held is None else held
    scores = list(evaluate_model(make_model(model, engine, threads), found, names, flip=flip, channel=channel))
    summary = summarise(scores)
    for label, row in summary.items():
        dice = row["dice"]
        print(f"{label}: Dice {dice['mean']:.3f} ± {dice['sd']:.3f} (SE {dice['se']:.3f}), median {dice['median']:.3f}, n {dice['n']}")
        distances = ", ".join(f"{key} {row[key]['mean']:.1f} {row['unit']}" for key in ("hausdorff95", "hausdorff"))
        print(f"  {distances}; {', '.join(f'{count} {status}' for status, count in row['status'].items())}")
    print(DISCLAIMER)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "scores.csv").write_text(to_csv(scores))
        (output / "summary.json").write_text(json.dumps(summary, indent=1))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of `fit`.")],
    dataset: DatasetArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The .safetensors file; beside it go the card, and the splits, which name the patients.")
    ],
    also: AlsoOption = None,
    note: Annotated[list[str] | None, typer.Option(help="A sentence for the model card: what a reader must know.")] = None,
    command: Annotated[str, typer.Option(help="How the model was trained, for the card.")] = "",
    name_cases: Annotated[bool, typer.Option("--name-cases", help="Name the worst cases in file and card: for public data.")] = False,
    channel: TrainedChannelOption = None,
) -> None:
    """Fold a trained network into a weights file, measure it on the validation part, and write its model card."""
    from .cases import run_channel
    from .export import release

    channel = run_channel(run, channel)
    found, others = options.read(dataset, channel), [options.read(folder, channel) for folder in also or []]
    weights = release(run, found, output, others, note or [], command, channel, name_cases)
    print(f"{output}: {output.stat().st_size:,} bytes, sha256 {weights.sha256}. {DISCLAIMER}")


@app.command()
def figures(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A shipped model's name or a .safetensors file.")],
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for the pictures.")],
    case: Annotated[list[str] | None, typer.Option(help="Cases to show. Default: the first four.")] = None,
    channel: TrainedChannelOption = None,
) -> None:
    """Draw overlays of truth and prediction, box plots of the scores, activations with their histograms."""
    from .figures import draw

    for path, silent in draw(weights, dataset, output, case or [], channel):
        print(f"{path}{''.join(f'; {name}: {share:.0%} near zero' for name, share in silent.items())}")


def _fit(settings: Settings, ready: Prepared, split: Split, rule: str, output: Path, resume: bool, device: str, quiet: bool) -> None:
    from .train import fit as fit_network

    main_process = int(os.environ.get("RANK", "0")) == 0
    title = f"training {settings.net} on {ready.name}: {len(split['train'])} cases, {len(split['val'])} to validate"
    with progress_bar(title, quiet or not main_process) as bar:

        def log(row: dict[str, float]) -> None:
            if bar is not None:
                bar(int(row["epoch"]) + 1, settings.recipe.epochs)
            elif not quiet:
                print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)

        def announce(line: str) -> None:
            if main_process and not quiet:
                print(line, file=sys.stderr, flush=True)

        fit_network(settings, ready, split, output, resume=resume, device=device or None, rule=rule, log=log, announce=announce)


def main() -> None:
    """Entry point of the console script; what a user can mend is one line on stderr and exit status 2."""
    steady_streams()
    try:
        app()
        return
    except MemoryError as error:
        message = f"the memory ran out: {error}"
    except (MonetError, OSError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        message = f"{error.name} is not installed: pip install '.[{extra}]' in the checkout of monet-edge"
    print(f"monet-train: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
