"""`python -m benchmarks.quality DATA`: how well the expected Dice holds, on data from elsewhere and on spoilt copies.

The copies are of the scans that calibrate, each spoilt in one way. Recorded in results/quality.json, from which docs/quality.md has
its tables. DATA has the data sets' folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import ndimage

from monet_edge.intensities import measure
from monet_edge.model import Model
from monet_edge.registry import shipped
from monet_edge.volume import Voxels
from monet_edge.weights import load as load_weights
from monet_train.dataset import Case, Dataset, load, read
from monet_train.evaluate import as_scans
from monet_train.labels import match
from monet_train.quality.calibration import Row, summary
from monet_train.splits import read_splits

RESULT = Path(__file__).parent / "results" / "quality.json"
ELSEWHERE = {"brain": "brain-t1", "brain-flair": "brain-flair-external", "pancreas-ct": "pancreas-negatives"}
Image = np.ndarray  # (Z, H, W) float32, its background the least of all


def inside(image: Image) -> np.ndarray:
    """What is no background, as `monet_edge.intensities.measure` tells."""
    low, high = image.min(), np.percentile(image, 99.5)
    return image > low + 0.03 * (high - low)


def noise(image: Image, share: float) -> Image:
    """White noise, its SD a share of the foreground's."""
    here = inside(image)
    grain = np.random.default_rng(0).normal(0, share * image[here].std(), image.shape)
    return np.where(here, np.maximum(image + grain, image.min() + 1e-3), image)


def gamma(image: Image, exponent: float) -> Image:
    """Another contrast, of the same order."""
    low, high = image.min(), np.percentile(image[inside(image)], 99.5)
    return low + ((image - low) / (high - low)) ** exponent * (high - low)


def bias(image: Image) -> Image:
    """A coil's shading of 4x4 control points, its logarithm's SD 0.4."""
    grid = np.random.default_rng(0).normal(0, 0.4, (4, 4))
    field = ndimage.zoom(grid, [side / 4 for side in image.shape[1:]], order=3)
    return image.min() + (image - image.min()) * np.exp(field)


def inverted(image: Image) -> Image:
    """Bright is dark: a contrast that no network here has seen."""
    here = inside(image)
    low, high = np.percentile(image[here], (0.5, 99.5))
    return np.where(here, np.maximum(low + high - image, image.min() + 1e-3), image)


SPOILT: dict[str, Callable[[Image], Image]] = {
    "as it is": lambda image: image,
    "noise, SD 0.4 of the foreground's": lambda image: noise(image, 0.4),
    "noise, SD 1": lambda image: noise(image, 1.0),
    "blur, SD 1.2 pixels": lambda image: ndimage.gaussian_filter(image, (0, 1.2, 1.2)),
    "blur, SD 3 pixels": lambda image: ndimage.gaussian_filter(image, (0, 3, 3)),
    "gamma 0.6": lambda image: gamma(image, 0.6),
    "gamma 1.8": lambda image: gamma(image, 1.8),
    "shading": bias,
    "inverted": inverted,
}


def spoil(case: Case, how: Callable[[Image], Image]) -> Case:
    """A copy of a case with other intensities."""
    images = tuple(Voxels(np.ascontiguousarray(how(image.scaled().astype(np.float32)), np.float32)) for image in case.images)
    return replace(case, images=images, statistics=tuple(map(measure, images)))


def rows(model: Model, dataset: Dataset, names: Sequence[str], how: Callable[[Image], Image] | None = None) -> Iterator[Row]:
    """What `segment` expects of a data set's cases, spoilt or as they are, and what is true."""
    found = match(model.weights.preprocess.labels, dataset.labels, model.weights.merged, sides_as_one=True)
    for name in names:
        case = load(dataset, name)
        case = spoil(case, how) if how else case
        result = model.segment_scan(as_scans(case, dataset.spacing_known))
        truth, mask = found.masks(case.label, result.mask.T)
        for number, pair in enumerate(found.pairs, 1):
            true, predicted = truth == number, mask == number
            dice = float(2 * (true & predicted).sum() / max(true.sum() + predicted.sum(), 1))
            for expected in (result.expected[one - 1] for one in pair.predicted):
                if expected is not None and predicted.any():
                    yield Row(pair.name, expected.dice, dice, expected.low <= dice <= expected.high)


def main(data: Annotated[Path, typer.Argument(help="The folder of the data sets.")]) -> None:
    """Measure all shipped models, and record it."""
    elsewhere: dict[str, list[Row]] = {}
    spoilt: dict[str, list[Row]] = {how: [] for how in SPOILT}
    for name in shipped():
        model = Model(load_weights(name))
        if name in ELSEWHERE:
            there = read(data / ELSEWHERE[name])
            elsewhere[f"{name} on {there.name}"] = list(rows(model, there, list(there.pairs)))
        if (data / name).is_dir():
            own, held = read(data / name), read_splits(shipped()[name].with_suffix(".splits.json"))[0]["val"]
            for how, change in SPOILT.items():
                spoilt[how] += rows(model, own, held, change)
        typer.echo(f"{name} is measured")
    elsewhere["all three"] = [row for found in elsewhere.values() for row in found]
    tables = {"elsewhere": elsewhere, "spoilt": spoilt}
    result = {table: {name: summary(found) for name, found in parts.items()} for table, parts in tables.items()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
