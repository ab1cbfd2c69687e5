"""Which series a folder, an archive or a file holds, what is wrong with each, and which one is meant.

Found by their UIDs and their geometry, never by names of files. Where UIDs are blank, images of one frame of reference,
orientation, size and spacing belong together.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ScanError
from . import geometry
from .image import Image, Slice, read
from .members import Members, is_dicom
from .pixels import undecodable

IDENTITIES = {
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "series",
    "SOPInstanceUID": "instance",
    "SOPClassUID": "class",
}
SPLITTERS = 9  # places of `Slice.moment`, in this order: time, echo, diffusion, trigger, acquisition, kind, file
_MODALITIES = {"CT": ("CT",), "MR": ("MR", "MRI", "FLAIR", "T1", "T1W", "T1CE", "T2", "T2W", "PD", "DWI", "ADC"), "PT": ("PT", "PET")}


@dataclass(frozen=True)
class Series:
    """Slices that belong together.

    Attributes
    ----------
    number : int
        In the list, from 1.
    volumes : tuple of tuple of Slice
        Each in order along the normal; several, if there are several at the same places. One with all slices, if there is a problem.
    problem : str
        What keeps it from being a scan; empty where nothing does.
    warnings : tuple of str
    """

    number: int
    volumes: tuple[tuple[Slice, ...], ...]
    problem: str
    warnings: tuple[str, ...]

    @property
    def image(self) -> Image:
        """What its first file says of itself."""
        return self.volumes[0][0].image

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices of a volume."""
        return self.image.columns, self.image.rows, len(self.volumes[0])

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm from column to column, row to row and, where there is a grid, slice to slice."""
        if self.problem or not self.image.rows:
            return self.volumes[0][0].spacing[::-1]
        return tuple(float(length) for length in np.linalg.norm(geometry.affine(self.volumes[0])[:3, :3], axis=0))

    def __str__(self) -> str:
        """In a few words, for messages."""
        several = f" x {len(self.volumes)}" if len(self.volumes) > 1 else ""
        kind = self.image.modality or "?"
        return f"{self.number} ({kind}, {'x'.join(map(str, self.shape))}{several})" if self.image.rows else f"{self.number} ({kind})"


def expected(modality: str) -> str:
    """DICOM's modality for a model's own words, such as MR for "FLAIR"; empty where they name none, or several."""
    words = modality.upper().replace("-", " ").replace(",", " ").replace("/", " ").split()
    found = [code for code, names in _MODALITIES.items() if any(word in names for word in words)]
    return found[0] if len(found) == 1 else ""


def holds(path: Path, others: tuple[str, ...] = (), deep: bool = True) -> bool:
    """Whether there is a DICOM file in a folder or, if ``deep``, in one beneath it; what ends as ``others`` is no DICOM."""
    with Members(path) as members:
        for name in members.names():
            if not deep and os.sep in name:  # those of the folder itself come first
                return False
            if not name.lower().endswith(others) and _begins(members, name):
                return True
    return False


def holds_study(path: Path, others: tuple[str, ...] = ()) -> bool:
    """Whether all DICOM in a folder and beneath it, a file of each folder looked at, is of one study; false where there is none."""
    studies: dict[str, str] = {}
    with Members(path) as members:
        for name in members.names():
            folder = os.path.dirname(name)
            if folder in studies or name.lower().endswith(others) or not _begins(members, name):
                continue
            with suppress(ScanError), members.file(name) as file:
                studies[folder] = read(file, name, (0, 0))[0].image.uids["StudyInstanceUID"]
            if len({*studies.values()}) > 1:
                return False
    return bool(studies)


def _begins(members: Members, name: str) -> bool:
    """Whether a file begins as DICOM; one that cannot be read does not tell."""
    try:
        return is_dicom(members.start(name, 132))
    except ScanError:
        return False


def find(members: Members) -> tuple[list[Series], list[str]]:
    """All series, and what is wrong with files of which nothing is known."""
    slices: list[Slice] = []
    damaged: list[str] = []
    for name in members.names():
        try:
            if not is_dicom(members.start(name, 132)):
                if name.lower().endswith(".dcm"):
                    damaged.append(f"{name} is called DICOM and does not begin so. Copy it again, or leave it out.")
                continue
            with members.file(name) as file:
                slices += read(file, name, members.version(name))
        except ScanError as error:
            damaged.append(str(error))
    return group(slices), damaged


def group(slices: Iterable[Slice]) -> list[Series]:
    """Put slices together to series, numbered."""
    found = [part for together in _by_uid(slices) for part in _by_orientation(together)]
    found.sort(key=lambda part: (_number(part[0].image.number), part[0].image.uids["SeriesInstanceUID"], part[0].image.file))
    return [_series(number, part) for number, part in enumerate(found, 1)]


def choose(
    path: Path, found: Sequence[Series], damaged: Sequence[str], wanted: str | None, modality: str
) -> tuple[Series, tuple[str, ...]]:
    """The series that is meant, with what to tell the user.

    Parameters
    ----------
    path : Path
        For messages.
    found, damaged
        From `find`.
    wanted : str, optional
        A number of the list, or a SeriesInstanceUID.
    modality : str
        DICOM's, that the model takes; empty for any.

    Raises
    ------
    ScanError
        If there is none, or several without one being wanted.
    """
    if wanted is not None:
        chosen = [one for one in found if wanted in (str(one.number), one.image.uids["SeriesInstanceUID"])]
        if not chosen:
            raise ScanError(f"{path}: has no series {wanted}; it has {_list(found) or 'none'}")
    elif damaged:
        raise ScanError(f"{path}: {damaged[0]}", "Or choose a series that is whole with {series}.")
    else:
        chosen = [one for one in found if not one.problem and modality in ("", one.image.modality)]
        chosen = chosen or [one for one in found if not one.problem] or list(found)
    usable = [one for one in chosen if not one.problem]
    if not usable:
        raise _unusable(path, chosen)
    if len(usable) > 1:
        raise ScanError(f"{path}: holds several series that could be meant: {_list(usable)}", "Choose one with {series} and its number.")
    notes = [f"series {usable[0]} of {len(found)} was taken"] if len(found) > 1 and wanted is None else []
    if modality and usable[0].image.modality not in ("", modality):
        notes.append(f"its modality is {usable[0].image.modality}, the model was trained on {modality}; do not trust the mask")
    return usable[0], (*notes, *usable[0].warnings)


def _unusable(path: Path, found: Sequence[Series]) -> ScanError:
    if not found:
        return ScanError(f"{path}: holds no DICOM image")
    if len(found) == 1:
        return ScanError(f"{path}: {found[0].problem}")
    return ScanError(f"{path}: no series can be segmented: {'; '.join(f'{one}: {one.problem}' for one in found[:5])}")


def _list(found: Sequence[Series]) -> str:
    return ", ".join(map(str, found[:20]))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 12 else 0


def _by_uid(slices: Iterable[Slice]) -> list[list[Slice]]:
    """What is no picture stands apart from the series that it was sent with."""
    found: dict[Any, list[Slice]] = defaultdict(list)
    for one in slices:
        image = one.image
        uid: Any = image.uids["SeriesInstanceUID"]
        if not uid:
            uid = (image.uids["FrameOfReferenceUID"], image.modality, image.rows, image.columns, np.round(one.spacing, 4).tobytes())
        found[uid, image.problem if not image.rows else ""].append(one)
    return list(found.values())


def _by_orientation(slices: list[Slice]) -> list[list[Slice]]:
    if any(not one.orientation for one in slices):
        return [slices]
    found: list[list[Slice]] = []
    for one in slices:
        for part in found:
            if np.allclose(part[0].orientation, one.orientation, rtol=0, atol=1e-3):
                part.append(one)
                break
        else:
            found.append([one])
    return found


def _series(number: int, slices: list[Slice]) -> Series:
    problem = _different(slices)
    if problem:
        return Series(number, (tuple(slices),), problem, ())
    levels = geometry.levels(slices)
    volumes = _volumes(levels)
    if not volumes:
        twins = next(level for level in levels if len(level) > 1)
        several = sum(len(level) > 1 for level in levels)
        problem = f"doubled slices at {several} of {len(levels)} places: {twins[0]} and {twins[1]}"
        return Series(number, (tuple(slices),), problem, ())
    problems = [words for volume in volumes for words in geometry.problems(volume)]
    return Series(number, volumes, "; ".join(dict.fromkeys(problems)), _warnings(slices))


def _different(slices: list[Slice]) -> str:
    """What keeps slices from being of one kind."""
    first = slices[0].image
    for one in slices:
        image = one.image
        if image.problem:
            return image.problem if not image.rows else f"{one}: {image.problem}"
        if (image.rows, image.columns) != (first.rows, first.columns):
            return f"mixed sizes: {slices[0]} has {first.columns}x{first.rows} pixels, {one} {image.columns}x{image.rows}"
        if not np.allclose(one.spacing, slices[0].spacing, rtol=1e-4):
            return f"mixed pixel sizes: {slices[0]} has {slices[0].spacing} mm, {one} {one.spacing}"
        if image.uids["FrameOfReferenceUID"] != first.uids["FrameOfReferenceUID"]:
            return f"several frames of reference: nothing says how {slices[0]} and {one} lie to each other"
        if image.inverted != first.inverted:
            return f"{slices[0]} and {one} disagree on which end of their values is white"
        if words := undecodable(image):
            return f"{one}: {words}"
    return ""


def _volumes(levels: list[list[Slice]]) -> tuple[tuple[Slice, ...], ...]:
    """One volume or, of several at the same places, each, told apart by the first moment that does so; none, where none does."""
    count = len(levels[0])
    if any(len(level) != count for level in levels):
        return ()
    if count == 1:
        return (tuple(level[0] for level in levels),)
    for place in range(SPLITTERS):
        try:
            sorted_levels = [sorted(level, key=lambda one: one.moment[place]) for level in levels]
        except TypeError:  # of moments that cannot be compared
            continue
        moments = [[one.moment[place] for one in level] for level in sorted_levels]
        if all(found == moments[0] for found in moments) and len(set(moments[0])) == count:
            return tuple(zip(*sorted_levels, strict=True))
    return ()


def _warnings(slices: list[Slice]) -> tuple[str, ...]:
    image = slices[0].image
    warnings = []
    if blank := blanks(slices):
        how = "" if image.uids["SeriesInstanceUID"] else ": the slices were put together by their geometry"
        warnings.append(f"its UIDs of {', '.join(blank)} are blank{how}")
    if image.inverted and measured(image):
        warnings.append(f"MONOCHROME1 in {image.modality}: its values are physical ones and are taken as they are")
    elif image.inverted:
        warnings.append("MONOCHROME1: its intensities were inverted, so that high ones are bright")
    return tuple(warnings)


def measured(image: Image) -> bool:
    """Whether intensities are physical ones (HU, Bq/ml), whatever way they are to be shown."""
    return image.modality in ("CT", "PT")


def blanks(slices: Iterable[Slice]) -> list[str]:
    """Which identities are blank in any of the slices, in words."""
    return [words for key, words in IDENTITIES.items() if any(not one.image.uids[key] for one in slices)]
