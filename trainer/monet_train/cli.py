"""The command line `monet-train`: parse, call one library function, print. Torch is imported when a command needs it."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monet_edge import DISCLAIMER
from monet_edge.errors import MonetError
from monet_edge.files import check_folder, refuse_special
from monet_edge.terminal import make_app, progress_bar, steady_streams
from monet_edge.text import printable

from . import options
from .defaults import NET, RECIPE, SLICES
from .federated.commands import federated, federated_server, federated_site
from .options import (
    ChangesOption,
    DeviceOption,
    GroupOption,
    NeighboursOption,
    NetOption,
    QuietOption,
    RunOption,
    SizeOption,
    SpacingOption,
    ThicknessOption,
    TrainedVolumeOption,
    VolumeOption,
)
from .quality.commands import calibrate
from .synth.commands import synth

if TYPE_CHECKING:
    from .config import Settings
    from .prepare import Prepared
    from .splits import Split

EXTRAS = {
    "torch": "train",
    "scipy": "train",
    "matplotlib": "train",
    "flwr": "federated",
    "onnx": "onnx",
    "onnxruntime": "onnx",
}

OLD_OPTIONS = {"channel": "volume"}  # what options were called before: still understood, no longer shown

app = make_app("Train, evaluate and export networks for monet-edge.")
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command, with the option that every command has."""

    @wraps(function)
    def run(*, debug: bool, **given: Any) -> None:
        try:
            function(**given)
        except Exception:
            if debug:
                traceback.print_exc()
            raise

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption)
    parameters = [*signature.parameters.values(), option]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(context_settings={"token_normalize_func": lambda name: OLD_OPTIONS.get(name, name)})(run)
    return function


DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder with dataset.json, imagesTr and labelsTr.")]


@command
def check(dataset: DatasetArgument, channel: VolumeOption = 0) -> None:
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


