"""Write a result as NIfTI: of the scan's header its geometry and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from ...about import __version__
from ...streams import deflate
from ...volume import Scan
from ..contract import OURS, Legend
from . import fields
from .fields import LABEL, MM, NIFTI1, NIFTI2
from .label_table import CARET, extension

NAME = "nifti"
ENDINGS = (".nii.gz", ".nii")
SUFFIX = "_seg.nii.gz"
_KINDS = {"uint8": "mask", "float32": "probability"}
_DATATYPES = {"uint8": 2, "float32": 16}
_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_SCANNER, _UNKNOWN = 1, 0  # codes of an affine


def written_by_us(header: np.ndarray) -> bool:
    """True for the header of a mask or probability that monet-edge wrote."""
    return bytes(header["descrip"]).startswith(OURS.encode())


def write(file: BinaryIO, name: str, array: np.ndarray, like: Scan, legend: Legend) -> None:
    """Write a result, compressed if its name ends so, see `contract.Writer`."""
    # Level 1: a mask of 512x512x300 takes 0.1 s, with zlib 0.5; level 6 saves nothing worth waiting for
    compressor = deflate.compressor() if name.endswith(".gz") else None
    for piece in _pieces(array, like, legend.labels, legend.key):
        file.write(compressor.compress(piece) if compressor else piece)
    if compressor:
        file.write(compressor.flush())


def _pieces(array: np.ndarray, like: Scan, labels: Sequence[str], key: str) -> Iterator[bytes]:
    table = extension(labels) if labels else b""
    header = result_header(array, like, key)
    if table:
        header["vox_offset"] += 8 + len(table)
    yield header.tobytes()
    yield struct.pack("<iii", 1, 8 + len(table), CARET) + table if table else bytes(4)
    for index in np.ndindex(*array.shape[:1:-1]):  # X runs fastest
        yield array[:, :, *index[::-1]].tobytes(order="F")


def result_header(array: np.ndarray, like: Scan, key: str = "") -> np.ndarray:
    """The header of a result: a new one, with the scan's geometry; qform and sform keep their codes if the scan is NIfTI, too."""
    kind = _KINDS[array.dtype.name]
    version = fields.version(like.header)
    header = fields.empty(version or (NIFTI1 if max(array.shape) < 1 << 15 else NIFTI2))
    header["datatype"], header["bitpix"] = _DATATYPES[array.dtype.name], 8 * array.dtype.itemsize
    header["dim"][: array.ndim + 1] = array.ndim, *array.shape
    if version is not None:
        header["pixdim"][:4] = like.header["pixdim"][:4]
        for field in _GEOMETRY:
            header[field] = like.header[field]
    else:
        fields.write_qform(header, like.affine)
        header["srow_x"], header["srow_y"], header["srow_z"] = like.affine[:3]
        header["qform_code"] = header["sform_code"] = _SCANNER if like.oriented else _UNKNOWN
        header["xyzt_units"] = MM
    header["descrip"] = f"{OURS}{__version__} {kind} {key}".rstrip()  # seal.py reads it
    if kind == "mask":
        header["intent_code"] = LABEL
    return header
