"""What a data set's dataset.json says: its labels, and which files are its cases. No scan is opened here.

Cases that are listed are read from where the list says, in the data set's folder; where nothing is listed, `imagesTr` and
`labelsTr` are paired by name. Whatever is listed and cannot be read is refused, by the name of its entry.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monet_edge.errors import DatasetError, MonetError
from monet_edge.formats import SCANS
from monet_edge.preprocess import check_labels

FILE = "dataset.json"
LISTS = ("training", "validation")  # whose entries are cases; `test` has no labels to learn from
BACKGROUND = "background"
IGNORE = "ignore"  # nnU-Net's name for voxels that nobody labelled
LEAST = '{"labels": {"background": 0, "lesion": 1}}'  # of a data set in one's own words
MOST = 256  # labels, background included: they are kept in a byte
_NUMBERED = re.compile(r"_\d{4}$")  # nnU-Net's channel number, at the end of a file's name


@dataclass(frozen=True)
class Pair:
    """One case's files.

    Attributes
    ----------
    name : str
    image, label : Path
        The image's file is that of the first wanted channel.
    others : tuple of Path
        Those of the further channels, where each has a file.
    separate : bool
        Every channel has a file.
    validation : bool
        Listed under ``validation``.
    where : str
        The entry that says so, such as ``training[3]``; empty where nothing is listed.
    """

    name: str
    image: Path
    label: Path
    others: tuple[Path, ...] = ()
    separate: bool = False
    validation: bool = False
    where: str = ""


def read_json(folder: Path) -> dict[str, Any]:
    """The object in `dataset.json`, in any of JSON's encodings, with a byte order mark or without.

    Raises
    ------
    DatasetError
        If there is none, it is not JSON, or it says one thing twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} stands twice in one object")
        return dict(pairs)

    try:
        data = json.loads((folder / FILE).read_bytes(), object_pairs_hook=once)
    except OSError as error:
        found = f"{folder}: no readable {FILE} ({error.strerror}); expected a data set with imagesTr and labelsTr"
        raise DatasetError(found, f"The least that such a file says is {LEAST}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{folder / FILE}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{folder / FILE}: expected a JSON object")
    return data


def read_labels(folder: Path, labels: Any) -> tuple[tuple[str, ...], int | None]:
    """Names of the labels 1, 2, ... from either dialect, and the number of the label "ignore" where there is one.

    Raises
    ------
    DatasetError
        If they are no such table: a gap, a number or a name twice, a region of several numbers.
    """
    try:
        if all(key.isdigit() for key in labels):
            table = [(int(key), _text(name)) for key, name in labels.items()]
        else:
            table = [(_whole(number), name) for name, number in labels.items()]
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise DatasetError(f"{folder / FILE}: labels must map numbers to names or names to numbers, found {labels!r}") from None
    ignore = next((number for number, name in table if name == IGNORE), None)
    named = {number: name for number, name in table if name != IGNORE}
    if len(named) < 2 or sorted(number for number, name in table if name != IGNORE) != list(range(len(named))):
        raise DatasetError(f"{folder / FILE}: labels must be numbered 0 (background), 1, 2, ... without gaps, found {labels!r}")
    if (ignore is not None and ignore in named) or len({*named.values()}) < len(named):
        raise DatasetError(f"{folder / FILE}: every label needs a name and a number of its own, found {labels!r}")
    if any(name.lower() == BACKGROUND for number, name in named.items() if number):
        raise DatasetError(f"{folder / FILE}: 0 is the background, whatever its name; another number is called so, found {labels!r}")
    if len(named) > MOST:
        raise DatasetError(f"{folder / FILE}: at most {MOST - 1} labels are kept apart, found {len(named) - 1}")
    names = tuple(named[number] for number in range(1, len(named)))
    try:
        check_labels(names)  # what no weights file could hold is said before hours of training
    except MonetError as error:
        raise DatasetError(f"{folder / FILE}: {error}") from None
    return names, ignore


def _text(name: Any) -> str:
    if not isinstance(name, str | int):  # {"1": 1} names a label "1"; None and lists name nothing
        raise ValueError
    return str(name)


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != float(number):
        raise ValueError
    return int(number)


