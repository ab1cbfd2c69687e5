"""Write a result on its scan's grid, whole or not at all; nothing but the geometry is taken from the scan's header."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from .. import __version__
from ..errors import OutputError
from ..files import atomic_write, refuse_input
from . import deflate
from .labels import extension
from .scan import ENDINGS, OURS, Scan

_KINDS = {"uint8": "mask", "float32": "probability"}
_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def write(path: Path, array: np.ndarray, like: Scan, *, labels: Sequence[str] = (), overwrite: bool = False) -> None:
    """Write a result on a scan's grid, whole or not at all: same affine, qform and sform with their codes, neutral scaling.

    Parameters
    ----------
    path : Path
        Ending in .nii.gz or .nii.
    array : (X, Y, Z) uint8 mask, or (X, Y, Z) or (X, Y, Z, C) float32 probabilities
    like : Scan
    labels : sequence of str
        Names of the labels 1, 2, ...; they travel in a header extension, see `labels.extension`.
    overwrite : bool
        Replace a file that exists; never the scan itself.

    Raises
    ------
    OutputError
        If it exists, is the scan itself, or the disk refuses.
    ValueError
        If the array is of another shape or dtype.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise OutputError(f"{path}: a result is written as .nii.gz or .nii. Choose such a name for --output.")
    if like.path:
        refuse_input(path, like.path)
    header = result_header(array, like, labels)
    # Level 1: a mask of 512x512x300 takes 0.1 s, with zlib 0.5; level 6 saves nothing worth waiting for
    compressor = deflate.compressor() if path.name.endswith(".gz") else None
    with atomic_write(path, overwrite=overwrite) as file:
        for piece in _pieces(header, array):
            file.write(compressor.compress(piece) if compressor else piece)
        if compressor:
            file.write(compressor.flush())


def _pieces(header: Any, array: np.ndarray) -> Iterator[bytes]:
    start = io.BytesIO()
    header.write_to(start)  # and the extensions, or four zero bytes
    yield start.getvalue()
    for index in np.ndindex(*array.shape[:1:-1]):  # X runs fastest
        yield array[:, :, *index[::-1]].tobytes(order="F")


def result_header(array: np.ndarray, like: Scan, labels: Sequence[str]) -> Any:
    """The header of a result: a new one, with the scan's geometry and nothing else of it."""
    if array.shape[:3] != like.shape or array.dtype.name not in _KINDS:
        raise ValueError(f"expected a uint8 mask or float32 probabilities of {like.shape}, found {array.dtype} {array.shape}")
    kind = _KINDS[array.dtype.name]
    header = Nifti2Header() if isinstance(like.header, Nifti2Header) else Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_slope_inter(1, 0)
    header["pixdim"][:4] = like.header["pixdim"][:4]
    for field in _GEOMETRY:
        header[field] = like.header[field]
    if labels:
        header.extensions.append(extension(labels))
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    header["descrip"] = f"{OURS}{__version__} {kind}"
    if kind == "mask":
        header.set_intent("label")
    return header
