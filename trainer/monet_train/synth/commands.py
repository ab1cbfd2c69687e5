"""The command `monet-train synth`: parse, call one library function, print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monet_edge import DISCLAIMER
from monet_edge.errors import MonetError, OutputError
from monet_edge.files import check_folder, refuse_special
from monet_edge.terminal import progress_bar

from .. import options
from ..options import ChangesOption, DeviceOption, FromOption, MixOption, NetOption, QuietOption, SizeOption

if TYPE_CHECKING:
    from .maps import LabelMaps

MODEL = "model.safetensors"


def synth(
    labelmaps: Annotated[Path, typer.Argument(metavar="LABELMAPS", help="A folder of label maps (.nii.gz, 1 mm), or a file of --pack.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder.")] = None,
    pack: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the label maps as one small file, and do nothing else.")] = None,
    pictures: Annotated[
        tuple[int, Path] | None, typer.Option(metavar="N FILE", help="Draw so many generated slices on a page, and do nothing else.")
    ] = None,
    negatives: Annotated[
        tuple[int, Path] | None,
        typer.Option(metavar="N FOLDER", help="Write N FLAIR scans of every head, none with a tumour, as a data set, and do nothing else."),
    ] = None,
    net: NetOption = "monet",
    size: SizeOption = 256,
    context: Annotated[int, typer.Option(min=0, help="Neighbouring slices on either side that the network sees too.")] = 2,
    sides: Annotated[bool, typer.Option("--sides", help="Tell left from right: labels such as `left cortex`.")] = False,
    changes: ChangesOption = None,
    start: FromOption = None,
    mix: MixOption = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights and of all images.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    device: DeviceOption = "",
    quiet: QuietOption = False,
) -> None:
    """Train a network for heads of any contrast from label maps alone: images are generated batch by batch."""
    if sum(goal is not None for goal in (output, pack, pictures, negatives)) != 1:
        raise MonetError("say one of --output RUN (train), --pack FILE, --pictures N FILE and --negatives N FOLDER")
    from monet_edge.architectures import ARCHITECTURES
    from monet_edge.weights import load

    from ..config_text import override
    from ..transfer import Transfer
    from .generator import Generator
    from .maps import pack as write_pack
    from .origin import Origin, fold
    from .pictures import draw_page
    from .ranges import Ranges
    from .traced import taught
    from .train import RECIPE, fit, make_record, make_settings

    options.one_of("--net", net, ARCHITECTURES)
    options.check_start(start, False, mix)
    recipe, record = override(RECIPE, changes or []), make_record(size, context, sides)
    _check(output, pack, pictures, negatives)
    maps = _open(labelmaps, quiet)
    done = ""
    if pack is not None:
        write_pack(maps, pack)
        done = f"{pack}: {len(maps.names)} label maps, {pack.stat().st_size:,} bytes"
    elif pictures is not None:
        count, page = pictures
        draw_page(Generator(taught(maps, Ranges()), record, Ranges()), count, page, seed)
        done = str(page)
    elif negatives is not None:
        done = _write_negatives(maps, *negatives, seed, device, quiet)
    elif output is not None:
        origin = Origin(maps.data, maps.licence, maps.key, Ranges())
        settings = make_settings(maps.data, net, record, recipe, seed)
        transfer = None if start is None else Transfer(load(start), mix=mix)
        title = f"training {net} on generated images of {len(maps.names)} heads"
        with options.following(title, recipe.epochs, quiet) as (log, announce):
            fit(settings, origin, maps, output, resume=resume, device=device or None, transfer=transfer, log=log, announce=announce)
        words = ["monet-train", "synth", maps.data, "--net", net, "--size", str(size), "--context", str(context), "--seed", str(seed)]
        words += [*(("--sides",) if sides else ()), *(("--from", transfer.weights.name) if transfer else ())]
        words += [*(("--mix", f"{mix:g}") if mix else ())]
        words += [word for change in changes or [] for word in ("--set", change)]
        weights = fold(output, shlex.join(words)).write(output / MODEL)
        done = f"{output / MODEL}: sha256 {weights.sha256}. {DISCLAIMER}"
    if not quiet:
        print(done)


def _write_negatives(maps: LabelMaps, count: int, folder: Path, seed: int, device: str, quiet: bool) -> str:
    from ..device import choose_device
    from .negatives import write

    with progress_bar(f"generating scans without a tumour of {len(maps.names)} heads", quiet) as bar:
        write(maps, folder, count, seed, choose_device(device), bar or (lambda done, total: None))
    return f"{folder}: {count * len(maps.names)} scans. {DISCLAIMER}"


def _check(output: Path | None, pack: Path | None, pictures: tuple[int, Path] | None, negatives: tuple[int, Path] | None) -> None:
    """Refuse before the work what could not be written after it."""
    if pictures is not None and pictures[0] < 1:
        raise MonetError(f"--pictures {pictures[0]}: expected at least one slice to draw")
    if negatives is not None and negatives[0] < 1:
        raise MonetError(f"--negatives {negatives[0]}: expected at least one scan of every head")
    if output is not None:
        check_folder(output)
        refuse_special(output / MODEL)
    if negatives is not None:
        check_folder(negatives[1])
    for path, ending in ((pack, ".zip"), (pictures[1] if pictures else None, ".png")):
        if path is not None:
            if path.suffix != ending:  # else a mistyped line would replace a label map
                raise OutputError(f"{path}: expected a file that ends in {ending}")
            check_folder(path.parent)
            refuse_special(path)


def _open(path: Path, quiet: bool) -> LabelMaps:
    from .maps import open_maps

    with progress_bar(f"reading {path.name}", quiet) as bar:
        return open_maps(path, bar or (lambda done, count: None))