def read_pairs(folder: Path, data: Mapping[str, Any], channels: Sequence[int]) -> tuple[list[Pair], list[str]]:
    """Every case's files, sorted by name, and what the reader of the list should know.

    Parameters
    ----------
    folder : Path
    data : mapping
        See `read_json`.
    channels : sequence of int
        Which ones, where every channel has a file.

    Raises
    ------
    DatasetError
        If an entry cannot be read as it stands, or a file is missing.
    """
    ending = str(data.get("file_ending", ".nii.gz"))
    found = [*_listed(folder, data, ending, channels)]
    pairs = _named(folder, found) if found else _by_name(folder, ending, channels)
    warnings = []
    number, count = data.get("numTraining"), sum(not pair.validation for pair in pairs)
    if isinstance(number, int) and number not in (count, len(pairs)):
        warnings.append(f"{FILE}: numTraining says {number}, there are {count} cases")
    for key, entries in data.items():
        if key not in LISTS and isinstance(entries, list) and any(isinstance(entry, dict) and "label" in entry for entry in entries):
            warnings.append(f"{FILE}: the {len(entries)} entries of {key} are not read; cases are listed under {' or '.join(LISTS)}")
    beside = _beside(folder, data, pairs, ending)
    if beside:
        warnings.append(f"{_few(beside)} {'is' if len(beside) == 1 else 'are'} not read: {FILE} means other files")
    return sorted(pairs, key=lambda pair: pair.name), warnings


def _listed(folder: Path, data: Mapping[str, Any], ending: str, channels: Sequence[int]) -> Iterator[Pair]:
    """The entries of the decathlon's lists, and of nnU-Net's ``dataset`` table, which has names of its own."""
    for part in LISTS:
        entries = data.get(part)
        if not (entries is None or isinstance(entries, (list, int))):  # nnU-Net may say how many there are
            raise DatasetError(f"{folder / FILE}: {part} must list every case, found {entries!r:.80}")
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
                expected = '{"image": FILE, "label": FILE}'
                raise DatasetError(f"{folder / FILE}: {part} must list every case as {expected}, found {part}[{i}] {entry!r:.80}")
            yield replace(_pair(folder, f"{part}[{i}]", entry["image"], entry["label"], ending, channels), validation=part == "validation")
    table = data.get("dataset")
    for name, entry in table.items() if isinstance(table, dict) else ():
        if not isinstance(entry, dict) or not {"images", "label"} <= entry.keys():
            raise DatasetError(f'{folder / FILE}: dataset[{name!r}]: expected {{"images": [FILES], "label": FILE}}, found {entry!r:.80}')
        if not name or name != Path(name).name or "\\" in name:
            raise DatasetError(f"{folder / FILE}: dataset[{name!r}]: a case's name must be one that a file can have")
        yield replace(_pair(folder, f"dataset[{name!r}]", entry["images"], entry["label"], ending, channels), name=name)


def _pair(folder: Path, where: str, images: Any, label: Any, ending: str, channels: Sequence[int]) -> Pair:
    """One entry's files: those that it names, or, where an image is listed without nnU-Net's channel number, those of the channels."""
    listed = images if isinstance(images, list) else [images]
    apart = len(listed) > 1
    if apart and max(channels) >= len(listed):
        raise DatasetError(f"{folder / FILE}: {where} has no volume {max(channels)}; it lists {len(listed)}, counted from 0")
    said = [listed[channel] for channel in channels] if apart else listed or [None]
    scans, mask = [_inside(folder, where, image) for image in said], _inside(folder, where, label)
    name = _stem(scans[0], ending)
    if _NUMBERED.sub("", name) == _stem(mask, ending):
        name = _stem(mask, ending)
    numbered = [scans[0].with_name(f"{_stem(scans[0], ending)}_{channel:04d}{_ending(scans[0], ending)}") for channel in channels]
    if not apart and not scans[0].is_file() and any(path.is_file() for path in numbered):
        scans, said, apart = numbered, [f"{said[0]}, here {path.name}" for path in numbered], True
    for path, kind, given in ((mask, "labels", label), *((scan, "scan", image) for scan, image in zip(scans, said, strict=True))):
        if not path.is_file():
            raise DatasetError(f"{folder / FILE}: {name} has no {kind}: {where} says {given}, and there is no such file")
    if mask in scans:
        raise DatasetError(f"{folder / FILE}: {where} gives {label} as scan and as labels")
    return Pair(name, scans[0], mask, tuple(scans[1:]), apart, where=where)


