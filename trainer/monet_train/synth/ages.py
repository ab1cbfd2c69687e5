"""Younger heads made of old ones: with age fluid takes the place of tissue, and who has seen old heads only expects it everywhere.

In 13 of the 20 maps of head-labels the lateral ventricles hold 26 to 83 ml, in seven 6 to 21, and 385 ml lie around the mean brain. Of
young adults a network that knew nothing else called voxels fluid up to 62 % grey matter by their brightness, and one that knew narrower
fluid, too, up to 55 %; beside a hippocampus it was 67 to 82 %, and a run in which lower horns close found 4 % more of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from .labels import DEPTHS, FLUID_AROUND, FLUIDS, HIPPOCAMPI, LOWER_HORNS, NUMBERS, SOLID
from .maps import REACH, LabelMaps, encode
from .ranges import Ranges


def younger(numbers: np.ndarray, depth: float, horns: float = 0.0, fissure: float = 0.0) -> np.ndarray:
    """FreeSurfer numbers with narrower fluid: within so many mm of tissue it becomes the nearest one.

    Gyri come nearer to each other, ventricles are smaller, and what borders on them is larger.

    Parameters
    ----------
    numbers : ndarray
    depth, horns : float
        How much fluid gives way, mm, and how much it does in the lower horns of the lateral ventricles, if that is more.
    fissure : float
        The same for fluid around the brain that lies no farther than that from a hippocampus.
    """
    tissue, fluid = np.isin(numbers, SOLID), np.isin(numbers, FLUIDS)
    found = numbers.copy()
    for box in ndimage.find_objects(tissue.astype(np.uint8)):  # one box, or none
        box = tuple(slice(max(0, axis.start - REACH), axis.stop + REACH) for axis in box)
        distance, nearest = ndimage.distance_transform_edt(~tissue[box], return_indices=True)
        inside = numbers[box]
        limit = np.where(np.isin(inside, LOWER_HORNS), max(depth, horns), depth)
        if fissure > depth and (hippocampus := np.isin(inside, HIPPOCAMPI)).any():
            limit[(inside == FLUID_AROUND) & (ndimage.distance_transform_edt(~hippocampus) <= fissure)] = fissure
        found[box] = np.where(fluid[box] & (distance <= limit), inside[tuple(nearest)], inside)
    return found


def with_younger(maps: LabelMaps, ranges: Ranges) -> LabelMaps:
    """Every head twice: as it is, and with fluid that is narrower; as they are where `Ranges.young` is 0."""
    if not ranges.young:
        return maps
    both = maps.choose([*maps.names, *maps.names])
    for ids in both.ids[len(maps.names) :]:
        ids.copy_(torch.from_numpy(encode(younger(NUMBERS[ids.numpy(force=True) // DEPTHS], ranges.young, ranges.horns, ranges.fissure))))
    return replace(both, names=(*maps.names, *(f"{name} younger" for name in maps.names)))
