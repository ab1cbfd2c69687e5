"""Write a result as NIfTI: of the scan's header its geometry and nothing else."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from ...about import __version__
from ...volume import Scan
from .. import deflate
from ..contract import OURS, Legend
from .label_table import extension

NAME = "nifti"
ENDINGS = (".nii.gz", ".nii")
SUFFIX = "_seg.nii.gz"
_KINDS = {"uint8": "mask", "float32": "probability"}
_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_SCANNER, _UNKNOWN = 1, 0  # codes of an affine


def written_by_us(header: Any) -> bool:
    """True for the header of a mask or probability that monet-edge wrote."""
    return bytes(header["descrip"]).startswith(OURS.encode())


def write(file: BinaryIO, name: str, array: np.ndarray, like: Scan, legend: Legend) -> None:
    """Write a result, compressed if its name ends so, see `contract.Writer`."""
    header = result_header(array, like, legend.labels)
    # Level 1: a mask of 512x512x300 takes 0.1 s, with zlib 0.5; level 6 saves nothing worth waiting for
    compressor = deflate.compressor() if name.endswith(".gz") else None
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
    """The header of a result: a new one, with the scan's geometry; qform and sform keep their codes if the scan is NIfTI, too."""
    kind = _KINDS[array.dtype.name]
    header = Nifti2Header() if isinstance(like.header, Nifti2Header) else Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_slope_inter(1, 0)
    if isinstance(like.header, Nifti1Header):  # NIfTI-2's is one, too
        header["pixdim"][:4] = like.header["pixdim"][:4]
        for field in _GEOMETRY:
            header[field] = like.header[field]
    else:
        header.set_qform(like.affine, _SCANNER if like.oriented else _UNKNOWN)  # the nearest without shear
        header.set_sform(like.affine, _SCANNER if like.oriented else _UNKNOWN)
        header.set_xyzt_units("mm")
    if labels:
        header.extensions.append(extension(labels))
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    header["descrip"] = f"{OURS}{__version__} {kind}"
    if kind == "mask":
        header.set_intent("label")
    return header
