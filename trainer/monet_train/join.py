"""Several data sets as one, such as patients and healthy people: a folder with a link to each, and a dataset.json that lists all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from monet_edge.errors import DatasetError, OutputError
from monet_edge.files import atomic_write
from monet_edge.formats.beside import UNKNOWN

from .cases import spelled
from .dataset import Dataset, image_names
from .dataset_json import FILE, IGNORE
from .provenance import joined


def join(datasets: Sequence[Dataset], folder: Path, name: str = "") -> None:
    """Write a data set whose cases are those of several; no scan is copied.

    Parameters
    ----------
    datasets : sequence of Dataset
        At least two, of the same labels, read with all channels that the new one shall have: 0, 1, ... of the same names.
    folder : Path
        To be made: it must not exist, or be empty.
    name : str
        What to call it; else the names of all.

    Raises
    ------
    DatasetError
        If there are fewer than two, or they have other labels or channels, or two have one folder's name.
    OutputError
        If the folder holds something.
    """
    first, *others = datasets
    if not others:
        raise DatasetError(f"{first.folder}: one data set is nothing to join; name another")
    for other in others:
        if (other.labels, other.ignore) != (first.labels, first.ignore):
            here, there = (", ".join(found.labels) for found in (other, first))
            raise DatasetError(f"{other.folder}: its labels are {here}, those of {first.folder} {there}; expected the same")
    if any(image_names(found) != image_names(first) for found in others) or first.channels != (*range(len(first.channels)),):
        here = " and ".join(f"{found.modality or 'none'} (volumes {spelled(found.channels)})" for found in datasets)
        raise DatasetError(f"{folder}: expected data sets of the same channels from 0 on, in one order, found {here}")
    links = [found.folder.resolve().name for found in datasets]
    if len({*links}) < len(links):
        raise DatasetError(f"two of the folders are called {max(links, key=links.count)}: rename one")
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder}: is not empty; expected a folder to make")
    folder.mkdir(parents=True, exist_ok=True)
    for found, link in zip(datasets, links, strict=True):
        (folder / link).symlink_to(found.folder.resolve(), target_is_directory=True)
    with atomic_write(folder / FILE, overwrite=False) as file:
        file.write(json.dumps(_about(datasets, links, name), indent=1).encode())


def _about(datasets: Sequence[Dataset], links: Sequence[str], name: str) -> dict[str, object]:
    first = datasets[0]
    labels = {"background": 0, **{label: number for number, label in enumerate(first.labels, start=1)}}
    lists: dict[str, list[dict[str, str | list[str]]]] = {"training": [], "validation": []}
    for found, link in zip(datasets, links, strict=True):
        for case, (image, mask) in found.pairs.items():
            files = (mask, image, *found.separate.get(case, ()))
            label, *images = (f"./{link}/{path.relative_to(found.folder).as_posix()}" for path in files)
            entry = {"image": images if len(images) > 1 else images[0], "label": label}
            lists["validation" if case in found.validation else "training"].append(entry)
    return {
        "name": name or " + ".join(found.name for found in datasets),
        "reference": joined(found.reference for found in datasets),
        "licence": joined(found.licence for found in datasets),
        "channel_names": {str(channel): joined(found.modalities[channel] for found in datasets) for channel in first.channels},
        "labels": labels | ({} if first.ignore is None else {IGNORE: first.ignore}),
        **({} if all(found.spacing_known for found in datasets) else {"spacing": UNKNOWN}),
        **{part: cases for part, cases in lists.items() if cases},
    }
