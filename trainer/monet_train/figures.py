"""The paper's pictures: overlays and box plots (Fig 4), activations and their histograms (Fig 5), a run's curves."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

from monet_edge.files import refuse_special
from monet_edge.inputs import Inputs
from monet_edge.model import Model
from monet_edge.preprocess import to_mask
from monet_edge.weights import Weights, load

from .cases import weights_channels
from .data import grid_of, labels_of
from .dataset import Case, oriented, read
from .dataset import load as load_case
from .evaluate import check_names, make_model, score
from .labels import Match, match
from .network import Network
from .scores import Score

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TRUTH, PREDICTION = "#40c4ff", "#ff5e3a"  # apart from each other for colour-blind eyes too


def overlays(path: Path, images: Sequence[np.ndarray], truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> None:
    """Slices (H, W) with the outlines of truth (blue) and prediction (orange), side by side."""
    figure, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3), squeeze=False)
    for axis, image, truth, predicted in zip(axes[0], images, truths, predictions, strict=True):
        axis.imshow(image, cmap="gray")
        for mask, colour in ((truth, TRUTH), (predicted, PREDICTION)):
            if mask.any():
                axis.contour(mask, [0.5], colors=colour, linewidths=1)
        axis.axis("off")
    figure.text(0.5, 0.01, "blue: truth, orange: prediction", ha="center", fontsize=8)
    _write(figure, path)


def boxes(path: Path, models: Mapping[str, Sequence[Score]]) -> None:
    """Dice and Hausdorff distance per patient, a box a model."""
    figure, axes = plt.subplots(1, 2, figsize=(max(8, 3 * len(models)), 4))
    for axis, measure in zip(axes, ("dice", "hausdorff"), strict=True):
        axis.boxplot([[getattr(score, measure) for score in scores] for scores in models.values()], tick_labels=list(models))
        axis.set_ylabel("Dice" if measure == "dice" else f"Hausdorff, {next(iter(models.values()))[0].unit}")
    _write(figure, path)


def progress(path: Path, runs: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Validation Dice against steps of training, a line a run; the steps on a logarithmic axis."""
    figure, axis = plt.subplots(figsize=(7, 4))
    for title, points in runs.items():
        axis.plot(*zip(*points, strict=True), label=title, linewidth=1.2)
    axis.set_xscale("log")
    axis.set_xlabel("steps")
    axis.set_ylabel("Dice of the validation patients")
    axis.set_ylim(0, 1)
    axis.legend(loc="upper left", fontsize=8)
    _write(figure, path)


CHANNELS = 16  # of an activation are drawn; MoNet has as many


def activations(path: Path, weights: Weights, image: np.ndarray) -> dict[str, float]:
    """First channels of an early, a middle and a late activation for one network input (C, S, S), with their histograms.

    What leaves an ELU or a ReLU is shown: a BatchNorm after a ReLU would move its zeros elsewhere.

    Returns
    -------
    dict of str to float
        The share of near-zero activations (below 1 % of the value's largest) by the value's name.
    """
    network = Network(weights.spec).eval()
    network.load_state_dict({name: torch.tensor(tensor) for name, tensor in weights.tensors.items()})
    active = {op.name for op in weights.spec.ops if op.attrs.get("activation") in ("elu", "relu")}
    with torch.no_grad():
        found = network.values(torch.from_numpy(image[None]))
        values = [(name, value[0].numpy()) for name, value in found if name in active and value.shape[1] >= CHANNELS]
    chosen = [values[0], values[len(values) // 2], values[-1]]
    figure, axes = plt.subplots(3, CHANNELS + 2, figsize=(CHANNELS + 2, 3.4), gridspec_kw={"width_ratios": [1] * CHANNELS + [0.6, 3]})
    silent = {}
    for row, (name, value) in zip(axes, chosen, strict=True):
        for axis, channel in zip(row, value[:CHANNELS], strict=False):
            axis.imshow(channel, cmap="viridis")
        for axis in row[:-1]:
            axis.axis("off")
        row[0].set_title(name, fontsize=8, loc="left")
        row[-1].hist(value.ravel(), bins=80)
        row[-1].set_yscale("log")
        row[-1].tick_params(labelsize=6)
        silent[name] = float((np.abs(value) < 0.01 * np.abs(value).max()).mean())
    _write(figure, path)
    return silent


def curves(run: Path) -> None:
    """`curves.png` of a run folder: losses and validation Dice by epoch."""
    rows = list(csv.DictReader((run / "metrics.csv").open(encoding="utf-8", newline="")))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for key in rows[-1]:
        points = [(int(row["epoch"]), float(row[key])) for row in rows if row[key]]
        if key.endswith("loss") or key.startswith("val_dice"):
            axes[int(key.startswith("val_dice"))].plot(*zip(*points, strict=True), label=key)
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.legend()
    _write(figure, run / "curves.png")


def draw(
    model: str, folder: Path, output: Path, cases: Sequence[str], channels: tuple[int, ...] | None
) -> Iterator[tuple[Path, dict[str, float]]]:
    """All pictures of a model on a few cases; yields every file, with the shares that `activations` returns."""
    weights = load(model)
    found, record = read(folder, weights_channels(weights, channels)), weights.sliced
    matched, names = match(record.labels, found.labels, weights.merged), list(cases) or list(found.pairs)[:4]
    check_names(found, names)
    pictures = [output / f"{name}.png" for name in ("overlays", "boxes", "activations")]
    for path in pictures:
        refuse_special(path)
    engine = make_model(weights)
    output.mkdir(parents=True, exist_ok=True)
    examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    scores: list[Score] = []
    for name in names:
        case = load_case(found, name)
        examples.append(example(engine, case, matched))
        scores.extend(score(engine, case, matched, found.spacing_known))
    overlays(pictures[0], [image[record.context] for image, _, _ in examples], *zip(*(rest for _, *rest in examples), strict=True))
    yield pictures[0], {}
    boxes(pictures[1], {weights.name: scores})
    yield pictures[1], {}
    yield pictures[2], activations(pictures[2], weights, examples[0][0])


def example(model: Model, case: Case, matched: Match) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slice of a case, or the tile of it, that holds most of the structures which model and data set know, as the network sees it.

    Returns
    -------
    image : (C, S, S) float32
        The network's input.
    truth, prediction : (S, S) uint8
        In one numbering, see `Match.masks`.
    """
    record = model.weights.sliced
    case = oriented(case, record.slicing)
    shared, _ = matched.masks(case.label, case.label)
    z = int((shared > 0).sum(axis=(1, 2)).argmax())
    grid = grid_of(case, record)
    structures = replace(record, labels=tuple(pair.name for pair in matched.pairs))
    truth = labels_of(replace(case, label=shared[z : z + 1]), structures, False, grid.tiling)[0]
    windows = grid.tiling.windows
    tile = max(range(len(windows)), key=lambda i: int((truth[windows[i]] > 0).sum()))
    image = Inputs(case.images, record, case.statistics, grid)(z * len(windows) + tile)
    predicted = to_mask(model.predict(image[None])[0], record.threshold)
    return image, truth[windows[tile]], matched.masks(predicted, predicted)[1]


def _write(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
