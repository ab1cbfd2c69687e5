"""What can be had of a finding, by name: masks in every format that is written, surfaces, the page, the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from math import ceil, prod
from pathlib import Path

import nibabel
import numpy as np

from .. import formats
from ..errors import OutputError
from ..files import atomic_write
from ..report.statistics import describe
from ..report.surface import surface, to_mz3
from ..runs.table import write_table
from ..volume import Scan
from .findings import Found

SIDE = 2048  # voxels: the longest side of a 3-D texture that every graphics card takes
VOXELS = 100_000_000  # that the viewer is given; 512x512x300 are 79 million
_AS_STORED = ("uint8", "int16", "uint16")  # what graphics cards take; all else goes as float32
Maker = Callable[[Path, Found], None]


def makers(labels: int) -> dict[str, Maker]:
    """What can be made of a finding with so many labels, by the result's name."""
    masks = {f"mask{ending}": _mask for ending in formats.ENDINGS}
    surfaces = {f"surface-{label}.mz3": _surface(label) for label in range(1, labels + 1)}
    return {**masks, **surfaces, "report.html": _report, "table.csv": _table}


def endings(header: formats.Header) -> list[str]:
    """What a mask of this scan may be called: not every format can be written of every scan."""
    found = []
    for ending in formats.ENDINGS:
        check = formats.writer(ending).check
        with suppress(OutputError):
            if check is not None:
                check(header)
            found.append(ending)
    return found


def _mask(path: Path, found: Found) -> None:
    finding = found.finding
    formats.write(path, finding.mask, like=finding.scan, labels=found.weights.preprocess.labels)


def _surface(label: int) -> Maker:
    def make(path: Path, found: Found) -> None:
        with atomic_write(path, overwrite=False) as file:
            file.write(to_mz3(*surface(found.finding.mask == label, found.finding.scan.affine)))

    return make


def _report(path: Path, found: Found) -> None:
    from ..report import page  # here, with pillow: few ask for it

    with atomic_write(path, overwrite=False) as file:
        file.write(page.of(found.finding, found.weights).encode())


def _table(path: Path, found: Found) -> None:
    finding = found.finding
    scan = {"scan": 1, "labels": describe(finding.labels), "warnings": list(finding.warnings)}
    write_table(path, found.weights.name, [scan], overwrite=False)


def shown(array: np.ndarray, like: Scan, slope: float = 1.0, inter: float = 0.0) -> tuple[int, Iterator[bytes]]:
    """An array on a scan's grid as the viewer takes it: an uncompressed NIfTI with a new header, coarser if it is very large.

    Parameters
    ----------
    array : (X, Y, Z) array
        Voxels or mask.
    like : Scan
    slope, inter : float
        Intensity = array * slope + inter.

    Returns
    -------
    int
        Bytes in all.
    iterator of bytes
        Plane by plane: no copy of the volume is made.
    """
    steps = _steps(array.shape)
    seen = array[tuple(slice(None, None, step) for step in steps)]
    plain = array.dtype.name in _AS_STORED
    header = nibabel.Nifti1Header()
    header.set_data_shape(seen.shape)
    header.set_data_dtype(array.dtype if plain else np.float32)
    header.set_zooms([mm * step for mm, step in zip(like.spacing, steps, strict=True)])
    header.set_sform(like.affine @ np.diag([*steps, 1]), 1)
    header.set_xyzt_units("mm")
    if plain:
        header.set_slope_inter(slope, inter)
    header["vox_offset"] = 352

    def parts() -> Iterator[bytes]:
        yield header.binaryblock + bytes(4)
        for z in range(seen.shape[2]):
            plane = seen[:, :, z]
            yield (plane if plain else _finite(plane, slope, inter)).tobytes(order="F")

    return 352 + seen.size * header.get_data_dtype().itemsize, parts()


def _finite(plane: np.ndarray, slope: float, inter: float) -> np.ndarray:
    with np.errstate(all="ignore"):  # what is no number, or leaves float32, is drawn as 0
        return np.nan_to_num((plane.astype(np.float64) * slope + inter).astype(np.float32), posinf=0, neginf=0)


def _steps(shape: tuple[int, ...]) -> list[int]:
    """Of every how many voxels one is shown, along each axis."""
    steps = [ceil(size / SIDE) for size in shape]
    while prod(ceil(size / step) for size, step in zip(shape, steps, strict=True)) > VOXELS:
        counts = [size / step for size, step in zip(shape, steps, strict=True)]
        steps[counts.index(max(counts))] += 1
    return steps
