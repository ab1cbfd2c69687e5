"""The command that trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monet_edge.errors import MonetError
from monet_edge.files import check_folder

from .. import options
from ..defaults import NET, RECIPE, SLICES
from ..options import (
    ChangesOption,
    DeviceOption,
    FromOption,
    GroupOption,
    MixOption,
    NeighboursOption,
    NetOption,
    QuietOption,
    RunOption,
    SizeOption,
    SpacingOption,
    ThicknessOption,
    TrainedVolumeOption,
)

if TYPE_CHECKING:
    from ..config import Settings
    from ..prepare import Prepared
    from ..splits import Split


def fit(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set, or a folder that `prepare` wrote.")],
    output: RunOption,
    net: NetOption = NET,
    recipe: Annotated[str, typer.Option(help="paper or strong.")] = RECIPE,
    changes: ChangesOption = None,
    size: SizeOption = SLICES.size,
    slicing: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = SLICES.slicing,
    context: Annotated[int, typer.Option(min=0, help="Neighbouring slices on either side that the network sees too.")] = SLICES.context,
    intensity: Annotated[
        list[str] | None,
        typer.Option(help=f"window (CT), zscore or percentile (MRI); once for all channels, or for each. Default: {SLICES.intensity}."),
    ] = None,
    low: Annotated[
        list[float] | None,
        typer.Option(help=f"What becomes 0: HU, standard deviations or a percentile; likewise. Default: {SLICES.low:g}."),
    ] = None,
    high: Annotated[list[float] | None, typer.Option(help=f"What becomes 1; likewise. Default: {SLICES.high:g}.")] = None,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel counts.")] = SLICES.threshold,
    lone: Annotated[bool, typer.Option("--lone/--no-lone", help="Whether what is found in one slice only counts.")] = SLICES.lone,
    spacing: SpacingOption = f"{SLICES.spacing:g}",
    thickness: ThicknessOption = SLICES.thickness,
    neighbours: NeighboursOption = SLICES.neighbours,
    merge: Annotated[str | None, typer.Option(metavar="NAME", help="Merge all labels into one of this name.")] = None,
    splits: Annotated[Path | None, typer.Option(help="A splits.json to use instead of the 70 % / 30 % split.")] = None,
    group: GroupOption = None,
    start: FromOption = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="With --from: only the head learns.")] = False,
    mix: MixOption = 0.0,
    folds: Annotated[int, typer.Option(min=0, help="Cross-validation with so many folds instead.")] = 0,
    fold: Annotated[int, typer.Option(min=0, help="Which fold, or which split of --splits.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights, the order of slices and the augmentation.")] = 0,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="The same bits every time.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    device: DeviceOption = "",
    volume: TrainedVolumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a network. Several GPUs: torchrun --nproc-per-node N -m monet_train.cli fit ..."""
    from monet_edge.architectures import ARCHITECTURES

    from ..cases import run_channels
    from ..config import RECIPES, Settings, make_preprocess
    from ..config_text import override
    from ..dataset import image_names

    check_folder(output)
    options.one_of("--net", net, ARCHITECTURES)
    options.one_of("--recipe", recipe, RECIPES)
    options.check_start(start, freeze, mix)
    if thickness and not context:
        raise MonetError(f"--thickness {thickness:g}: a distance between neighbouring slices, and there are none; give --context too")
    chosen = override(RECIPES[recipe], changes or [])
    channels = options.volumes(dataset, volume)
    if resume and (output / "config.json").exists():
        channels = run_channels(output, channels)
    silent = quiet or int(os.environ.get("RANK", "0")) > 0  # of several processes one speaks
    ready = options.prepared(dataset, output / "prepared", channels, silent)
    record = make_preprocess(
        (merge,) if merge else ready.labels,
        image_names(ready),
        size=size,
        slicing=slicing,
        context=context,
        **_by_image(ready, intensity=intensity, low=low, high=high),
        threshold=threshold,
        lone=lone,
        spacing=options.spacing_of(spacing, ready, slicing),
        thickness=thickness,
        neighbours=neighbours,
    )
    settings = Settings(
        dataset=ready.name, net=net, preprocess=record, recipe=chosen, merged=merge is not None, seed=seed, deterministic=deterministic
    )
    part, rule = options.plan(ready, output, resume=resume, splits=splits, folds=folds, fold=fold, group=group or "", quiet=silent)
    _fit(settings, ready, part, rule, output, resume, device, silent, start, freeze, mix)


def _by_image(ready: Prepared, **given: list[Any] | None) -> dict[str, Any]:
    """Options that may be given once, or once for every channel, as `config.make_preprocess` takes them."""
    count = len(ready.channels)
    for name, values in given.items():
        if values and len(values) not in (1, count):
            raise MonetError(f"--{name}: given {len(values)} times, and there are {count} channels; give it once, or once for each")
    return {name: values if len(values) > 1 else values[0] for name, values in given.items() if values}


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
    mix: float,
) -> None:
    from monet_edge.weights import load

    from ..train import fit as fit_network
    from ..transfer import Transfer

    transfer = None if start is None else Transfer(load(start), freeze, mix)
    title = f"training {settings.net} on {ready.name}: {len(split['train'])} cases, {len(split['val'])} to validate"
    with options.following(title, settings.recipe.epochs, quiet) as (log, announce):
        fit_network(
            settings, ready, split, output,
            resume=resume, device=device or None, rule=rule, transfer=transfer, log=log, announce=announce,
        )  # fmt: skip
