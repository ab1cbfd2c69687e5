"""FLAIR scans of heads without a tumour, generated from label maps, as a data set whose labels are empty.

A network that has seen patients only marks something in every head. These show it what to leave alone: healthy brains, with their
skulls or without, and the small bright lesions of age and of multiple sclerosis.
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
from torch import Tensor

from monet_edge.errors import OutputError
from monet_edge.files import atomic_write
from monet_edge.formats.beside import UNKNOWN

from ..dataset_json import FILE
from .draw import CLUSTERS, Draw, Random, draw
from .labels import CONTRASTS, CSF, DEPTHS, LESION, MEANS, NUMBERS, OUTER, TISSUE_OF_ID, TISSUES, WHITE_MATTER
from .maps import LabelMaps, boxed
from .ranges import Ranges
from .render import acquire

SIZE = 256  # pixels of a slice, each way
DARK = 8  # of 255: what brain-flair has set to 0 as noise of the air
WHOLE = Ranges(
    rotate=8.0, scale=(0.95, 1.2), shear=0.05, shift=10.0, bend=3.0, texture=0.06, noisy_air=0.0, clusters=0.12,
    strip=0.0, crop=0.0, native=1.0, alike=0.0, blur=(0.0, 0.5), bias=0.25, gamma=0.2, noise=0.015,
)  # fmt: skip
STRIPPED = replace(WHOLE, strip=1.0, scale=(1.0, 1.5))  # such scans may end close to the brain, and are enlarged more
AT_ONCE = 6  # slices in memory: nine planes each
COIL = 0.25  # SD, see `coils`
KNOTS = 10.0  # mm from one field of clusters to the next

_FLAIR = MEANS[CONTRASTS.index("FLAIR")]
_FLUID = np.array([tissue.structure in (CSF, "lateral ventricle") for tissue in TISSUES])
_BRAIN = ~_FLUID & ~OUTER & (_FLAIR > 0)
_FAT = np.array([tissue.left in (508, 511) for tissue in TISSUES])
_IDS = {number: int(np.flatnonzero(number == NUMBERS)[0]) * DEPTHS for number in (2, 4, 25, 41, 43, 57)}


def write(
    maps: LabelMaps,
    folder: Path,
    count: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a data set of generated scans in the decathlon's layout.

    Parameters
    ----------
    maps : LabelMaps
        Cut coronally, on the CPU.
    folder : Path
    count : int
        Scans of every head.
    seed : int
        With a head's name it decides its scans, whichever others there are.
    device : torch.device
        Where they are generated; another kind gives other scans.
    progress : callable
        Called with how many scans are written, and how many there will be.

    Raises
    ------
    OutputError
        If the folder holds a data set.
    """
    if (folder / FILE).exists():
        raise OutputError(f"{folder}: holds a data set; choose another folder")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    turned, names = axial(maps), []
    for head in maps.names:
        alone = turned.choose([head])
        for number in range(count):
            image = scan(alone, [seed, *head.encode(), number], device)
            names.append(f"{head}_{number:02d}")
            # as axial slices, towards superior, posterior, left
            for part, voxels in (("imagesTr", image), ("labelsTr", np.zeros_like(image))):
                nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1])), folder / part / f"{names[-1]}.nii")
            progress(len(names), count * len(maps.names))
    about = {
        "name": "flair-negatives",
        "reference": f"FLAIR of heads without a tumour, generated from the label maps {maps.data}",
        "licence": maps.licence,
        "spacing": UNKNOWN,  # as brain-flair's; slices lie 1.2 to 6 mm apart
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii",
        "training": [{"image": f"./imagesTr/{name}.nii", "label": f"./labelsTr/{name}.nii"} for name in names],
    }
    with atomic_write(folder / FILE, overwrite=False) as file:
        file.write(json.dumps(about, indent=1).encode())


