"""Read a DICOM series: of a folder and the folders beneath it, of a zip archive, or of the file that is named and its neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import limits
from ...errors import ResourceError, ScanError
from ...files import missing
from ...volume import Scan
from ..contract import Header
from . import geometry, series
from .image import Image, Slice
from .library import about, pydicom
from .members import Members, is_dicom, is_zip
from .pixels import frames

NAME = "DICOM"
OTHER_ENDINGS = (".dcm", ".zip")


@dataclass(frozen=True)
class Source:
    """The slices that a scan was made of, in the order of its last axis: what a result in DICOM refers to.

    Attributes
    ----------
    path : Path
        For `Members`.
    slices : tuple of Slice
    """

    path: Path
    slices: tuple[Slice, ...]


def sniff(path: Path, start: bytes) -> bool:
    """Whether it is a DICOM file, a zip archive, or a folder that holds a DICOM file somewhere."""
    return series.holds(path) if os.path.isdir(path) else is_dicom(start) or is_zip(start) or path.name.lower().endswith(".dcm")


def peek(path: Path) -> Header:
    """Read and check the headers of all slices, see `contract.Format`."""
    return choose(path, None, "")


def choose(path: Path, wanted: str | None, modality: str) -> Header:
    """As `peek`, of the series that is meant, see `contract.Format`."""
    pydicom()
    with about(path):
        place, found, damaged = look(path)
        chosen, notes = series.choose(path, found, damaged, wanted, series.expected(modality))
    with Members(place) as members:
        files = members.paths(part.image.file for one in found for volume in one.volumes for part in volume if part.image.rows)
    first = chosen.volumes[0]
    details = (place, chosen, notes)
    return Header(NAME, path, chosen.shape, len(chosen.volumes), _dtype(chosen.volumes), geometry.affine(first), False, details, files)


def list_series(path: Path) -> tuple[list[series.Series], list[str]]:
    """All series of a folder, an archive or a file, and what is wrong with files of which nothing is known.

    Raises
    ------
    ScanError
        If there is no such path, or no DICOM in it.
    """
    pydicom()
    if not os.path.exists(path):
        raise ScanError(f"{path}: {missing(path)}")
    with about(path):
        with Members(path) as members:
            found, damaged = series.find(members)
        if not found and not damaged:
            raise ScanError("holds no DICOM image")
    return found, damaged


def look(path: Path) -> tuple[Path, list[series.Series], list[str]]:
    """Where the files are, what series they make, and what is wrong with files of which nothing is known.

    A file of one slice stands for its series: the files beside it with the same UID; one of many frames stands for itself.
    """
    with Members(path) as members:
        found, damaged = series.find(members)
        if path.is_dir() or members.archived or not found:
            return path, found, damaged
    image = found[0].image
    if image.frames > 1 or image.problem or not image.uids["SeriesInstanceUID"]:
        return path, found, damaged
    with Members(path.parent) as members:
        beside, damaged = series.find(members)
    named = [one for one in beside if any(part.image.file == path.name for volume in one.volumes for part in volume)]
    return path.parent, named, [words for words in damaged if words.startswith(path.name)]


def read(header: Header, volumes: Sequence[int]) -> tuple[Scan, ...]:
    """Read volumes, slice by slice, see `contract.Format`."""
    return tuple(_volume(header, volume) for volume in volumes)


def _volume(header: Header, volume: int) -> Scan:
    place, chosen, notes = header.details
    slices: tuple[Slice, ...] = chosen.volumes[volume]
    scales = [_scale(one) for one in slices]
    alike = len(set(scales)) == 1
    limits.demand(int(np.prod(header.shape)) * header.dtype.itemsize, f"{header.path}: the volume")
    try:
        voxels = np.empty(header.shape, header.dtype, order="F")
    except MemoryError:
        raise ResourceError(f"{header.path}: the volume needs more memory than there is") from None
    with about(header.path), Members(place) as members:
        for at, pixels in frames(members, slices):
            voxels[:, :, at] = pixels.T if alike else _scaled(pixels, slices[at].image, *scales[at]).T
    slope, inter = scales[0] if alike else (1.0, 0.0)
    if alike and slices[0].image.padding is not None:
        _clear(voxels, *slices[0].image.padding, slope)
    voxels.flags.writeable = False
    return Scan(header.path, voxels, slope, inter, geometry.affine(slices), Source(place, slices), notes, files=header.files)


def _scale(one: Slice) -> tuple[float, float]:
    """Slope and intercept of its intensities; MONOCHROME1 turned, where what it shows is no physical quantity."""
    if not one.image.inverted or series.measured(one.image):
        return one.slope, one.inter
    ends = -1 if one.image.dtype.kind == "i" else (1 << one.image.stored) - 1  # the lowest stored value and the highest, added
    return -one.slope, one.inter + one.slope * ends


def _dtype(volumes: Sequence[Sequence[Slice]]) -> np.dtype:
    """One that holds any of the volumes: as stored, or float32 where slices of one have scales of their own (PET)."""
    if any(len({_scale(one) for one in slices}) > 1 for slices in volumes):
        return np.dtype(np.float32)
    return np.result_type(*{one.image.dtype for slices in volumes for one in slices})


def _scaled(pixels: np.ndarray, image: Image, slope: float, inter: float) -> np.ndarray:
    """Intensities; NaN, which counts as background, where there is no image."""
    found = pixels * slope + inter
    if image.padding is not None:
        found[(pixels >= image.padding[0]) & (pixels <= image.padding[1])] = np.nan
    return found


def _clear(voxels: np.ndarray, low: float, high: float, slope: float) -> None:
    """Give padding the darkest value of the rest, in place, where it is brighter: a border of 32767 would be taken for bone."""
    darkest, padded = None, []
    best = np.min if slope > 0 else np.max
    for z in range(voxels.shape[2]):  # plane by plane: no second volume
        plane = voxels[:, :, z]
        outside = (plane >= low) & (plane <= high)
        if outside.any():
            padded.append(z)
        if not outside.all():
            found = best(plane[~outside]) if outside.any() else best(plane)
            darkest = found if darkest is None else best((darkest, found))
    if darkest is None or not padded or (darkest - (high if slope > 0 else low)) * slope >= 0:
        return
    for z in padded:
        plane = voxels[:, :, z]
        plane[(plane >= low) & (plane <= high)] = darkest
