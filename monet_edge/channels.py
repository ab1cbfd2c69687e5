"""The files of a case that is several images, by the names that nnU-Net's users give them: case_0000.nii.gz, case_0001.nii.gz."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import ScanError
from .formats import stem

_NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)
DIGITS = 4


def number_of(path: Path) -> tuple[str, int] | None:
    """The case's name and the image's number, from 0; None for a file that is not named so."""
    found = _NUMBERED.fullmatch(stem(path))
    return (found[1], int(found[2])) if found else None


def case_files(path: Path, images: int) -> tuple[Path, ...]:
    """All files of a case, by that of any of its images, whether they are there or not; of a model that takes one image the file itself.

    Raises
    ------
    ScanError
        If the name has no number, or one that the model has no image of.
    """
    if images == 1:
        return (path,)
    named = number_of(path)
    if named is None or named[1] >= images:
        wanted = f"a name in _{0:0{DIGITS}} to _{images - 1:0{DIGITS}}"
        raise ScanError(f"{path}: the model takes {images} images of a case, each a file with {wanted}", "Rename them so.")
    ending = path.name[len(stem(path)) :]
    return tuple(path.with_name(f"{named[0]}_{number:0{DIGITS}}{ending}") for number in range(images))


def case_name(path: Path, images: int) -> str:
    """What results of a case are named after: its file without the ending and, where it is several images, the number."""
    named = number_of(path) if images > 1 else None
    return named[0] if named else stem(path)


def first_image(path: Path, images: int) -> Path:
    """The first image of a case, by any of them; a file that is not named so stays what it is, to be refused by name."""
    named = number_of(path) if images > 1 else None
    if named is None or named[1] >= images:
        return path
    return path.with_name(f"{named[0]}_{0:0{DIGITS}}{path.name[len(stem(path)) :]}")