def axial(maps: LabelMaps) -> LabelMaps:
    """Coronal label maps cut axially: from the neck upwards, the face above."""
    heads = zip(maps.ids, maps.starts.tolist(), maps.ends.tolist(), strict=True)
    turned = [ids[z:a, y:b, x:c].numpy().transpose(1, 0, 2)[::-1].copy() for ids, (z, y, x), (a, b, c) in heads]
    return boxed(turned, maps.names, maps.data, maps.licence, maps.key)


def scan(maps: LabelMaps, seed: list[int], device: torch.device) -> np.ndarray:
    """One scan of the only head of ``maps``, cut axially: (Z, SIZE, SIZE) uint8."""
    random, generator = np.random.default_rng(seed), torch.Generator(device)
    generator.manual_seed(int(random.integers(2**31)))
    ranges = STRIPPED if random.uniform() < 0.5 else WHOLE
    step = random.uniform(1.2, 6)
    first, last = (int(plane) for plane in maps.brains[0])
    below, above = (0, 0) if ranges.strip else (random.uniform(0, 45), random.uniform(0, 8))
    planes = np.arange(first - below, last + above, step)
    if random.uniform() < 0.2:  # the scan begins late or ends early
        planes = planes[int(random.uniform(0, 0.35) * len(planes)) :][: max(8, int(random.uniform(0.6, 1) * len(planes)))]
    ids = maps.ids[0].numpy()
    if random.uniform() < 0.7:
        ids = with_lesions(ids, random)
    maps = replace(maps, ids=torch.from_numpy(ids)[None]).to(device)
    drawn = _of_scan(draw(maps, generator, 1, SIZE, 0, False, ranges), planes, step, random, generator)
    slices = []
    for part in torch.arange(len(planes), device=device).split(AT_ONCE):
        normal = Random(generator, len(part)).normal
        noise = {"texture": normal(drawn.planes.shape[1], SIZE, SIZE), "grain": normal(1, SIZE, SIZE)}
        chosen = {field.name: getattr(drawn, field.name)[part] for field in fields(drawn)}
        slices.append(acquire(maps.ids, Draw(**{**chosen, **noise})).slices[:, 0])
    return _eight_bits(torch.cat(slices).cpu().numpy())


