"""The command `monet-train calibrate`: parse, call one library function, print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monet_edge import DISCLAIMER
from monet_edge.files import check_folder

from .. import options
from ..options import QuietOption, SidesOption, TrainedVolumeOption

if TYPE_CHECKING:
    from monet_edge.model import Model

    from ..dataset import Dataset
    from ..synth.maps import LabelMaps
    from .calibration import Pair

HEADS = 40  # generated, where a model was trained on generated images


def calibrate(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A .safetensors file; it, and the card beside it, are written anew.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="What it was trained on: a data set, or label maps of `synth`.")],
    splits: Annotated[
        Path | None, typer.Option(help="The splits.json whose validation part calibrates. Default: WEIGHTS' own, beside it.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(metavar="DATASET", help="From elsewhere, all of it: below a correlation of 0.5 nothing is shown.")
    ] = None,
    sides_as_one: SidesOption = False,
    volume: TrainedVolumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure how far a model's sureness tells its Dice, so that `segment` can say what to expect of a mask."""
    from monet_edge.weights import load

    from ..cases import weights_channels
    from ..evaluate import make_model
    from ..splits import read_splits
    from ..synth.labels import label_names
    from ..synth.maps import open_maps
    from ..synth.ranges import Ranges
    from ..synth.traced import taught
    from .renew import renew

    ready = load(weights)
    check_folder(weights.parent)
    split = read_splits(splits or weights.with_suffix(".splits.json"))[0]
    held, anatomy = split["val"], None
    channels = None if "generated" in ready.provenance else weights_channels(ready, options.volumes(dataset, volume))
    others = [options.read(folder, channels, quiet) for folder in also or []]
    model = make_model(ready)
    if "generated" in ready.provenance:
        maps = open_maps(dataset)
        heads = taught(maps.choose(split["train"]), replace(Ranges(), young=0.0))
        anatomy = heads.sizes(sides=ready.preprocess.labels == label_names(True))
        validation = _generated(model, maps.choose(held), quiet)
    else:
        validation = _scanned(model, options.read(dataset, channels, quiet), held, sides_as_one, quiet)
    elsewhere = {other.name: _scanned(model, other, list(other.pairs), sides_as_one, quiet) for other in others}
    renewed = renew(weights, validation, elsewhere, anatomy)
    if not quiet:
        for data, found in renewed.provenance["quality_measured"].items():
            print(f"{data}: {found['pairs']} pairs, Pearson {found['pearson']}, mean error {found['error']}, {found['inside']} inside")
        shown = "" if renewed.provenance.quality else "It does not hold elsewhere, and is not shown. "
        print(f"{shown}{weights}: sha256 {renewed.sha256}. {DISCLAIMER}")


def _scanned(model: Model, dataset: Dataset, names: Sequence[str], sides_as_one: bool, quiet: bool) -> list[Pair]:
    from ..evaluate import evaluate
    from .calibration import pairs_of

    with options.counting(f"segmenting {len(names)} cases of {dataset.name}", len(names), quiet) as progress:
        return pairs_of(evaluate(model, dataset, names, sides_as_one=sides_as_one, progress=progress))


def _generated(model: Model, maps: LabelMaps, quiet: bool) -> list[Pair]:
    from ..synth.heads import pairs
    from ..synth.ranges import Ranges
    from ..synth.traced import taught

    found, ranges = [], Ranges()
    with options.counting(f"segmenting {HEADS} generated heads", HEADS, quiet) as progress:
        for head in pairs(model, taught(maps, ranges), ranges, HEADS):
            found += head
            progress("")
    return found
