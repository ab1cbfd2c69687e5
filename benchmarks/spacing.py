"""What `fit --spacing` changes: two small networks, one squeezes its slices and one works in millimetres, on others' scans.

They differ in the record alone: the same cases, steps, seed and size of the network's input. The cases that validate are segmented as
they are, resampled by cubic splines, and in other fields of view, which are the same voxels with more air or less around them. Masks
are held to the truth on the coarser of the two grids, see `resolutions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from monet_edge import formats, weights
from monet_edge.intensities import measure
from monet_edge.model import Model
from monet_edge.preprocess import SLICINGS
from monet_edge.volume import Scan, Voxels, orient
from monet_train.config import STRONG, Settings, make_preprocess
from monet_train.dataset import read
from monet_train.fold import fold_run
from monet_train.prepare import Prepared, prepare
from monet_train.provenance import Source
from monet_train.splits import Split, split
from monet_train.train import fit

from .resolutions import PIXELS, coarser, overlap, resampled

SIZE, MM = 96, 2.4  # pixels of the network's input, and what one measures: heads of 160 x 210 mm are 67 x 88 pixels
EPOCHS, STEPS, BATCH = 6, 50, 16  # minutes on one core
SLICING = "axial"
FIELD = 256.0  # mm of air and head along both sides of a slice, as a scanner often has it
Copy = Callable[[Scan, np.ndarray], tuple[Scan, np.ndarray]]  # a scan and its labels (X, Y, Z) as another scanner would have them


def settings_of(prepared: Prepared, spacing: float, size: int = SIZE, epochs: int = EPOCHS, steps: int = STEPS) -> Settings:
    """One of the two trainings; 0 squeezes."""
    recipe = replace(STRONG, epochs=epochs, epoch_steps=steps, batch=BATCH, validate_every=epochs)
    record = make_preprocess(prepared.labels, size=size, slicing=SLICING, spacing=spacing)
    return Settings(dataset=prepared.name, net="monet", preprocess=record, recipe=recipe)


def trained(settings: Settings, prepared: Prepared, part: Split, folder: Path) -> Model:
    """A network trained so, as its weights file; a run that was finished before is taken as it is, one that was stopped goes on."""
    if not (folder / "final.safetensors").exists():
        fit(settings, prepared, part, folder, resume=True, device="cpu")
    path = folder / "model.safetensors"
    fold_run(folder, Source.of(prepared), {}, {}).write(path)
    return Model(weights.load(path))


def as_it_is(scan: Scan, truth: np.ndarray) -> tuple[Scan, np.ndarray]:
    """The scan and its labels."""
    return scan, truth


def of_pixels(scan: Scan, truth: np.ndarray, pixels: tuple[float, float]) -> tuple[Scan, np.ndarray]:
    """The scan with other pixels in its slices; its labels stay where they are."""
    return resampled(scan, pixels, SLICING, False), truth


def in_field(scan: Scan, truth: np.ndarray, mm: float) -> tuple[Scan, np.ndarray]:
    """Both with so many mm along either side of a slice: air around, or what lies further out cut away."""
    before = np.array(scan.shape)
    after = before.copy()
    for axis in _sides(scan):
        after[axis] = round(mm / scan.spacing[axis])
    first = (before - after) // 2
    return _moved(scan, truth, first, after)


def cut_to_head(scan: Scan, truth: np.ndarray) -> tuple[Scan, np.ndarray]:
    """Both cut to what is no air, along the sides of a slice."""
    first, after = np.zeros(3, int), np.array(scan.shape)
    voxels = Voxels(scan.voxels, scan.slope, scan.inter)
    head = voxels.scaled() > measure(voxels).floor
    for axis in _sides(scan):
        found = np.flatnonzero(head.any(axis=tuple({0, 1, 2} - {axis})))
        first[axis], after[axis] = found[0], found[-1] + 1 - found[0]
    return _moved(scan, truth, first, after)


def _sides(scan: Scan) -> tuple[int, ...]:
    return orient(scan.affine, SLICINGS[SLICING]).axes[1:]


def _moved(scan: Scan, truth: np.ndarray, first: np.ndarray, shape: np.ndarray) -> tuple[Scan, np.ndarray]:
    """Both on a grid that begins at voxel ``first``, which may lie outside, and has another shape; what is new is air."""
    there = tuple(slice(max(0, start), min(side, start + wanted)) for start, side, wanted in zip(first, scan.shape, shape, strict=True))
    here = tuple(slice(part.start - start, part.stop - start) for part, start in zip(there, first, strict=True))
    voxels = np.full(shape, scan.voxels.min(), scan.dtype, order="F")
    labels = np.zeros(shape, truth.dtype, order="F")
    voxels[here], labels[here] = scan.voxels[there], truth[there]
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return replace(scan, path=None, voxels=voxels, affine=affine, header=None), labels


COPIES: dict[str, Copy] = {
    "as they are": as_it_is,
    **{f"resampled to {' x '.join(f'{mm:g}' for mm in pixels)} mm": partial(of_pixels, pixels=pixels) for pixels in PIXELS},
    f"field of view {FIELD:g} x {FIELD:g} mm": partial(in_field, mm=FIELD),
    "field of view cut to the head": cut_to_head,
}


def dice(model: Model, scan: Scan, truth: np.ndarray) -> float:
    """Mean over the labels that the truth has."""
    mask = model.segment_scan(scan).mask
    shape, labels = tuple(map(min, mask.shape, truth.shape)), range(len(model.weights.preprocess.labels) + 1)
    found, true = (coarser(each, shape, labels) for each in (mask, truth))
    return mean(overlap(found == label, true == label) for label in labels[1:] if (true == label).any())


def measured(
    folder: Path, output: Path, size: int = SIZE, mm: float = MM, epochs: int = EPOCHS, steps: int = STEPS
) -> list[dict[str, Any]]:
    """Train both on a data set of whole heads and score them: a row a kind of copy, with the mean Dice over labels of every case."""
    dataset = read(folder)
    prepared = prepare(dataset, output / "prepared")
    part = split(list(prepared.keys))[0]
    models = {
        name: trained(settings_of(prepared, spacing, size, epochs, steps), prepared, part, output / name)
        for name, spacing in {"squeezed": 0.0, "millimetres": mm}.items()
    }
    rows: dict[str, dict[str, Any]] = {title: {"copy": title, **{name: [] for name in models}} for title in COPIES}
    for case in part["val"]:
        scan, label = (formats.read(path) for path in dataset.pairs[case])
        for title, changed in COPIES.items():
            copy, truth = changed(scan, label.voxels)
            for name, model in models.items():
                rows[title][name].append(dice(model, copy, truth))
    return list(rows.values())
