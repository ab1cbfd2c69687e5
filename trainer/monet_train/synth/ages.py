"""Younger heads made of old ones: with age fluid takes the place of tissue, and who has seen old heads only expects it everywhere.

The 20 maps of head-labels hold 385 ml of fluid around the brain and 42 ml in the lateral ventricles; of young adults a network that
knew nothing else called voxels fluid up to 62 % grey matter by their brightness, and one that knew both up to 55 %.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from .labels import DEPTHS, FLUIDS, NUMBERS, SOLID
from .maps import REACH, LabelMaps, encode


def younger(numbers: np.ndarray, depth: float) -> np.ndarray:
    """FreeSurfer numbers with narrower fluid: within so many mm of tissue it becomes the nearest one.

    Gyri come nearer to each other, ventricles are smaller, and what borders on them is larger.
    """
    tissue, fluid = np.isin(numbers, SOLID), np.isin(numbers, FLUIDS)
    found = numbers.copy()
    for box in ndimage.find_objects(tissue.astype(np.uint8)):  # one box, or none
        box = tuple(slice(max(0, axis.start - REACH), axis.stop + REACH) for axis in box)
        distance, nearest = ndimage.distance_transform_edt(~tissue[box], return_indices=True)
        found[box] = np.where(fluid[box] & (distance <= depth), numbers[box][tuple(nearest)], numbers[box])
    return found


def with_younger(maps: LabelMaps, depth: float) -> LabelMaps:
    """Every head twice: as it is, and with fluid that is narrower by so many mm; as they are where that is 0."""
    if not depth:
        return maps
    both = maps.choose([*maps.names, *maps.names])
    for ids in both.ids[len(maps.names) :]:
        ids.copy_(torch.from_numpy(encode(younger(NUMBERS[ids.numpy(force=True) // DEPTHS], depth))))
    return replace(both, names=(*maps.names, *(f"{name} younger" for name in maps.names)))
