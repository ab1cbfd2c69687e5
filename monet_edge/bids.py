"""BIDS, the layout of research data sets: which scans of one a model is for, and its masks as a derivative data set.

A mask is ``sub-01/anat/sub-01_desc-<model><suffix>_dseg.nii.gz``: the scan's own entities and, as two contrasts of one session have
the same, its suffix in ``desc``. Beside it a .json says of which scan it is; at the top are the table of labels and
dataset_description.json. Specification 1.11.1, "Derivatives": https://bids-specification.readthedocs.io
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .about import DISCLAIMER, __version__
from .errors import MonetError, OutputError, ScanError
from .files import atomic_write, write_together
from .job import Job, make_folder, make_job
from .options import Options
from .text import printable
from .volume.labels import colours

VERSION = "1.11.1"
DESCRIPTION = "dataset_description.json"
_NAME = re.compile(r"(?P<entities>sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?")
_SUFFIXES = {"flair": "FLAIR", "t1": "T1w", "t2": "T2w", "ct": "ct"}  # of words in a model's modality
_DATATYPES = ("anat", "func", "dwi", "perf", "pet", "fmap")
_IGNORED = "*_preview.png\n*.html\n"  # what BIDS has no names for


def suffixes(modality: str) -> tuple[str, ...]:
    """What the names of a model's scans end with, by its modality: ``("FLAIR",)``; empty where that does not say it."""
    return tuple(_SUFFIXES[word] for word in re.findall(r"[a-z0-9]+", modality.lower()) if word in _SUFFIXES)


def find_scans(folder: Path, participants: Sequence[str], endings: Sequence[str]) -> list[Path]:
    """The scans of a data set that have one of these suffixes.

    Parameters
    ----------
    folder : Path
        With dataset_description.json and a folder for each participant.
    participants : sequence of str
        Labels, with ``sub-`` or without; empty for all.
    endings : sequence of str
        Suffixes, such as "T1w".

    Raises
    ------
    ScanError
        If it is no such folder, a participant is not in it, or there is no such scan.
    """
    if not (folder / DESCRIPTION).is_file():
        raise ScanError(f"{folder}: no {DESCRIPTION}; expected a data set in BIDS's layout")
    people = {path.name.removeprefix("sub-"): path for path in sorted(folder.glob("sub-*")) if path.is_dir()}
    chosen = [label.removeprefix("sub-") for label in participants] or list(people)
    unknown = [label for label in chosen if label not in people]
    if unknown:
        raise ScanError(f"{folder}: has no participant {printable(unknown[0])}; it has {len(people)}, such as {next(iter(people), 'none')}")
    files = [file for label in chosen for pattern in ("*/*", "ses-*/*/*") for file in sorted(people[label].glob(pattern))]
    named = [(file, name["suffix"]) for file in files if (name := _NAME.fullmatch(file.name))]
    found = [file for file, suffix in named if suffix in endings]
    if not found:
        others = ", ".join(sorted({suffix for _, suffix in named})) or "none"
        raise ScanError(f"{folder}: no scan called {' or '.join(endings)}; found {others}", "Choose with {suffix}.")
    return list(dict.fromkeys(found))


def make_jobs(scans: Iterable[Path], root: Path, options: Options, model: str) -> list[Job]:
    """Where every result goes in a derivative data set; its folders are made.

    Parameters
    ----------
    scans : iterable of Path
        Called as BIDS calls scans.
    root : Path
        The derivative's folder.
    options : Options
    model : str
        The model's name.

    Raises
    ------
    OutputError
        If a scan has another name, or the folder holds something else.
    """
    if options.format not in (None, "nifti"):
        raise OutputError(f"format: BIDS has no masks in {options.format}; they are NIfTI")
    _refuse_others(root)
    return [_job(scan, root, options, model) for scan in scans]


def _job(scan: Path, root: Path, options: Options, model: str) -> Job:
    name = _NAME.fullmatch(scan.name)
    if name is None:
        raise OutputError(f"{scan}: its name is not one of BIDS, such as sub-01_T1w.nii.gz")
    entities = dict(part.split("-", 1) for part in name["entities"].split("_"))
    entities.pop("desc", None)  # of a scan that is a derivative itself
    people = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    folder = root.joinpath(*people, scan.parent.name if scan.parent.name in _DATATYPES else "anat")
    make_folder(folder)
    stem = "_".join(f"{key}-{value}" for key, value in {**entities, "desc": _plain(model) + name["suffix"]}.items())
    job = make_job(scan, folder / f"{stem}_dseg.nii.gz", options)
    source = source_root(scan)
    about: dict[str, Any] = {"Description": f"{printable(model)}, monet-edge {__version__}. {DISCLAIMER}", "Manual": False}
    if source is not None:
        uri = f"bids:raw:{scan.absolute().relative_to(source).as_posix()}"
        about |= {"Sources": [uri], "SpatialReference": uri}
    probability = folder / f"{stem}_probseg.nii.gz" if options.probabilities else None
    preview = folder / f"{stem}_preview.png" if options.preview else None
    return replace(job, probability=probability, preview=preview, sidecar=about)


