"""What is refused before a training begins: a split, images, a spacing or a memory that do not fit."""

from __future__ import annotations

import torch

from monet_edge import limits
from monet_edge.errors import DatasetError
from monet_edge.preprocess import Preprocess

from .config import Settings
from .data import memory_of
from .dataset import image_names
from .device import step_memory
from .prepare import Prepared
from .splits import Split


def check_memory(settings: Settings, prepared: Prepared, split: Split, place: torch.device) -> None:
    """Refuse a training that cannot fit into this machine's memory, before anything of it is loaded.

    Raises
    ------
    ResourceError
        With what it needs at least, and what there is.
    """
    size = settings.preprocess.size
    training, validation, held = memory_of(prepared, split["train"], split["val"], settings.preprocess)
    batch = min(settings.recipe.batch, training)
    what = f"a training on {training + validation:,} slices of {size}x{size}, {batch} at a time,"
    limits.demand(held + step_memory(settings, batch, place), what)


def check_split(split: Split, prepared: Prepared) -> None:
    """Raise a DatasetError unless both parts of a split hold cases of this data set, once each, and no copies of one in both."""
    unknown = sorted({*split["train"], *split["val"]} - prepared.keys.keys())
    if unknown:
        raise DatasetError(f"{prepared.folder}: the split names cases that it does not hold: {len(unknown)}, such as {unknown[0]}")
    if not split["train"] or not split["val"]:
        raise DatasetError("the split needs at least one case to train on and one to validate")
    both = set(split["train"]) & set(split["val"])
    if both:
        raise DatasetError(f"the split has {min(both)} in both parts; validation must be of other patients")
    for part in ("train", "val"):
        if len({*split[part]}) < len(split[part]):
            raise DatasetError(f"the split has {max(split[part], key=split[part].count)} twice in {part}")
    trained = {prepared.keys[name]: name for name in split["train"]}
    for name in split["val"]:
        if (original := trained.get(prepared.keys[name])) is not None:
            raise DatasetError(f"the split validates on {name}, whose files are copies of {original}'s, which trains")


def check_images(record: Preprocess, prepared: Prepared) -> None:
    """Raise a DatasetError where the cases of a data set have other images than a network takes, or the same in another order."""
    found = image_names(prepared)
    if len(found) != record.images or (record.images > 1 and found != record.names):
        there, wanted = (f"{len(names)} ({', '.join(names)})" if len(names) > 1 else "1" for names in (found, record.names))
        raise DatasetError(
            f"{prepared.folder}: the images of a case are {there}, the network takes {wanted}; prepare it with other volumes"
        )


def check_spacing(record: Preprocess, prepared: Prepared) -> None:
    """Raise a DatasetError where a model would work in millimetres and nobody knows how many a voxel measures."""
    if record.in_mm and not prepared.spacing_known:
        raise DatasetError(
            f"{prepared.name}: its dataset.json says that the spacing is unknown, so no model in millimetres can be trained on it;"
            " expected no spacing and no thickness"
        )
