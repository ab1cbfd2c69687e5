"""From a finished run to what is given away: the weights file, measured through the runtime, with its splits and its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from monet_edge import fingerprint
from monet_edge.codes import pick
from monet_edge.errors import DatasetError, OutputError
from monet_edge.extent import extent_of, largest
from monet_edge.files import check_folder, refuse_special, write_together
from monet_edge.model import Progress
from monet_edge.weights import Weights, load, parse

from . import checkpoint
from .card import card, measuring
from .cases import check_dataset
from .config import DEPTHS, Settings, effective_settings, in_pixels
from .data import grid_of, strip_skull
from .dataset import Case, Dataset, oriented
from .dataset import load as load_case
from .evaluate import check_names, evaluate, make_model
from .fold import Folded, finished, fold_run
from .labels import Match, match
from .provenance import Source, one_line
from .quality.calibration import pairs_of, tell
from .scores import summarise
from .splits import read_splits
from .synth import origin

FEW = 4  # structures whose Dice have room in a list of models


def export(run: Path, dataset: Dataset, output: Path, command: str = "") -> Weights:
    """Fold a finished run into a weights file, and write its splits beside it: both or none.

    Parameters
    ----------
    run : Path
        A run folder with its final weights.
    dataset : Dataset
        What it was trained on: the training part's appearance goes into the file, see `monet_edge.fingerprint`.
    output : Path
        The .safetensors file.
    command : str
        How it was trained, for the model card.

    Returns
    -------
    Weights
        As loaded again from ``output``.

    Raises
    ------
    OutputError
        If ``output`` cannot be such a file.
    DatasetError
        If the run was trained on other cases than this data set's, or on other channels.
    ModelError
        If the run has no final weights, or the runtime's probabilities differ from PyTorch's by more than 1e-4.
    """
    check_output(output)
    return _folded(run, dataset, command).write(output)


def release(
    run: Path,
    dataset: Dataset,
    output: Path,
    others: Sequence[Dataset] = (),
    notes: Sequence[str] = (),
    command: str = "",
    named: bool = False,
    sides_as_one: bool = False,
    progress: Progress | None = None,
    codes: Any = None,
    means: Sequence[Path] = (),
) -> Weights:
    """Export a run, measure it through the runtime, and write its card beside the file: all that was measured, or nothing.

    Parameters
    ----------
    run, dataset, output, command
        As for `export`; measured on the validation part of ``dataset``. A run on generated images has seen no scan: it is measured on all.
    others : sequence of Dataset
        Also measured on, all of each.
    notes : sequence of str
        What a reader of the card must know.
    named : bool
        Name the worst cases in the file and the card: a hospital's cases may be named after their patients.
    sides_as_one : bool
        "left X" and "right X" count as X where another data set has them as one.
    progress : callable, optional
        Called with the number of scans read or segmented, and of all.
    codes : JSON value, optional
        A table of SNOMED codes with each of the model's labels, see `monet_edge.codes.pick`.
    means : sequence of Path
        Other runs; the file holds the mean of all their weights, see `fold.fold_run`.

    Returns
    -------
    Weights
        With what was measured in their provenance, as loaded again from ``output``.

    Raises
    ------
    MonetError
        As `export`, if two data sets have one name, and if a case is not fit for use; ``output`` and what lies beside it are as before.
    """
    measured = plan(run, dataset, output, others, sides_as_one, codes)
    trained = 0 if origin.is_generated(run) else len(read_splits(run / "splits.json")[0]["train"])
    done, total = 0, trained + sum(len(part.names) for part in measured)

    def count(_: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    folded = _folded(run, dataset, command, count, means)
    model = make_model(parse(output.stem, folded.pack(output)))
    summaries, pairs = {}, {}
    for part in measured:
        scores = list(evaluate(model, part.dataset, part.names, sides_as_one=sides_as_one, progress=count))
        summaries[part.heading], pairs[part.heading] = summarise(scores, named), pairs_of(scores)
    coded = {} if codes is None else {"codes": pick(codes, folded.settings.preprocess.labels)}
    told = tell(pairs.pop(measured[0].heading), pairs)
    more = {**folded.provenance.more, "dice": _in_short(next(iter(summaries.values()))), "metrics": summaries, **told, **coded}
    folded = replace(folded, provenance=replace(folded.provenance, more=more))
    files = folded.files(output)
    weights = parse(output.stem, files[output])
    commands = [measuring(output, part.dataset.name, part.validation, dataset.channels, sides_as_one) for part in measured]
    unscored = [f"Not scored on {part.heading}: {part.match}." for part in measured if str(part.match)]
    text = card(weights, weights.provenance["metrics"], [*notes, *unscored], commands)
    write_together({**files, output.with_suffix(".md"): text.encode()})
    return load(output)


@dataclass(frozen=True)
class Measured:
    """Cases to measure a model on, under a heading of their own."""

    heading: str
    dataset: Dataset
    names: list[str]
    validation: bool
    match: Match


def plan(
    run: Path, dataset: Dataset, output: Path, others: Sequence[Dataset] = (), sides_as_one: bool = False, codes: Any = None
) -> list[Measured]:
    """What `release` would measure, having refused what would fail after hours; no scan is opened.

    Raises
    ------
    MonetError
        If ``output`` cannot be written, the run is not finished or of other cases, two data sets have one name, or one has no label
        of the model's, or holds scans that trained, or ``codes`` lack a label.
    """
    check_output(output)
    for path in (output.with_suffix(".splits.json"), output.with_suffix(".md")):
        refuse_special(path)
    settings = finished(run)
    if codes is not None:
        pick(codes, settings.preprocess.labels)
    given = _given(run, dataset, others)
    headings = [heading for heading, *_ in given]
    for heading in headings:
        if headings.count(heading) > 1:
            raise DatasetError(f"two of the data sets are called {heading}: give one of them another name in its dataset.json")
    matches = [match(settings.preprocess.labels, found.labels, settings.merged, sides_as_one) for _, found, *_ in given]
    return [Measured(*part, matched) for part, matched in zip(given, matches, strict=True)]


def _given(run: Path, dataset: Dataset, others: Sequence[Dataset]) -> list[tuple[str, Dataset, list[str], bool]]:
    """What a `Measured` holds, its match apart: the validation part of what trained, all of what did not."""
    if origin.is_generated(run):
        return [_whole(found) for found in (dataset, *others)]
    split = read_splits(run / "splits.json")[0]
    check_names(dataset, [*split["train"], *split["val"]])
    trained = {_file(dataset, name) for name in split["train"]}
    for other in others:
        seen = [name for name in other.pairs if _file(other, name) in trained]
        if seen:
            raise DatasetError(
                f"{other.folder}: the run was trained on {len(seen)} of its scans, such as {seen[0]}; it measures nothing new"
            )
    return [(f"{one_line(dataset.name)}, validation", dataset, split["val"], True), *map(_whole, others)]


def _whole(dataset: Dataset) -> tuple[str, Dataset, list[str], bool]:
    return one_line(dataset.name), dataset, list(dataset.pairs), False


def _in_short(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """A summary's Dice for lists of models: of every structure, or the mean of many."""
    dice = [row["dice"]["mean"] for row in summary.values()]
    return " / ".join(f"{value:.2f}" for value in dice) if len(dice) <= FEW else f"{fmean(dice):.2f}, mean of {len(dice)}"


