"""What the commands of `monet-train` share: options, checks of names, one split of several, the way from a folder to a prepared one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monet_edge.errors import DatasetError, MonetError
from monet_edge.options import Options
from monet_edge.terminal import progress_bar

if TYPE_CHECKING:
    from .dataset import Dataset
    from .prepare import Prepared
    from .splits import Split

DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder with dataset.json, imagesTr and labelsTr.")]
WeightsArgument = Annotated[str, typer.Argument(metavar="WEIGHTS", help="A shipped model's name, a .safetensors file, or its folder.")]
ALL = "all"
_VOLUMES = f"Which volumes (channels) of a scan with several, in a 4-D file or nnU-Net's _0000, _0001: one, several as in 0,1, or {ALL}."
VolumeOption = Annotated[str, typer.Option("--volume", metavar=f"N,...|{ALL}", help=_VOLUMES)]
TrainedVolumeOption = Annotated[
    str | None, typer.Option("--volume", metavar=f"N,...|{ALL}", help=f"{_VOLUMES} Default: those trained on, or 0.")
]
SiteVolumeOption = Annotated[
    str | None, typer.Option("--volume", metavar=f"N,...|{ALL}", help=f"{_VOLUMES} Default: those that were prepared, or 0.")
]
StatedSpacingOption = Annotated[str | None, typer.Option("--spacing", **Options.__dataclass_fields__["spacing"].metadata)]
ChangesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe, such as epochs=300.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")]
NetOption = Annotated[str, typer.Option(help="monet, unet-16, unet-64 or attention-unet.")]
SidesOption = Annotated[bool, typer.Option("--sides-as-one", help="Left X and right X count as one: compared with X, or with both.")]
GroupOption = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Who is a patient: the first group of its match in a case's name, as in '(.*)_frame'.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="MODEL", help="Start from a shipped model or a .safetensors file of the same network.")
]
MixOption = Annotated[
    float,
    typer.Option(metavar="SHARE", min=0, max=0.99, help="With --from: its share in the weights that the run ends with; 0.5: the mean."),
]
RunOption = Annotated[Path, typer.Option("-o", "--output", help="The run folder.")]
SizeOption = Annotated[int, typer.Option(help="Height and width of the network's input.")]
SpacingOption = Annotated[
    str, typer.Option(metavar="MM|auto", help="What a pixel measures: slices go in tiles of --size. auto: the scans' median. 0: squeezed.")
]
ThicknessOption = Annotated[float, typer.Option(metavar="MM", help="Between neighbouring slices of --context. 0: the scan's own.")]
NeighboursOption = Annotated[str, typer.Option(help="Where no slice lies at --thickness: nearest, or linear between two.")]
AUTO = "auto"


def check_start(start: str | None, freeze: bool, mix: float) -> None:
    """Refuse what needs a start without one: a MonetError."""
    for option, given in (("--freeze", freeze), ("--mix", mix)):
        if given and start is None:
            raise MonetError(f"{option}: keeps what --from brings; give it too")


def one_of(option: str, value: str, known: Iterable[str]) -> None:
    """Raise a MonetError unless a value is one of the known names."""
    if value not in known:
        raise MonetError(f"{option} {value}: expected one of {', '.join(known)}")


def spacing_of(text: str, found: Prepared, slicing: str) -> float:
    """What --spacing says, in mm.

    Raises
    ------
    MonetError
        If it is neither a number nor auto, or a data set that does not know its spacing is asked for it.
    """
    if text == AUTO:
        if not found.spacing_known:
            raise DatasetError(f"{found.name}: its dataset.json says that the spacing is unknown: there is no median for --spacing {AUTO}")
        return found.median_spacing(slicing)
    try:
        return float(text)
    except ValueError:
        raise MonetError(f"--spacing {text}: expected a number of mm, or {AUTO}") from None


def volumes(dataset: Path, text: str | None) -> tuple[int, ...] | None:
    """What --volume says of a data set, or of what was prepared of one; None where nothing is said.

    Raises
    ------
    MonetError
        If it is something else than numbers of volumes, or the data set does not name all that it has.
    """
    from .dataset import all_channels
    from .prepare import INDEX, open_prepared

    if text is None:
        return None
    if text == ALL:
        return open_prepared(dataset).channels if (dataset / INDEX).exists() else all_channels(dataset)
    numbers = text.split(",")
    if not all(number.isdecimal() and len(number) <= 4 for number in numbers) or len({*map(int, numbers)}) < len(numbers):
        raise MonetError(f"--volume {text}: expected the number of a volume, counted from 0, several different ones as in 0,1, or {ALL}")
    return tuple(map(int, numbers))


def read(dataset: Path, channels: tuple[int, ...] | None, quiet: bool = False, spacing: Any = None) -> Dataset:
    """Read a data set, and say what in its folder is not read; ``spacing`` is what --spacing states."""
    from .dataset import read as read_dataset

    found = read_dataset(dataset, channels or (0,), Options(spacing=spacing).voxel_mm)
    if not quiet:
        for warning in found.warnings:
            warn(f"{dataset}: {warning}")
    return found


def read_json(path: Path) -> Any:
    """What a .json file holds; a MonetError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise MonetError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MonetError(f"{path}: no JSON: {error}") from None


