"""Several data sets as one, such as patients and healthy people: a folder with a link to each, and a dataset.json that lists all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from monet_edge.errors import DatasetError, OutputError
from monet_edge.files import atomic_write
from monet_edge.formats.beside import UNKNOWN

from .dataset import Dataset
from .dataset_json import FILE, IGNORE
from .provenance import joined


def join(datasets: Sequence[Dataset], folder: Path, name: str = "") -> None:
    """Write a data set whose cases are those of several; no scan is copied.

    Parameters
    ----------
    datasets : sequence of Dataset
        At least two, of the same labels.
    folder : Path
        To be made: it must not exist, or be empty.
    name : str
        What to call it; else the names of all.

    Raises
    ------
    DatasetError
        If there are fewer than two, or they have other labels, or two have one folder's name.
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
    lists: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for found, link in zip(datasets, links, strict=True):
        for case, paths in found.pairs.items():
            image, label = (f"./{link}/{path.relative_to(found.folder).as_posix()}" for path in paths)
            lists["validation" if case in found.validation else "training"].append({"image": image, "label": label})
    return {
        "name": name or " + ".join(found.name for found in datasets),
        "reference": joined(found.reference for found in datasets),
        "licence": joined(found.licence for found in datasets),
        "channel_names": {"0": joined(found.modality for found in datasets)},
        "labels": labels | ({} if first.ignore is None else {IGNORE: first.ignore}),
        **({} if all(found.spacing_known for found in datasets) else {"spacing": UNKNOWN}),
        **{part: cases for part, cases in lists.items() if cases},
    }
