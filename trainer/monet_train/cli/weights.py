"""Commands that write weights files: of a run of ours, of a model of nnU-Net's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monet_edge import DISCLAIMER
from monet_edge.terminal import progress_bar

from .. import options
from ..options import DatasetArgument, QuietOption, SidesOption, TrainedVolumeOption

AlsoOption = Annotated[list[Path] | None, typer.Option(metavar="DATASET", help="Another data set to measure on, all of it.")]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of `fit` or `synth`.")],
    dataset: DatasetArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The .safetensors file; beside it go the card, and the splits, which name the patients.")
    ],
    mean_with: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run that went on from the same weights, repeatable: the file holds the mean of all."),
    ] = None,
    also: AlsoOption = None,
    note: Annotated[list[str] | None, typer.Option(help="A sentence for the model card: what a reader must know.")] = None,
    command: Annotated[str, typer.Option(help="How the model was trained, for the card.")] = "",
    name_cases: Annotated[bool, typer.Option("--name-cases", help="Name the worst cases in file and card: for public data.")] = False,
    codes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="SNOMED codes of the labels, for DICOM: a .json such as weights/codes.json.")
    ] = None,
    volume: TrainedVolumeOption = None,
    sides_as_one: SidesOption = False,
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the network as .onnx, for another runtime.")] = None,
    hub: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also lay it out as model hubs do; with splits and a picture if --name-cases.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Fold a trained network into a weights file, measure it on the validation part, and write its model card.

    A run of `synth` has seen no scan: it is measured on all of DATASET.
    """
    from ..cases import run_channels
    from ..export import plan, release
    from ..hub import check_hub, write_hub
    from ..onnx_file import check_onnx, write_onnx

    channels = run_channels(run, options.volumes(dataset, volume))
    found, others = options.read(dataset, channels, quiet), [options.read(folder, channels, quiet) for folder in also or []]
    table = None if codes is None else options.read_json(codes)
    measured = plan(run, found, output, others, sides_as_one, table)  # what is refused is refused before there is a bar
    if onnx is not None:
        check_onnx(onnx)
    if hub is not None:
        check_hub(hub, output.stem)
    with progress_bar(f"exporting {run}: reading and measuring", quiet) as bar:
        weights = release(run, found, output, others, note or [], command, name_cases, sides_as_one, bar, table, means=mean_with or [])
    if onnx is not None:
        write_onnx(onnx, weights)
    if hub is not None:
        write_hub(hub, output, found.volumes(measured[0].names[0]) if name_cases else ())  # the picture: of the first case to validate
    if not quiet:
        print(f"{output}: {output.stat().st_size:,} bytes, sha256 {weights.sha256}. {DISCLAIMER}")


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
    from ..import_nnunet import import_model

    weights = import_model(folder, output, fold or ())
    if not quiet:
        print(f"{output}: {output.stat().st_size:,} bytes, sha256 {weights.sha256}. {DISCLAIMER}")