def warn(message: str) -> None:
    """A line on standard error."""
    print(f"monet-train: warning: {message}", file=sys.stderr)


def prepare(dataset: Path, folder: Path, channels: tuple[int, ...] | None, quiet: bool) -> Prepared:
    """Prepare a data set in a folder, with a progress bar."""
    from .prepare import prepare as prepare_dataset

    found = read(dataset, channels, quiet)
    with counting(f"preparing {found.name}: {len(found.pairs)} cases", len(found.pairs), quiet) as progress:
        return prepare_dataset(found, folder, progress=progress)


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


@contextmanager
def following(title: str, epochs: int, quiet: bool) -> Iterator[tuple[Callable[[dict[str, float]], None], Callable[[str], None]]]:
    """A progress bar over so many epochs, or a line of metrics each where there is none; yields `fit`'s ``log`` and ``announce``."""
    with progress_bar(title, quiet) as bar:

        def log(row: dict[str, float]) -> None:
            if bar is not None:
                bar(int(row["epoch"]) + 1, epochs)
            elif not quiet:
                print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)

        def announce(line: str) -> None:
            if not quiet:
                print(line, file=sys.stderr, flush=True)

        yield log, announce


def prepared(dataset: Path, folder: Path, channels: tuple[int, ...] | None, quiet: bool) -> Prepared:
    """A prepared data set as it is, which has its channels only; any other is prepared in ``folder``.

    Raises
    ------
    DatasetError
        If other channels are asked for than were prepared.
    """
    from .cases import spelled
    from .prepare import INDEX, open_prepared

    if not (dataset / INDEX).exists():
        return prepare(dataset, folder, channels, quiet)
    found = open_prepared(dataset)
    if channels not in (None, found.channels):
        then, now = spelled(found.channels), spelled(channels or ())
        raise DatasetError(f"{dataset} was prepared with --volume {then}, not {now}; prepare the data set again for that")
    return found


def plan(
    ready: Prepared, run: Path, *, resume: bool, splits: Path | None, folds: int, fold: int, group: str, quiet: bool
) -> tuple[Split, str]:
    """Who trains and who validates, and the rule that says so, for splits.json.

    A run that goes on keeps its own split unless another is asked for, which `state.start` then refuses.
    """
    from .splits import BY_CASE, LISTED, choose_split, look_alikes, patients, read_rule, read_splits, rule_of, split

    names, own = list(ready.keys), run / "splits.json"
    if splits is not None:
        part = choose_split(read_splits(splits), fold)
        return part, rule_of(part, group, read_rule(splits))
    if resume and own.exists() and not folds and not group:
        return choose_split(read_splits(own), fold), read_rule(own)
    part = choose_split(split(names, folds=folds, pattern=group, listed=ready.validation), fold)
    if ready.validation and not folds and not group:
        return part, rule_of(part, otherwise=LISTED)
    rule, alike = patients(names, group).rule, look_alikes(names)
    if rule == BY_CASE and alike and not quiet:
        warn(f"split by case, though {alike[0]} and {alike[1]} may be of one patient; if so, say who is one with --group REGEX")
    return part, rule