@command
def prepare(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    channel: VolumeOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Check a data set and pack it for training: exact, compressed, unchanged cases are not done again."""
    check_folder(output)
    options.prepare(dataset, output, channel, quiet)


@command
def fit(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set, or a folder that `prepare` wrote.")],
    output: RunOption,
    net: NetOption = NET,
    recipe: Annotated[str, typer.Option(help="paper or strong.")] = RECIPE,
    changes: ChangesOption = None,
    size: SizeOption = SLICES.size,
    slicing: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = SLICES.slicing,
    context: Annotated[int, typer.Option(min=0, help="Neighbouring slices on either side that the network sees too.")] = SLICES.context,
    intensity: Annotated[str, typer.Option(help="window (CT), zscore or percentile (MRI).")] = SLICES.intensity,
    low: Annotated[float, typer.Option(help="What becomes 0: HU, standard deviations or a percentile.")] = SLICES.low,
    high: Annotated[float, typer.Option(help="What becomes 1.")] = SLICES.high,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel counts.")] = SLICES.threshold,
    spacing: SpacingOption = f"{SLICES.spacing:g}",
    thickness: ThicknessOption = SLICES.thickness,
    neighbours: NeighboursOption = SLICES.neighbours,
    merge: Annotated[str | None, typer.Option(metavar="NAME", help="Merge all labels into one of this name.")] = None,
    splits: Annotated[Path | None, typer.Option(help="A splits.json to use instead of the 70 % / 30 % split.")] = None,
    group: GroupOption = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Start from a shipped model or a .safetensors file of the same network.")
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="With --from: only the head learns.")] = False,
    folds: Annotated[int, typer.Option(min=0, help="Cross-validation with so many folds instead.")] = 0,
    fold: Annotated[int, typer.Option(min=0, help="Which fold, or which split of --splits.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights, the order of slices and the augmentation.")] = 0,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="The same bits every time.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    device: DeviceOption = "",
    channel: TrainedVolumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a network. Several GPUs: torchrun --nproc-per-node N -m monet_train.cli fit ..."""
    from monet_edge.architectures import ARCHITECTURES

    from .cases import run_channel
    from .config import RECIPES, Settings, make_preprocess
    from .config_text import override

    check_folder(output)
    options.one_of("--net", net, ARCHITECTURES)
    options.one_of("--recipe", recipe, RECIPES)
    if freeze and start is None:
        raise MonetError("--freeze: keeps what --from brings; give it too")
    if thickness and not context:
        raise MonetError(f"--thickness {thickness:g}: a distance between neighbouring slices, and there are none; give --context too")
    chosen = override(RECIPES[recipe], changes or [])
    if resume and (output / "config.json").exists():
        channel = run_channel(output, channel)
    silent = quiet or int(os.environ.get("RANK", "0")) > 0  # of several processes one speaks
    ready = options.prepared(dataset, output / "prepared", channel, silent)
    record = make_preprocess(
        (merge,) if merge else ready.labels,
        size=size,
        slicing=slicing,
        context=context,
        intensity=intensity,
        low=low,
        high=high,
        threshold=threshold,
        spacing=options.spacing_of(spacing, ready, slicing),
        thickness=thickness,
        neighbours=neighbours,
    )
    settings = Settings(
        dataset=ready.name, net=net, preprocess=record, recipe=chosen, merged=merge is not None, seed=seed, deterministic=deterministic
    )
    part, rule = options.plan(ready, output, resume=resume, splits=splits, folds=folds, fold=fold, group=group or "", quiet=silent)
    _fit(settings, ready, part, rule, output, resume, device, silent, start, freeze)


for function in (federated, federated_server, federated_site, synth, calibrate):
    command(function)


EngineOption = Annotated[str, typer.Option(help="runtime (as users run it) or torch.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Average with the mirrored slice.")]
SidesOption = Annotated[bool, typer.Option("--sides-as-one", help="Left X and right X count as one: compared with X, or with both.")]
AlsoOption = Annotated[list[Path] | None, typer.Option(metavar="DATASET", help="Another data set to measure on, all of it.")]


@command
def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A shipped model's name, a .safetensors file, or its folder.")],
    dataset: DatasetArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A folder for scores.csv and summary.json.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Only the validation part of this splits.json.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Which split of --splits, where it holds several.")] = None,
    engine: EngineOption = "runtime",
    flip: FlipOption = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores this process may use.")] = None,
    channel: TrainedVolumeOption = None,
    sides_as_one: SidesOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on labelled scans: Dice and distances per patient and label of the same name, missed and invented ones counted.

    Exit status 1 if cases could not be scored: their reasons are printed, and stand in missing.json.
    """
    from monet_edge.weights import load

    from .cases import weights_channel
    from .evaluate import FILES, check_names, make_model, summarise, tell, write_scores
    from .evaluate import evaluate as evaluate_model
    from .labels import match
    from .splits import choose_split, read_splits

    options.one_of("--engine", engine, ("runtime", "torch"))
    if output is not None:
        check_folder(output)
        for name in FILES:
            refuse_special(output / name)
    if fold is not None and splits is None:
        raise MonetError("--fold chooses a split of --splits, which is not given")
    held = choose_split(read_splits(splits), fold)["val"] if splits else None
    ready = load(weights)
    channel = weights_channel(ready.provenance, channel)
    found = options.read(dataset, channel, quiet)
    names = list(found.pairs) if held is None else held
    matched = match(ready.preprocess.labels, found.labels, ready.merged, sides_as_one)
    check_names(found, names)
    failures: dict[str, str] = {}
    with options.counting(f"evaluating {ready.name} on {found.name}: {len(names)} cases", len(names), quiet) as progress:
        model = make_model(ready, engine, threads)
        scores = list(
            evaluate_model(model, found, names, flip=flip, channel=channel, sides_as_one=sides_as_one, progress=progress, failures=failures)
        )
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


@command
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
    codes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="SNOMED codes of the labels, for DICOM: a .json such as weights/codes.json.")
    ] = None,
    channel: TrainedVolumeOption = None,
    sides_as_one: SidesOption = False,
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the network as .onnx, for another runtime.")] = None,
    hub: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also lay it out as model hubs do; with splits and a picture if --name-cases.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Fold a trained network into a weights file, measure it on the validation part, and write its model card."""
    from .cases import run_channel
    from .dataset import volume_of
    from .export import plan, release
    from .hub import check_hub, write_hub
    from .onnx_file import check_onnx, write_onnx

    channel = run_channel(run, channel)
    found, others = options.read(dataset, channel, quiet), [options.read(folder, channel, quiet) for folder in also or []]
    table = None if codes is None else options.read_json(codes)
    measured = plan(run, found, output, others, sides_as_one, table)  # what is refused is refused before there is a bar
    if onnx is not None:
        check_onnx(onnx)
    if hub is not None:
        check_hub(hub, output.stem)
    with progress_bar(f"exporting {run}: reading and measuring", quiet) as bar:
        weights = release(run, found, output, others, note or [], command, channel, name_cases, sides_as_one, bar, table)
    if onnx is not None:
        write_onnx(onnx, weights)
    if hub is not None:
        name = measured[0].names[0]  # the picture is of the first case to validate
        write_hub(hub, output, *((found.pairs[name][0], volume_of(found, name, channel)) if name_cases else (None,)))
    if not quiet:
        print(f"{output}: {output.stat().st_size:,} bytes, sha256 {weights.sha256}. {DISCLAIMER}")


@command
def import_nnunet(
    folder: Annotated[
        Path, typer.Argument(metavar="MODEL_FOLDER", help="nnU-Net's: plans.json, dataset.json, fold_*/checkpoint_final.pth.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .safetensors file.")],
    fold: Annotated[
        list[str] | None, typer.Option(help="A fold to average, repeatable: 0 to 4, or all. Default: all that are there.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Make a weights file of a 2-D model that nnU-Net trained; nothing in its checkpoints is run."""
    from .import_nnunet import import_model

    weights = import_model(folder, output, fold or ())
    if not quiet:
        print(f"{output}: {output.stat().st_size:,} bytes, sha256 {weights.sha256}. {DISCLAIMER}")


@command
def figures(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A shipped model's name, a .safetensors file, or its folder.")],
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for the pictures.")],
    case: Annotated[list[str] | None, typer.Option(help="Cases to show. Default: the first four.")] = None,
    channel: TrainedVolumeOption = None,
) -> None:
    """Draw overlays of truth and prediction, box plots of the scores, activations with their histograms."""
    from .figures import draw

    check_folder(output)
    for path, silent in draw(weights, dataset, output, case or [], channel):
        print(f"{path}{''.join(f'; {name}: {share:.0%} near zero' for name, share in silent.items())}")


def _fit(
    settings: Settings,
    ready: Prepared,
    split: Split,
    rule: str,
    output: Path,
    resume: bool,
    device: str,
    quiet: bool,
    start: str | None,
    freeze: bool,
) -> None:
    from monet_edge.weights import load

    from .train import fit as fit_network
    from .transfer import Transfer

    transfer = None if start is None else Transfer(load(start), freeze)
    title = f"training {settings.net} on {ready.name}: {len(split['train'])} cases, {len(split['val'])} to validate"
    with options.following(title, settings.recipe.epochs, quiet) as (log, announce):
        fit_network(
            settings, ready, split, output,
            resume=resume, device=device or None, rule=rule, transfer=transfer, log=log, announce=announce,
        )  # fmt: skip


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
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}. Run again with --debug, and report what it shows."
    print(f"monet-train: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
