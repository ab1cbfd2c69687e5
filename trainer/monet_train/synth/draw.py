"""Everything random about a batch of generated slices, drawn at once on its device from one generator: a seed repeats it.

What is drawn is a record of tensors; `render` makes images of it and draws nothing. Distances are in mm, which are pixels here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .labels import (
    AIR,
    BRAIN_OF_ID,
    CONTRASTS,
    CORTEX,
    DEEP,
    FLUID_OF_ID,
    GREY,
    IDS,
    LESION,
    MEANS,
    OUTER,
    RING_OF_ID,
    RINGS,
    TISSUE_OF_ID,
    WHITE_MATTER,
    label_table,
)
from .maps import LabelMaps
from .ranges import Ranges

PLANES = 9  # of tissue, from which the slices of a batch are blended; thicker slices have them farther apart
PROBES = 8192  # voxels of the whole head by which it is normalised: the 99th percentile is then the 98.8th to 99.2nd
CLUSTERS = 4  # of brightness within a tissue: three of the outer head, and lesions


@dataclass(frozen=True)
class Draw:
    """N slices to render: S pixels wide and high, with C channels, from K planes.

    Attributes
    ----------
    head : (N,) int64
        Which label map.
    matrix : (N, 3, 3) float32
        From mm (z, y, x) around the image's middle to voxels of the map; a mirrored head has its last column negated.
    centre : (N, 3) float32
        Where in the map's box the middle of the slice lies, voxels.
    shift : (N, 2) float32
        Of the image's content, mm.
    planes : (N, K) float32
        Where the planes lie around the slice, mm.
    bend : (N, 6, g, g) float32
        Displacements (z, y, x) at control points of the first plane, and of the last one.
    spots : (N, 2, h, h) float32
        Normal control values of first and last plane; how high they are says which cluster a voxel is of.
    labels : (N, IDS) uint8
        Which label every id has.
    means, sds : (N, CLUSTERS, IDS), (N, IDS) float32
        Brightness of every id.
    shades : (N, IDS) float32
        How much brighter every id is where the field of shade is 1.
    shade : (N, 2, g, g) float32
        Normal control values of that field, of first and last plane.
    myelin : (N, IDS) float32
        How much of white matter's brightness every id takes on where it touches it.
    reach : (N,) float32
        How far from white matter it does so: the SD of a Gaussian, mm.
    kept : (N, IDS) bool
        False where a skull stripping takes it away.
    window : (N, 4) float32
        First and last row, first and last column that the scan holds.
    thickness, phase, blur : (N, 3) float32
        The scan's resolution along z, y, x, mm; where its grid begins, as a share of that; an additional blur's SD, mm.
    bias : (N, 1, 4, 4) float32
        Logarithm of the bias field at control points.
    gamma, noise : (N,) float32
        An exponent; an SD.
    texture : (N, K, S, S) float32
        Normal, of the tissue.
    grain : (N, C, S, S) float32
        Normal, of the scanner.
    probes : (N, P) int64
        Voxels of the head, as places in its flat map.
    probe_texture, probe_grain, probe_spots, probe_shade : (N, P) float32
        Normal.
    probe_pixels : (N, P) int64
        Where in the bias field a probe lies.
    """

    head: Tensor
    matrix: Tensor
    centre: Tensor
    shift: Tensor
    planes: Tensor
    bend: Tensor
    spots: Tensor
    labels: Tensor
    means: Tensor
    sds: Tensor
    shades: Tensor
    shade: Tensor
    myelin: Tensor
    reach: Tensor
    kept: Tensor
    window: Tensor
    thickness: Tensor
    phase: Tensor
    blur: Tensor
    bias: Tensor
    gamma: Tensor
    noise: Tensor
    texture: Tensor
    grain: Tensor
    probes: Tensor
    probe_texture: Tensor
    probe_grain: Tensor
    probe_spots: Tensor
    probe_shade: Tensor
    probe_pixels: Tensor


class Random:
    """Draws for N slices on a device, all from one generator."""

    def __init__(self, generator: torch.Generator, count: int) -> None:
        self.generator, self.count = generator, count

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Evenly from low to high: (N, *shape)."""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator, device=self.generator.device)

    def normal(self, *shape: int) -> Tensor:
        """Of mean 0 and SD 1: (N, *shape)."""
        return torch.randn(self.count, *shape, generator=self.generator, device=self.generator.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with a probability: (N, *shape)."""
        return self.uniform(*shape) < probability


def draw(maps: LabelMaps, generator: torch.Generator, count: int, size: int, context: int, sides: bool, ranges: Ranges) -> Draw:
    """Draw a batch.

    Parameters
    ----------
    maps : LabelMaps
        On the generator's device.
    generator : torch.Generator
    count, size, context : int
        Slices, their height and width, and how many neighbours on either side.
    sides : bool
        Left and right have labels of their own.
    ranges : Ranges
    """
    random, device = Random(generator, count), generator.device
    head = (random.uniform() * len(maps.names)).long()
    starts, ends = maps.starts[head].float(), maps.ends[head].float()
    middle = (torch.tensor(maps.ids.shape[1:], device=device) - 1) / 2
    centre = middle.expand(count, 3).clone()
    span = torch.where(random.chance(ranges.hippocampus, 1), maps.hippocampi[head], maps.brains[head]).float()
    first, last = torch.where(random.chance(ranges.anywhere, 1), torch.stack([starts[:, 0], ends[:, 0]], 1), span).T
    centre[:, 0] = (first + random.uniform() * (last - first)).floor()
    mirrored = random.chance(ranges.mirror)
    thickness, phase, blur = _resolution(random, ranges)
    means, sds = _brightness(random, ranges)
    # a slice's neighbours, and half a profile of the thickest one around them
    apart = ((context + 1.5 * thickness[:, 0]) / (PLANES // 2)).clamp_min(1)
    places = starts[:, None] + random.uniform(PROBES, 3) * (ends - starts)[:, None]
    z, y, x = places.long().unbind(-1)
    _, depth, height, width = maps.ids.shape
    return Draw(
        head=head,
        matrix=_matrix(random, ranges, mirrored),
        centre=centre,
        shift=random.uniform(2, low=-ranges.shift, high=ranges.shift),
        planes=apart[:, None] * (torch.arange(PLANES, device=device) - PLANES // 2),
        bend=random.uniform(1, 1, 1, high=ranges.bend) * _pair(random, 3, 10, change=0.5),
        spots=_pair(random, 1, 24, change=1.0),
        labels=torch.from_numpy(label_table(sides)).to(device)[mirrored.long()],
        means=means,
        sds=sds,
        shades=_by_tissue(random, ranges.shaded, -ranges.shade, ranges.shade, ~AIR),
        shade=_pair(random, 1, 20, change=1.0),
        myelin=_by_tissue(random, ranges.myelinated, 0.0, ranges.myelin, DEEP),
        reach=random.uniform(low=ranges.reach[0], high=ranges.reach[1]),
        kept=_stripping(random, ranges),
        window=_window(random, ranges, size),
        thickness=thickness,
        phase=phase,
        blur=blur,
        bias=random.uniform(1, 1, 1, high=ranges.bias) * random.normal(1, 4, 4),
        gamma=(ranges.gamma * random.normal()).exp(),
        noise=random.uniform(high=ranges.noise),
        texture=random.normal(PLANES, size, size),
        grain=random.normal(2 * context + 1, size, size),
        probes=((head[:, None] * depth + z) * height + y) * width + x,
        probe_texture=random.normal(PROBES),
        probe_grain=random.normal(PROBES),
        probe_spots=random.normal(PROBES),
        probe_shade=random.normal(PROBES),
        probe_pixels=(random.uniform(PROBES) * size**2).long().clamp_max(size**2 - 1),
    )


def _matrix(random: Random, ranges: Ranges, mirrored: Tensor) -> Tensor:
    """Rotations about z, y and x, shear and scale; of the way from the image back to the map."""
    angles = random.uniform(3, low=-math.radians(ranges.rotate), high=math.radians(ranges.rotate))
    unit = torch.eye(3, device=angles.device).expand(random.count, 3, 3)
    matrix = unit
    for axis in range(3):
        one, other = [i for i in range(3) if i != axis]
        turn, cosine, sine = unit.clone(), angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, one, one], turn[:, other, other], turn[:, one, other], turn[:, other, one] = cosine, cosine, -sine, sine
        matrix = matrix @ turn
    shear = unit + ranges.shear * random.uniform(3, 3, low=-1.0) * (1 - unit)
    scale = 1 / random.uniform(3, low=ranges.scale[0], high=ranges.scale[1])
    scale[:, 2] = torch.where(mirrored, -scale[:, 2], scale[:, 2])
    return matrix @ shear * scale[:, None]


def _pair(random: Random, fields: int, side: int, change: float) -> Tensor:
    """Control points of the first plane and of the last one, which differs by so many SDs: (N, 2 * fields, side, side)."""
    first = random.normal(fields, side, side)
    last = (first + change * random.normal(fields, side, side)) / math.sqrt(1 + change**2)
    return torch.cat([first, last], 1)


def _resolution(random: Random, ranges: Ranges) -> tuple[Tensor, Tensor, Tensor]:
    """Thickness, phase and blur along z, y, x: a third each of thick slices in one direction, in none, or 1 mm throughout."""
    across = random.uniform(1, low=ranges.pixel[0], high=ranges.pixel[1]).expand(-1, 3)
    through = random.uniform(1, low=ranges.slice_thickness[0], high=ranges.slice_thickness[1])
    direction = (4 * random.uniform(1)).long()  # 3: none is thicker than the others
    axes = torch.arange(3, device=across.device)
    native = random.chance(ranges.native, 1)
    thickness = torch.where(native, 1.0, torch.where(axes == direction, through, across))
    phase = torch.where(native, 0.0, random.uniform(3, low=-0.5, high=0.5))
    blur = random.uniform(1, low=ranges.blur[0], high=ranges.blur[1]).expand(-1, 3)
    return thickness, phase, blur


def _brightness(random: Random, ranges: Ranges) -> tuple[Tensor, Tensor]:
    """Means by cluster and id, and SDs by id."""
    device = random.generator.device
    real = torch.from_numpy(MEANS).to(device)
    tissue, outer = torch.from_numpy(TISSUE_OF_ID).to(device), torch.from_numpy(OUTER).to(device)
    share = random.uniform(len(real)).clamp_min(1e-6).log().neg() ** 3  # mostly one contrast, seldom an even mixture
    t1 = torch.eye(len(real), device=device)[CONTRASTS.index("T1")]
    share = torch.where(random.chance(ranges.t1, 1), t1, share / share.sum(1, keepdim=True))
    means = share @ real + random.uniform(1, low=ranges.jitter[0], high=ranges.jitter[1]) * random.normal(real.shape[1])
    anyhow = ~random.chance(ranges.contrast, 1)
    means = torch.where(anyhow, random.uniform(real.shape[1]), means).clamp(0, 1)
    cortex = means[:, CORTEX, None]
    grey = torch.from_numpy(GREY).to(device) & random.chance(ranges.alike, 1)
    means = torch.where(grey, cortex + ranges.apart * (means - cortex), means)
    sds = random.uniform(real.shape[1], high=ranges.texture) * torch.where(anyhow, 1.0, 0.6)
    kind = random.uniform()
    means[:, 0] = torch.where(kind < ranges.dark_air, 0.0, 0.08 * random.uniform())
    means[:, 0] = torch.where(kind > 1 - ranges.noisy_air, random.uniform(), means[:, 0])
    sds[:, 0] = means[:, 0] / 3
    clusters = means[:, None].repeat(1, CLUSTERS, 1)
    clusters[:, 1:3] = torch.where(outer, (clusters[:, 1:3] + ranges.clusters * random.normal(2, len(outer))).clamp(0, 1), clusters[:, 1:3])
    clusters[:, 3, WHITE_MATTER] = torch.where(random.chance(ranges.lesions), means[:, LESION], means[:, WHITE_MATTER])
    return clusters[:, :, tissue], sds[:, tissue]


def _by_tissue(random: Random, probability: float, low: float, high: float, tissues: np.ndarray) -> Tensor:
    """A number for every id, one for all of a tissue: evenly from low to high in some scans, for some tissues, else 0."""
    device = random.generator.device
    some = torch.from_numpy(tissues).to(device) & random.chance(probability, 1)
    return (random.uniform(len(tissues), low=low, high=high) * some)[:, torch.from_numpy(TISSUE_OF_ID).to(device)]


def _stripping(random: Random, ranges: Ranges) -> Tensor:
    """What is left of a head: all, or the brain with so much around it, of fluid only or of whatever there is."""
    device = random.generator.device
    brain, fluid, ring = (torch.from_numpy(of_id).to(device) for of_id in (BRAIN_OF_ID, FLUID_OF_ID, RING_OF_ID))
    depth = ((len(RINGS) + 1) * random.uniform(1)).long()
    around = (ring > 0) & (ring <= depth) & (fluid | random.chance(0.3, 1))
    return torch.where(random.chance(ranges.strip, 1), brain | around, torch.ones(IDS, dtype=torch.bool, device=device))


def _window(random: Random, ranges: Ranges, size: int) -> Tensor:
    depth = random.uniform(4, high=ranges.crop_depth * size / 256) * random.chance(ranges.crop, 1) * random.chance(0.5, 4)
    return depth * torch.tensor([1, -1, 1, -1], device=depth.device) + torch.tensor([0, size - 1, 0, size - 1], device=depth.device)
