"""The images of a case that is several: files named as nnU-Net's users do, case_0000.nii.gz, case_0001.nii.gz, or the volumes of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .errors import ScanError
from .formats import Header, stem

_NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)
DIGITS = 4


def number_of(path: Path, images: int) -> tuple[str, int] | None:
    """The case's name and the image's number, from 0; None for a file that is not named as one of several images."""
    found = _NUMBERED.fullmatch(stem(path)) if images > 1 else None
    return (found[1], int(found[2])) if found and int(found[2]) < images else None


def case_files(path: Path, images: int) -> tuple[Path, ...]:
    """All files of a case, by that of any of its images, whether they are there or not; of one that is not named so the file itself."""
    named = number_of(path, images)
    if named is None:
        return (path,)
    ending = path.name[len(stem(path)) :]
    return tuple(path.with_name(f"{named[0]}_{number:0{DIGITS}}{ending}") for number in range(images))


def case_images(files: Sequence[Header], images: int, volume: int | None) -> tuple[Header, ...]:
    """The file of every image of a case: its own, of whose volumes ``volume`` chooses one, or always the same, whose volumes they are.

    Raises
    ------
    ScanError
        If one file holds more volumes than the model takes images, or fewer.
    """
    if len(files) != 1 or images == 1:
        return tuple(files)
    (file,) = files
    if file.volumes != images:
        found = f"the model takes {images} images of a case, found {file.volumes} volume{'s' if file.volumes > 1 else ''} in this file"
        named = f"files named _{0:0{DIGITS}} to _{images - 1:0{DIGITS}}"
        raise ScanError(f"{file.path}: {found}", f"Give one file of {images} volumes, or {named}, in the order that info tells.")
    if volume is not None:
        raise ScanError(f"{file.path}: its {images} volumes are the images that the model takes of a case", "Leave {volume} out.")
    return (file,) * images


def case_name(path: Path, images: int) -> str:
    """What results of a case are named after: its file without the ending and, where it is several files, the number."""
    named = number_of(path, images)
    return named[0] if named else stem(path)
