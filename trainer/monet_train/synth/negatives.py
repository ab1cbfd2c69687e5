"""FLAIR scans of heads without a tumour, generated from label maps and written as a data set whose labels are empty.

A network that learns a tumour from patients only marks something in every head. These scans show it what it must leave alone: a
healthy brain, with or without its skull, with the small bright lesions of age and of multiple sclerosis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage

from .draw import CLUSTERS, Draw, Random, draw
from .labels import CONTRASTS, CSF, DEPTHS, LESION, MEANS, NUMBERS, OUTER, TISSUE_OF_ID, TISSUES, WHITE_MATTER
from .maps import LabelMaps, boxed
from .ranges import Ranges
from .render import acquire

SIZE = 256  # pixels of a slice, each way
AT_ONCE = 6  # slices in memory: nine planes each
DARK = 8  # of 255: what brain-flair has set to 0 as noise
WHOLE = Ranges(
    rotate=8.0, scale=(0.95, 1.2), shear=0.05, shift=10.0, bend=3.0, texture=0.06, noisy_air=0.0, clusters=0.12,
    strip=0.0, crop=0.0, native=1.0, bias=0.25, gamma=0.2, noise=0.015,
)  # fmt: skip
STRIPPED = replace(WHOLE, strip=1.0, scale=(1.0, 1.5))  # such scans often end near the brain, and are then enlarged more

_FLAIR = MEANS[CONTRASTS.index("FLAIR")]
_FLUID = np.array([tissue.structure in (CSF, "lateral ventricle") for tissue in TISSUES])
_BRAIN = ~_FLUID & ~OUTER & (_FLAIR > 0)
_FAT = np.array([tissue.left in (508, 511) for tissue in TISSUES])
_IDS = {number: int(np.flatnonzero(number == NUMBERS)[0]) * DEPTHS for number in (2, 4, 25, 41, 43, 57)}


def axial(maps: LabelMaps) -> LabelMaps:
    """Label maps cut axially, from the neck upwards, the face up."""
    parts = []
    for ids, (z, y, x), (a, b, c) in zip(maps.ids, maps.starts.tolist(), maps.ends.tolist(), strict=True):
        parts.append(np.ascontiguousarray(ids[z:a, y:b, x:c].numpy().transpose(1, 0, 2)[::-1]))
    return boxed(parts, maps.names, maps.data, maps.licence, maps.key)


def with_lesions(ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A map (Z, H, W) whose white matter has lesions: caps of the lateral ventricles, and up to 40 of 2 to 10 mm, most near those."""
    white = (ids == _IDS[2]) | (ids == _IDS[41])
    near = ndimage.distance_transform_edt((ids != _IDS[4]) & (ids != _IDS[43]))
    uneven = ndimage.gaussian_filter(random.standard_normal(ids.shape), 4)
    cap = white & (near < random.uniform(0, 3) * (1 + uneven / uneven.std()))
    places = np.argwhere(white)
    chance = np.exp(-near[white] / 8) + random.uniform(0, 0.03)
    count = int(40 * random.uniform() ** 2)
    for centre in places[random.choice(len(places), count, p=chance / chance.sum())]:
        radii = np.minimum(np.exp(random.normal(0.7, 0.45, 3)), 5)
        start = np.maximum(centre - 6, 0)
        box = tuple(slice(a, b) for a, b in zip(start, centre + 7, strict=True))
        away = np.stack(np.meshgrid(*(np.arange(a, min(a + 13, side)) for a, side in zip(start, ids.shape, strict=True)), indexing="ij"), -1)
        inside = (((away - centre) / radii) ** 2).sum(-1)[tuple(slice(0, side) for side in cap[box].shape)] < 1
        cap[box] |= inside & white[box]
    return np.where(cap, np.where(ids == _IDS[2], _IDS[25], _IDS[57]), ids).astype(np.uint8)


