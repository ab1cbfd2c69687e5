"""NIfTI files byte by byte, so that a test can say exactly what is wrong with one."""

import struct
import zlib

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

OBLIQUE = np.array([[-0.9, 0.1, 0.2, 40], [0.15, 1.1, -0.3, -60], [0.1, 0.35, 2.4, 12.5], [0, 0, 0, 1]])


def head(shape=(12, 10, 6), dtype=np.int16, seed=0):
    """Voxels of something: a bright ball in noise."""
    x, y, z = np.ogrid[tuple(slice(-1, 1, complex(n)) for n in shape[:3])]
    ball = (x * x + y * y + z * z < 0.6) * 80 + np.random.default_rng(seed).integers(0, 20, shape[:3])
    return np.broadcast_to(ball.reshape(*shape[:3], *(1,) * (len(shape) - 3)), shape).astype(dtype)


def nifti(voxels=None, affine=OBLIQUE, *, order="<", version=1, extensions=b"", extended=None, fields=None, data=None):
    """The bytes of a .nii file.

    Parameters
    ----------
    fields : dict, optional
        Raw header fields to set at the end, whatever they make of the file.
    extensions, extended
        What stands between header and voxels; and the flag that says so, by default the truth.
    data : bytes, optional
        Instead of the voxels' own.
    """
    voxels = head() if voxels is None else voxels
    header = (Nifti1Header if version == 1 else Nifti2Header)(endianness=order)
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_xyzt_units("mm", "sec")
    if affine is not None:
        header.set_sform(affine, "scanner")
        header.set_qform(affine, "aligned")
    header["vox_offset"] = header.single_vox_offset + len(extensions)
    for name, value in (fields or {}).items():
        header[name] = value
    flag = bytes([bool(extensions) if extended is None else extended, 0, 0, 0])
    stored = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F") if data is None else data
    return header.binaryblock + flag + extensions + stored


def extension(size, content=b"", order="<"):
    """A header extension that claims ``size`` bytes."""
    return struct.pack(order + "ii", size, 6) + content


def gz(raw, level=1):
    """One gzip member."""
    deflate = zlib.compressobj(level, wbits=31)
    return deflate.compress(raw) + deflate.flush()