def with_lesions(ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A head (Z, H, W) whose white matter has lesions: caps of the lateral ventricles, and up to 40 of 1 to 10 mm, most near those."""
    white = (ids == _IDS[2]) | (ids == _IDS[41])
    away = ndimage.distance_transform_edt((ids != _IDS[4]) & (ids != _IDS[43]))
    uneven = ndimage.gaussian_filter(random.standard_normal(ids.shape), 4)
    bright = white & (away < random.uniform(0, 3) * (1 + uneven / uneven.std()))
    places = np.argwhere(white)
    chance = np.exp(-away[white] / 8) + random.uniform(0, 0.03)
    count = int(40 * random.uniform() ** 2)
    for centre in places[random.choice(len(places), count, p=chance / chance.sum())]:
        radii = np.minimum(np.exp(random.normal(0.7, 0.45, 3)), 5)
        box = tuple(slice(max(0, middle - 6), min(side, middle + 7)) for middle, side in zip(centre, ids.shape, strict=True))
        inside = (((np.moveaxis(np.mgrid[box], 0, -1) - centre) / radii) ** 2).sum(-1) < 1
        bright[box] |= inside & white[box]
    return np.where(bright, np.where(ids == _IDS[2], _IDS[25], _IDS[57]), ids).astype(np.uint8)


def brightness(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of a FLAIR: means (CLUSTERS, tissues) and SDs (tissues,).

    How much brighter grey matter is than white differs widely. The scalp is the brightest of all, or with fat saturation, as in two of
    five scans, it is dark, as muscle may be too: then the brain is the brightest.
    """
    white = _FLAIR[WHITE_MATTER]
    means = np.where(_BRAIN, white + random.uniform(0.3, 1.1) * (_FLAIR - white), _FLAIR) + random.normal(0, 0.02, len(_FLAIR))
    means[OUTER] *= random.uniform(0.4, 1.1) * np.exp(random.normal(0, 0.4, OUTER.sum()))
    means[_FAT] *= random.uniform(0.1, 0.5) if random.uniform() < 0.4 else random.uniform(0.4, 2.5)
    means[LESION] = white + random.uniform(0.12, 0.45)
    means[0] = random.choice([0.0, 0.0, random.uniform(0, 0.01)])
    clusters = np.repeat(means[None], CLUSTERS, 0)
    clusters[1:3, OUTER] += random.normal(0, WHOLE.clusters, (2, OUTER.sum()))
    if random.uniform() < 0.3:  # fluid that flows is not always dark
        clusters[3, _FLUID] = random.uniform(0.1, 0.45)
    sds = random.uniform(0.01, WHOLE.texture, len(means))
    sds[0] = means[0] / 3
    return clusters.clip(0).astype(np.float32), sds.astype(np.float32)


def _of_scan(one: Draw, planes: np.ndarray, step: float, random: np.random.Generator, generator: torch.Generator) -> Draw:
    """A draw of one slice as that of a scan's, ``step`` mm apart, which share a head, its brightness and the scanner."""
    device, count = one.centre.device, len(planes)
    means, sds = (torch.from_numpy(values[..., TISSUE_OF_ID])[None].to(device) for values in brightness(random))
    thickness = random.uniform(1, step)
    offsets = torch.arange(one.planes.shape[1], device=device) - one.planes.shape[1] // 2
    knots = Random(generator, math.ceil(count * step / KNOTS) + 2).normal(*one.spots.shape[2:])
    height = torch.arange(count, device=device)[:, None, None] * step / KNOTS
    below = height.long().flatten()
    spots = knots[below] + (height - height.floor()) * (knots[below + 1] - knots[below])
    along = torch.linspace(0, 1, count, device=device)[:, None, None, None]
    centre = one.centre.repeat(count, 1)
    centre[:, 0] = torch.from_numpy(planes).to(centre)
    changed = {
        "centre": centre,
        "bend": _through(one.bend, along),
        "shade": _through(one.shade, along),
        "spots": torch.stack([spots, spots], 1),
        "bias": one.bias + coils(count, generator) + along * (WHOLE.bias / 2) * Random(generator, 1).normal(1, 4, 4),
        "means": means.expand(count, -1, -1),
        "sds": sds.expand(count, -1),
        "thickness": torch.tensor([[thickness, 1.0, 1.0]], device=device).expand(count, -1),
        # half a profile of the thickest slice on either side
        "planes": (max(1.0, 1.5 * thickness / offsets.max().item()) * offsets).expand(count, -1),
    }
    shared = {field.name: getattr(one, field.name).expand(count, *getattr(one, field.name).shape[1:]) for field in fields(one)}
    return Draw(**{**shared, **changed})


def coils(count: int, generator: torch.Generator) -> Tensor:
    """Logarithm of how much brighter than the middle one each slice of a scan is: (Z, 1, 1, 1).

    Coils are nearest to the neck's end and to the crown, so that a cerebellum may be the brightest of all and no tumour.
    """
    steady, bowl = COIL * Random(generator, 2).normal(1, 1, 1)
    place = torch.linspace(-1, 1, count, device=generator.device)[:, None, None, None]
    return steady * place + bowl * place.square()


def _through(controls: Tensor, along: Tensor) -> Tensor:
    """Control points (1, 2 F, g, g) of a scan's first and last slice at all of its slices, each of which has one plane: (Z, 2 F, g, g)."""
    first, last = controls.chunk(2, dim=1)
    here = first + along * (last - first)
    return torch.cat([here, here], 1)


def _eight_bits(slices: np.ndarray) -> np.ndarray:
    """As brain-flair's scans are kept: 0 to 255, the noise of the air 0."""
    top = np.percentile(slices[slices > 0], 99.9)
    grey = np.rint((255 / top * slices).clip(0, 255)).astype(np.uint8)
    return np.where(grey < DARK, 0, grey).astype(np.uint8)