def source_root(scan: Path) -> Path | None:
    """The data set that a scan is in: the folder above it that describes one."""
    return next((folder for folder in scan.absolute().parents if (folder / DESCRIPTION).is_file()), None)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _refuse_others(root: Path) -> None:
    """Refuse a folder that is a data set of others'."""
    path = root / DESCRIPTION
    try:
        makers = json.loads(path.read_bytes()).get("GeneratedBy")
        ours = makers[0]["Name"] == "monet-edge"
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        ours = False
    if not ours:
        raise OutputError(f"{root}: holds a data set that monet-edge has not made, as its {DESCRIPTION} says", "Choose another {output}.")


def describe(root: Path, jobs: Sequence[Job], model: str, labels: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write what makes a folder a derivative data set, before its first mask; what is there of an earlier run is replaced.

    Parameters
    ----------
    root : Path
    jobs : sequence of Job
        From `make_jobs`.
    model : str
        The model's name.
    labels : sequence of str
        Names of the labels 1, 2, ...
    provenance : mapping
        Of the weights: ``sha256`` and ``licence`` are told.

    Raises
    ------
    OutputError
        If the disk refuses.
    """
    maker = {"Name": "monet-edge", "Version": __version__, "Description": f"{printable(model)}, sha256 {provenance['sha256']}"}
    about: dict[str, Any] = {"Name": "Masks of monet-edge", "BIDSVersion": VERSION, "DatasetType": "derivative", "GeneratedBy": [maker]}
    sources = {source for job in jobs if (source := source_root(job.scan))}
    if len(sources) == 1:
        about["DatasetLinks"] = {"raw": Path(os.path.relpath(sources.pop(), root.absolute())).as_posix()}
    drawn = f"Drawn by monet-edge {__version__} with its model {printable(model)} ({provenance['licence']})."
    extras = {root / "README.md": f"{drawn}\n\n{DISCLAIMER}\n", root / ".bidsignore": _IGNORED}
    contents = {
        root / DESCRIPTION: json.dumps(about, indent=2) + "\n",
        **{root / f"{desc}_dseg.tsv": table(labels) for desc in sorted({_desc(job) for job in jobs})},
        **{path: text for path, text in extras.items() if not path.exists()},  # somebody may have written more into them
    }
    write_together({path: content.encode() for path, content in contents.items()})


def _desc(job: Job) -> str:
    """The part of a mask's name that all masks of one table of labels share."""
    return job.mask.name.removesuffix("_dseg.nii.gz").rpartition("_")[2]


def table(labels: Sequence[str]) -> str:
    """The table of labels: number, name, abbreviation, colour."""
    rows, taken = ["index\tname\tabbreviation\tcolor"], set[str]()
    for number, (name, (red, green, blue)) in enumerate(zip(labels, colours(labels), strict=True), 1):
        words = re.findall(r"[^\W_]+", name) or ["label"]
        short = (words[0][:3] if len(words) == 1 else "".join(word[0] for word in words)).upper()
        short = short if short not in taken else f"{short}{number}"
        taken.add(short)
        rows.append(f"{number}\t{printable(name)}\t{short}\t#{red:02X}{green:02X}{blue:02X}")
    return "\n".join(rows) + "\n"


def write_sidecars(job: Job, labels: Sequence[str], warnings: Sequence[str]) -> None:
    """Write what is known of a mask, and of its probabilities, beside them.

    Raises
    ------
    OutputError
        If the disk refuses.
    """
    about = {**(job.sidecar or {}), **({"Warnings": list(warnings)} if warnings else {})}
    files = {job.mask: about}
    if job.probability is not None:
        several = {"LabelMap": ["background", *labels]} if len(labels) > 1 else {}
        files[job.probability] = {**about, **several}
    for path, content in files.items():
        with atomic_write(path.with_name(f"{path.name.removesuffix('.nii.gz')}.json"), overwrite=True) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def check_level(level: str) -> None:
    """Refuse a level of analysis that there is not.

    Raises
    ------
    MonetError
        Saying which there is.
    """
    if level != "participant":
        raise MonetError(f"the level of analysis is {level!r}; expected participant, the only one: there is nothing to do for a group")
