"""`python -m benchmarks.hippocampi DATA [MODEL ...]`: how models of heads find hippocampi that were traced by hand on real scans.

The data set `hippocampus` has crops of some 35x50x35 mm, too small to know where in a head one is. So each takes the place of the left
hippocampus in a head of `brain-t1`, where the first model finds it; of those heads no label is read. `brain` was chosen by this.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
import typer
from scipy import ndimage

import monet_edge
from monet_edge.model import Model

EVERY = 5  # of the crops in alphabetical order: 42 of 209
FADE = 4  # voxels from a crop's edge into it, over which the head gives way to it
TISSUE = (15, 85)  # percentiles of a crop's brightness that become those of what it replaces
NAME = "hippocampus"


def canonical(path: Path) -> np.ndarray:
    """A file's voxels, right, anterior and superior last."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


def find(model: Model, head: np.ndarray, side: str = "") -> np.ndarray:
    """Where a model says that hippocampus is in a head of voxels of 1 mm: bool."""
    labels = [number for number, name in enumerate(model.weights.preprocess.labels, start=1) if name.endswith(side + NAME)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a head with a seam may be unlike others
        mask = model.segment(nibabel.Nifti1Image(head.astype(np.float32), np.eye(4)))
    return np.isin(np.asarray(mask.dataobj), labels)


def middle(found: np.ndarray) -> np.ndarray:
    """The centre of the largest piece."""
    pieces, _ = ndimage.label(found)
    return np.argwhere(pieces == np.bincount(pieces[pieces > 0]).argmax()).mean(0)


def put(crop: np.ndarray, traced: np.ndarray, head: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
    """A head with a crop in it whose hippocampus lies around a centre, and where the crop lies."""
    first = np.round(centre - np.argwhere(traced).mean(0)).astype(int)
    place = tuple(slice(start, start + side) for start, side in zip(first, crop.shape, strict=True))
    (dark, bright), (darker, brighter) = (np.percentile(image, TISSUE) for image in (crop, head[place]))
    alike = np.maximum((crop - dark) / (bright - dark) * (brighter - darker) + darker, 0)
    edges = [np.minimum(np.arange(side) + 1, side - np.arange(side)) for side in crop.shape]
    share = np.minimum(np.minimum.reduce(np.meshgrid(*edges, indexing="ij")) / FADE, 1)
    result = head.astype(np.float32)
    result[place] += share * (alike - result[place])
    return result, place


def measure(models: list[Model], data: Path) -> dict[str, np.ndarray]:
    """Of every model and crop: Dice, ml found and ml traced."""
    heads = [canonical(path) for path in sorted((data / "brain-t1" / "imagesTr").glob("*.nii.gz"))]
    centres = [middle(find(models[0], head, "left ")) for head in heads]
    rows: dict[str, list[tuple[float, float, float]]] = {model.weights.name: [] for model in models}
    for number, path in enumerate(sorted((data / NAME / "imagesTr").glob("*.nii.gz"))[::EVERY]):
        traced = canonical(data / NAME / "labelsTr" / path.name) > 0
        head, place = put(canonical(path), traced, heads[number % len(heads)], centres[number % len(heads)])
        for model in models:
            found = find(model, head)[place]
            dice = 2 * (found & traced).sum() / (found.sum() + traced.sum())
            rows[model.weights.name].append((dice, found.sum() / 1000, traced.sum() / 1000))
    return {name: np.array(row) for name, row in rows.items()}


def main(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The data sets' folder.")],
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="Shipped names or files; brain if none is named.")] = None,
) -> None:
    """Print a row for every model."""
    ready = [monet_edge.load(model) for model in models or ["brain"]]
    for name, row in measure(ready, data).items():
        dice, found, traced = row.mean(0)
        error = row[:, 0].std(ddof=1) / len(row) ** 0.5
        typer.echo(f"{name}: Dice {dice:.3f} (SE {error:.3f}) on {len(row)} crops, {found:.2f} ml found, {traced:.2f} ml traced")


if __name__ == "__main__":
    typer.run(main)
