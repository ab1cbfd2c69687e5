"""Scans and results as nibabel images, for those who have them in memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ScanError, kind
from ...volume import Scan
from ..raster import without_huge
from . import fields
from .header import layout
from .label_table import CARET, extension
from .reader import peek, read
from .writer import ENDINGS, result_header


def from_image(image: Any, volume: int | None = None) -> Scan:
    """A nibabel image as a Scan: from its file, with every check, where its voxels are still there; else from memory.

    Parameters
    ----------
    image : nibabel image
    volume : int, optional
        Which one of an image (X, Y, Z, volumes).

    Raises
    ------
    ScanError
        If it is not one volume of real numbers on a usable grid, or its file has changed or is damaged.
    ResourceError
        If the volume does not fit into memory.
    """
    if not all(hasattr(image, part) for part in ("shape", "affine", "header", "dataobj")):
        raise ScanError(
            f"expected a nibabel image or the path of a file, found {kind(image)}; of an array (X, Y, Z) and its affine "
            "(voxel to world, mm) nibabel.Nifti1Image(array, affine) makes one"
        )
    several = volume is None and max(image.shape[3:], default=1) > 1
    if len(image.shape) < 2 or min(image.shape) < 1 or several:
        raise ScanError(f"an image of shape {image.shape}; expected one 3-D volume")
    header = _nifti_header(image)
    checked = layout(header, image.shape, np.dtype(np.uint8), 0)
    affine = checked.affine if image.affine is None else np.array(image.affine, np.float64)  # the header's is float32
    if image.affine is not None:
        affine[:3] *= fields.unit(header)[1]
    file = getattr(image.dataobj, "file_like", None)
    if isinstance(file, (str, Path)) and Path(file).name.lower().endswith(ENDINGS):
        found = peek(Path(file))
        if (found.shape, found.volumes) != (checked.shape, checked.volumes):
            raise ScanError(f"{file}: its shape is {found.shape}, the image loaded from it has {checked.shape}: it has changed since")
        (scan,) = read(found, (volume or 0,))
        return replace(scan, affine=affine, header=header, oriented=checked.oriented)
    return Scan(None, _voxels(image, checked.shape, volume), 1.0, 0.0, affine, header, checked.warnings, checked.oriented)


def _nifti_header(image: Any) -> np.ndarray:
    """The image's header as NIfTI, whatever format it is of, and whatever was done to its affine since it was loaded."""
    import nibabel  # here: see `fields`
    from nibabel.nifti2 import Nifti2Header

    form = nibabel.Nifti2Image if isinstance(image.header, Nifti2Header) else nibabel.Nifti1Image
    try:
        with np.errstate(all="ignore"):
            header = form(np.broadcast_to(np.uint8(0), image.shape), image.affine, image.header).header
    except (nibabel.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise ScanError(f"the image has no usable header or affine: {error}") from None
    header.set_slope_inter(1, 0)
    return fields.parse(header.binaryblock, fields.NIFTI2 if form is nibabel.Nifti2Image else fields.NIFTI1, header.endianness)


def _voxels(image: Any, shape: tuple[int, int, int], volume: int | None) -> np.ndarray:
    """The image's intensities (X, Y, Z), or those of one of its volumes, read-only: the array may be the caller's."""
    try:
        voxels = np.asanyarray(image.dataobj if volume is None else image.dataobj[..., volume]).reshape(shape, order="F")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScanError(f"the image's voxels cannot be read: {error}") from None
    if voxels.dtype.kind not in "uif" or voxels.dtype.itemsize > 8:
        raise ScanError(f"its voxels are {voxels.dtype}; expected integers or floats of at most 64 bits")
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False).view()
    voxels.flags.writeable = False
    voxels = without_huge(voxels)
    voxels.flags.writeable = False
    return voxels


def to_image(array: np.ndarray, like: Scan, labels: Sequence[str] = ()) -> Any:
    """A mask (uint8) or probability (float32) on a scan's grid as a nibabel image, see `write`."""
    import nibabel  # here: see `fields`

    header = result_header(array, like)
    form = nibabel.Nifti2Image if header.dtype == fields.NIFTI2 else nibabel.Nifti1Image
    made = form.header_class(header.tobytes(), "<", check=False)
    if labels:
        made.extensions.append(nibabel.nifti1.Nifti1Extension(CARET, extension(labels)))
    made["vox_offset"] += int(made.extensions.get_sizeondisk())
    affine = like.affine.copy()
    affine[:3] /= fields.unit(header)[1]
    return form(array, affine, made)