def _inside(folder: Path, where: str, given: Any) -> Path:
    """A listed file's path; links within the folder are followed, the way out of it is not."""
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        raise DatasetError(f"{folder / FILE}: {where} must name files, found {given!r:.80}")
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, given))
    if not path.startswith(os.path.join(root, "")):
        raise DatasetError(f"{folder / FILE}: {where} says {given}, which lies outside the data set's folder; copy or link it there")
    return folder / os.path.relpath(path, root)


def _named(folder: Path, pairs: list[Pair]) -> list[Pair]:
    """Listed cases, no image twice; files of one name in several folders get their folders' names before their own."""
    images: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        status = pair.image.stat()  # a link's other name is the same scan
        other = images.setdefault((status.st_dev, status.st_ino), pair)
        if other is not pair:
            raise DatasetError(f"{folder / FILE}: {other.where} and {pair.where} are the same scan, {pair.image.relative_to(folder)}")
    names = Counter(pair.name for pair in pairs)
    if max(names.values()) > 1:
        shared = os.path.commonpath([pair.image.parent for pair in pairs])
        pairs = [replace(pair, name="_".join([*pair.image.parent.relative_to(shared).parts, pair.name])) for pair in pairs]
    first: dict[str, Pair] = {}
    for pair in pairs:
        other = first.setdefault(pair.name, pair)
        if other is not pair:
            raise DatasetError(f"{folder / FILE}: {other.where} and {pair.where} would both be called {pair.name}; rename a file")
    return pairs


def _by_name(folder: Path, ending: str, channels: Sequence[int]) -> list[Pair]:
    """All of `imagesTr` and `labelsTr`, where nothing is listed."""
    images, labels = ({_stem(path, ending): path for path in _files(folder / part, (ending,))} for part in ("imagesTr", "labelsTr"))
    numbered = bool(images) and all(_NUMBERED.search(name) for name in images)
    names = {_NUMBERED.sub("", name) for name in images} if numbered else {*images}
    pairs, problems = [], []
    for name in sorted(names):
        scans = {channel: images.get(f"{name}_{channel:04d}") for channel in channels} if numbered else {channels[0]: images[name]}
        found = [scan for scan in scans.values() if scan is not None]
        problems += [f"{name} has no scan in imagesTr for volume {channel}" for channel, scan in scans.items() if scan is None]
        if name not in labels:
            problems.append(f"{name} has no labels in labelsTr")
        elif len(found) == len(scans):
            pairs.append(Pair(name, found[0], labels[name], tuple(found[1:]), separate=numbered))
    problems += [f"labels of {name} belong to no scan" for name in sorted(labels.keys() - names)]
    if problems or not pairs:
        raise DatasetError(f"{folder}: {'; '.join(problems[:5]) or 'no cases found in imagesTr'}{' ...' if len(problems) > 5 else ''}")
    return pairs


def _beside(folder: Path, data: Mapping[str, Any], pairs: list[Pair], ending: str) -> list[str]:
    """Scans and labels in `imagesTr` and `labelsTr` that belong to no case; other channels of a case's scan do."""
    text = json.dumps(data, ensure_ascii=False)  # what any list names is known, be it to test on
    known = {path for pair in pairs for path in (pair.image, *pair.others, pair.label)}
    stems = {(pair.image.parent, _NUMBERED.sub("", _stem(pair.image, ending))) for pair in pairs}
    files = [path for part in ("imagesTr", "labelsTr") for path in _files(folder / part, (ending, *SCANS))]
    return [
        str(path.relative_to(folder))
        for path in files
        if path not in known
        and f"{path.parent.name}/{path.name}" not in text
        and not (_NUMBERED.search(stem := _stem(path, ending)) and (path.parent, _NUMBERED.sub("", stem)) in stems)
    ]


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files that do not hide (an archive of macOS brings a ``._`` of each)."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(endings) and not path.name.startswith("."))


def _ending(path: Path, ending: str) -> str:
    return next((end for end in (ending, *SCANS) if path.name.endswith(end)), path.suffix)


def _stem(path: Path, ending: str) -> str:
    return path.name.removesuffix(_ending(path, ending))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
