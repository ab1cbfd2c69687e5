"""What a scan's resolution and a network's tiles change in a mask, for a model in millimetres.

One head as it is and resampled, by cubic splines; masks are compared where they have the fewest voxels: the finer one's labels are
brought to the coarser one's grid, a voxel having the label that covers most of it. And mosaics of four scans, in tiles and whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from monet_edge import formats, weights
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.preprocess import SLICINGS
from monet_edge.spec import Op, Spec
from monet_edge.volume import Scan, orient
from monet_edge.weights import Weights

PIXELS = ((0.7, 0.7), (1.4, 1.4), (0.9, 0.9))  # mm along the rows and columns of the model's slices
TILE, MOSAIC = 256, 512
LEAST = 1000  # voxels of a structure in both masks, for its Dice to say anything


def in_millimetres(name: str, spacing: float) -> Weights:
    """A model that works in millimetres, or that is made to: one that squeezes is then taken to have seen pixels of ``spacing`` mm."""
    found = weights.load(name)
    return found if found.sliced.in_mm else replace(found, preprocess=replace(found.sliced, spacing=spacing))


def heads(model: Model, path: Path) -> list[dict[str, Any]]:
    """A row a copy of a scan: the Dice of its mask with the scan's own, over all structures as one and their mean."""
    scan = formats.read(path)
    ref = model.segment_scan(scan).mask
    rows = []
    for wanted in PIXELS:
        for every in (False, True):
            copy = resampled(scan, wanted, model.weights.preprocess.slicing, every)
            comp = model.segment_scan(copy).mask
            rows.append({"mm": [float(f"{mm:.3g}") for mm in copy.spacing], "shape": copy.shape, "volume": every, **compared(ref, comp)})
    return rows


def resampled(scan: Scan, pixels: Sequence[float], slicing: str, volume: bool) -> Scan:
    """A scan with other pixels (rows, columns) in the slices of a model; with ``volume`` its slices lie as far apart as its rows."""
    depth, height, width = orient(scan.affine, SLICINGS[slicing]).axes
    lengths = list(scan.spacing)
    lengths[height], lengths[width] = pixels
    if volume:
        lengths[depth] = pixels[0]
    before = np.array(scan.spacing)
    shape = [max(1, round(side * was / mm)) for side, was, mm in zip(scan.shape, before, lengths, strict=True)]
    factors = np.array(scan.shape) / shape  # what a voxel of the copy measures, in voxels of the scan
    found = ndimage.zoom(scan.voxels.astype(np.float32), 1 / factors, order=3, mode="nearest", grid_mode=True)
    limits = np.iinfo(scan.dtype) if scan.dtype.kind in "iu" else np.finfo(scan.dtype)
    low = max(float(scan.voxels.min()), float(limits.min))  # a spline's overshoot is no background that was there
    voxels = np.asfortranarray(np.clip(np.rint(found) if scan.dtype.kind in "iu" else found, low, float(limits.max)).astype(scan.dtype))
    affine = scan.affine.copy()
    affine[:3, :3] *= factors
    affine[:3, 3] += scan.affine[:3, :3] @ ((factors - 1) / 2)
    return replace(scan, path=None, voxels=voxels, affine=affine, header=None)


def compared(ref: np.ndarray, comp: np.ndarray) -> dict[str, Any]:
    """Dice of two masks of one thing on grids of one extent, on the coarser of the two along every axis."""
    shape = tuple(map(min, ref.shape, comp.shape))
    labels = range(int(max(ref.max(), comp.max())) + 1)
    one, other = (coarser(mask, shape, labels) for mask in (ref, comp))
    large = [label for label in labels[1:] if min(np.count_nonzero(mask == label) for mask in (one, other)) > LEAST]
    return {"dice": overlap(one > 0, other > 0), "labels": {label: overlap(one == label, other == label) for label in large}}


def coarser(mask: np.ndarray, shape: Sequence[int], labels: Sequence[int]) -> np.ndarray:
    """A mask on a grid of as many or fewer voxels: the label that covers most of each."""
    if mask.shape == tuple(shape):
        return mask
    covers = []
    for label in labels:
        cover = (mask == label).astype(np.float32)
        for axis, wanted in enumerate(shape):
            cover = shares(cover, axis, wanted)
        covers.append(cover)
    return np.argmax(covers, axis=0).astype(np.uint8)