def _file(dataset: Dataset, name: str) -> tuple[int, int]:
    """What all names of a case's scan have in common."""
    status = dataset.pairs[name][0].stat()
    return status.st_dev, status.st_ino


def check_output(output: Path) -> None:
    """Refuse before the work what could not be written after it: an OutputError."""
    if output.suffix != ".safetensors" or not output.parent.is_dir():
        raise OutputError(f"{output}: expected a file that ends in .safetensors, in a folder that exists")
    if checkpoint.is_one(output):
        raise OutputError(f"{output}: that is a checkpoint of the run in this folder; choose another name")
    check_folder(output.parent)
    refuse_special(output)


def _folded(
    run: Path, dataset: Dataset, command: str, progress: Callable[[str], None] = lambda _: None, means: Sequence[Path] = ()
) -> Folded:
    """Fold a run, one on a data set with the appearance of its training scans; nothing is written."""
    if origin.is_generated(run):
        return origin.fold(run, command, means)
    folded = fold_run(run, Source.of(dataset), {"command": command, "channels": list(dataset.channels)}, {}, means)
    split = read_splits(run / "splits.json")[0]
    for each in (run, *means):
        check_dataset(each, dataset, split)
    check_names(dataset, split["train"])
    return replace(folded, looks=_fingerprint(_cases(dataset, split["train"], progress), folded.settings, dataset.spacing_known))


def _cases(dataset: Dataset, names: Sequence[str], progress: Callable[[str], None]) -> Iterator[Case]:
    for name in names:
        yield load_case(dataset, name)
        progress(name)


def _fingerprint(cases: Iterable[Case], settings: Settings, spacing_known: bool) -> fingerprint.Fingerprint | None:
    """How the training scans look, and how they look stripped where training strips them; None where they are too few to tell."""
    record = settings.preprocess
    augmentation = in_pixels(effective_settings(settings).recipe.augmentation, record.spacing)
    stripped = np.linspace(*augmentation.skull_strip_depth, 3) if augmentation.skull_strip else np.empty(0)
    rows: list[list[np.ndarray]] = []
    extents = []
    for case in cases:
        case = oriented(case, record.slicing)
        extents.append(extent_of(case.label.shape, case.spacing if spacing_known else None))
        looks = fingerprint.look(case.images, record, case.statistics)
        scale = fingerprint.SIDE / sqrt(prod(grid_of(case, record).tiling.shape))
        depths = [min(DEPTHS - 1, round(depth * scale)) for depth in stripped]
        stripped_looks = (strip_skull(np.moveaxis(looks, 0, 1), depth, record) for depth in depths)
        rows.append([fingerprint.features(looks), *(fingerprint.features(np.moveaxis(each, 1, 0)) for each in stripped_looks)])
    plain, *variants = np.stack(rows, axis=1)
    found = fingerprint.learn(plain, variants)
    return found and replace(found, extent=largest(extents))