def brightness(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of a FLAIR: means (CLUSTERS, tissues) and SDs (tissues,).

    Grey matter is brighter than white, by very different amounts; fat is up to twice as bright as it is on a scan with fat saturation.
    """
    white = _FLAIR[WHITE_MATTER]
    means = np.where(_BRAIN, white + random.uniform(0.3, 1.1) * (_FLAIR - white), _FLAIR) + random.normal(0, 0.02, len(_FLAIR))
    means[_FAT] *= random.uniform(0.8, 2.2)
    means[LESION] = white + random.uniform(0.12, 0.45)
    means[0] = random.choice([0.0, 0.0, random.uniform(0, 0.01)])
    clusters = np.repeat(means[None], CLUSTERS, 0)
    clusters[1:3, OUTER] += random.normal(0, WHOLE.clusters, (2, OUTER.sum()))
    if random.uniform() < 0.3:  # fluid that flows is not always dark
        clusters[3, _FLUID] = random.uniform(0.1, 0.45)
    sds = random.uniform(0.01, WHOLE.texture, len(means))
    sds[0] = means[0] / 3
    return clusters.clip(0).astype(np.float32), sds.astype(np.float32)


def scan(maps: LabelMaps, seed: list[int], device: torch.device) -> tuple[np.ndarray, float]:
    """One scan of the only head of ``maps``: (Z, SIZE, SIZE) uint8, and how many mm its slices lie apart."""
    random = np.random.default_rng(seed)
    generator = torch.Generator(device)
    generator.manual_seed(int(random.integers(2**31)))
    ranges = STRIPPED if random.uniform() < 0.5 else WHOLE
    step = random.uniform(1.2, 6)
    first, last = (int(place) for place in maps.brains[0])
    below, above = (0, 0) if ranges.strip else (random.uniform(0, 45), random.uniform(0, 8))
    places = np.arange(first - below, last + above, step)
    if random.uniform() < 0.2:  # not all of the brain
        places = places[int(random.uniform(0, 0.35) * len(places)) :][: max(8, int(random.uniform(0.6, 1) * len(places)))]
    ids = maps.ids[0].cpu().numpy()
    if random.uniform() < 0.7:
        ids = with_lesions(ids, random)
    maps = replace(maps, ids=torch.from_numpy(ids)[None]).to(device)
    drawn = _scan(draw(maps, generator, 1, SIZE, 0, False, ranges), places, step, random, generator)
    parts = []
    for part in torch.arange(len(places), device=device).split(AT_ONCE):
        normal = Random(generator, len(part)).normal
        texture, grain = normal(drawn.planes.shape[1], SIZE, SIZE), normal(1, SIZE, SIZE)
        chosen = {field.name: getattr(drawn, field.name)[part] for field in fields(drawn)}
        parts.append(acquire(maps.ids, Draw(**{**chosen, "texture": texture, "grain": grain})).slices[:, 0])
    return _eight_bits(torch.cat(parts).cpu().numpy()), step


def _scan(one: Draw, places: np.ndarray, step: float, random: np.random.Generator, generator: torch.Generator) -> Draw:
    """A draw of one slice as that of a whole scan, whose slices share a head, a brightness and a scanner."""
    device, count = one.centre.device, len(places)
    along = torch.linspace(0, 1, count, device=device)[:, None, None, None]
    means, sds = (torch.from_numpy(values[..., TISSUE_OF_ID])[None].to(device) for values in brightness(random))
    thickness = random.uniform(1, step)
    apart = max(1.0, 1.5 * thickness / (one.planes.shape[1] // 2))
    knots = Random(generator, math.ceil(count * step / 10) + 2).normal(*one.spots.shape[2:])
    whole = (torch.arange(count, device=device) * step / 10).unsqueeze(1).unsqueeze(2)
    below = whole.long().flatten()
    spots = knots[below] + (whole - whole.floor()) * (knots[below + 1] - knots[below])
    first, last = one.bend[:, :3], one.bend[:, 3:]
    bend = first + along * (last - first)
    shade = one.bias + along * (WHOLE.bias / 2) * Random(generator, 1).normal(1, 4, 4)
    drawn = {field.name: getattr(one, field.name).expand(count, *getattr(one, field.name).shape[1:]) for field in fields(one)}
    centre = drawn["centre"].clone()
    centre[:, 0] = torch.from_numpy(places).to(centre)
    new = {
        "centre": centre,
        "bend": torch.cat([bend, bend], 1),
        "spots": torch.stack([spots, spots], 1),
        "bias": shade,
        "means": means.expand(count, -1, -1),
        "sds": sds.expand(count, -1),
        "thickness": torch.tensor([[thickness, 1.0, 1.0]], device=device).expand(count, -1),
        "planes": (apart * (torch.arange(one.planes.shape[1], device=device) - one.planes.shape[1] // 2)).expand(count, -1),
    }
    return Draw(**{**drawn, **new})


def _eight_bits(slices: np.ndarray) -> np.ndarray:
    """As brain-flair's scans are kept: 0 to 255, the noise of the air 0."""
    top = np.percentile(slices[slices > 0], 99.9)
    grey = np.rint((255 / top * slices).clip(0, 255)).astype(np.uint8)
    return np.where(grey < DARK, 0, grey).astype(np.uint8)


def write(maps: LabelMaps, folder: Path, variations: int, seed: int, device: torch.device, progress: Callable[[int, int], None]) -> None:
    """Write a data set of generated scans, so many of every head, with empty labels."""
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    turned, names = axial(maps), []
    for name in maps.names:
        alone = turned.choose([name])
        for variation in range(variations):
            image, _ = scan(alone, [seed, *name.encode(), variation], device)
            names.append(f"{name}_{variation:02d}")
            for part, voxels in (("imagesTr", image), ("labelsTr", np.zeros_like(image))):
                # canonical axial order is (Z, H, W) towards superior, posterior, left
                nifti = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]))
                nibabel.save(nifti, folder / part / f"{names[-1]}.nii")
            progress(len(names), variations * len(maps.names))
    about = {
        "name": "flair-negatives",
        "reference": f"FLAIR of heads without a tumour, generated from the label maps {maps.data}",
        "licence": maps.licence,
        "spacing": "unknown",
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii",
        "training": [{"image": f"./imagesTr/{name}.nii", "label": f"./labelsTr/{name}.nii"} for name in names],
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=1))