def shares(cover: np.ndarray, axis: int, wanted: int) -> np.ndarray:
    """The mean of an array within each of ``wanted`` equal parts of an axis."""
    side = cover.shape[axis]
    if side == wanted:
        return cover
    edges = np.linspace(0, side, wanted + 1)
    parts = np.clip(np.minimum(edges[1:, None], np.arange(1, side + 1)) - np.maximum(edges[:-1, None], np.arange(side)), 0, None)
    return np.moveaxis(np.tensordot(parts * wanted / side, cover, (1, axis)), 0, axis)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice."""
    both, total = int(np.count_nonzero(one & other)), int(np.count_nonzero(one) + np.count_nonzero(other))
    return 2 * both / total if total else 1.0


def tiles(found: Weights, folder: Path, mosaics: int) -> list[dict[str, Any]]:
    """A row a mosaic of four scans of a data set: its masks and probabilities in tiles, beside those of the whole mosaic at once."""
    paths = sorted((folder / "imagesTr").iterdir())
    rows = []
    for number in range(mosaics):
        scan = mosaic(paths[4 * number : 4 * number + 4], found.preprocess.slicing)
        tiled, whole = both_ways(found, scan)
        one, other = both_ways(one_pixel(found), scan)
        row = {"slices": scan.shape[2], "dice": overlap(tiled > 0.5, whole > 0.5), "voxels": int(np.count_nonzero(whole > 0.5))}
        row |= {"steps": steps(tiled), "steps_whole": steps(whole), "one_pixel": float(np.abs(one - other).max())}
        rows.append(row)
    return rows


def both_ways(found: Weights, scan: Scan) -> list[np.ndarray]:
    """Probabilities of the first label (X, Y, Z), in tiles and whole."""
    made = []
    for size in (TILE, MOSAIC):
        model = Model(replace(found, preprocess=replace(found.sliced, spacing=1.0, size=size)))
        probability = model.segment_scan(scan, Options(probabilities=True)).probability
        assert probability is not None
        made.append(probability.reshape(*scan.shape, -1)[..., -found.spec.classes + (found.spec.classes > 1)])
    return made


def one_pixel(found: Weights) -> Weights:
    """The same with a network that sees one pixel at a time."""
    attrs = {"filters": 1, "kernel": 1, "stride": 1, "dilation": 1, "padding": 0, "bias": False, "activation": "sigmoid"}
    spec = Spec("one-pixel", found.spec.in_channels, (Op("head", "conv", ("image",), attrs),))
    weight = np.random.default_rng(0).normal(0, 3, (1, spec.in_channels, 1, 1)).astype(np.float32)
    return replace(found, spec=spec, tensors={"head.weight": weight}, preprocess=replace(found.preprocess, labels=("one",)))


def mosaic(paths: Sequence[Path], slicing: str) -> Scan:
    """Four scans of `TILE` pixels side by side in slices of `MOSAIC`, as many as the shortest has, of 1 mm."""
    volumes = [scan.canonical(SLICINGS[slicing]).stored for scan in map(formats.read, paths)]
    depth = min(map(len, volumes))
    parts = [volume[(len(volume) - depth) // 2 :][:depth] for volume in volumes]
    if any(part.shape[1:] != (TILE, TILE) for part in parts):
        raise SystemExit(f"expected slices of {TILE}x{TILE}, found {[part.shape[1:] for part in parts]}")
    joined = np.concatenate([np.concatenate(parts[:2], 2), np.concatenate(parts[2:], 2)], 1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # of an axial volume (Z, H, W), its axes the other way round
    return Scan(None, np.asfortranarray(joined.T), 1.0, 0.0, affine, None, ())


def steps(probability: np.ndarray) -> float:
    """Mean step of the probability (X, Y, Z) across the borders of tiles, as a multiple of that elsewhere.

    Not 1 for whole slices either: what heads show in their middle, where borders lie, they do not show elsewhere.
    """
    borders = np.zeros(MOSAIC - 1, bool)
    borders[[first - 1 for first in (TILE // 2, TILE, 3 * TILE // 2)]] = True  # where a tile begins or ends
    across = [np.abs(np.diff(probability, axis=axis)) for axis in (0, 1)]
    at, elsewhere = (sum(each.compress(lines, axis).mean() for axis, each in enumerate(across)) for lines in (borders, ~borders))
    return float(at / elsewhere)
