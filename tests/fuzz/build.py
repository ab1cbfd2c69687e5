"""NIfTI, NRRD and MetaImage files byte by byte, so that a test can say exactly what is wrong with one."""

import bz2
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


NRRD_TYPES = {
    **{"u1": "uchar", "i1": "int8", "u2": "unsigned short", "i2": "short", "i4": "int", "u4": "uint", "i8": "long long", "u8": "uint64"},
    **{"f4": "float", "f8": "double"},
}
MET_TYPES = {
    **{"u1": "UCHAR", "i1": "CHAR", "u2": "USHORT", "i2": "SHORT", "i4": "INT", "u4": "UINT", "i8": "LONG_LONG", "u8": "ULONG_LONG"},
    **{"f4": "FLOAT", "f8": "DOUBLE"},
}
PACKINGS = {"raw": bytes, "gzip": gz, "bzip2": bz2.compress, "zlib": zlib.compress}


def stored(voxels, packing, order):
    """The voxels' bytes in a file; the letters of numbers, a line a column, where ``packing`` is "text"."""
    if packing == "text":
        columns = voxels.reshape(voxels.shape[0], -1, order="F").T
        return "\n".join(" ".join(map(str, column.tolist())) for column in columns).encode()
    return PACKINGS[packing](voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F"))


def nrrd(voxels=None, affine=OBLIQUE, *, packing="gzip", order="<", file=None, fields=None, keys="", data=None):
    """The bytes of a .nrrd file; of header and voxels each, where ``file`` names that of the voxels.

    Parameters
    ----------
    affine : (4, 4)
        Voxel to right, anterior, superior; written in left, posterior, superior. An axis more is "none".
    fields : dict, optional
        To change, add, or, with None, leave out.
    keys : str
        Lines more.
    data : bytes, optional
        Instead of the voxels' own.
    """
    voxels = head() if voxels is None else voxels
    lps = np.diag([-1, -1, 1, 1]) @ affine
    vectors = [f"({','.join(map(repr, column.tolist()))})" for column in lps[:3].T]
    code = voxels.dtype.str[1:]
    about = {
        "type": NRRD_TYPES[code],
        "dimension": voxels.ndim,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": " ".join([*vectors[:3], *["none"] * (voxels.ndim - 3)]),
        "kinds": " ".join([*["domain"] * 3, *["list"] * (voxels.ndim - 3)]),
        "endian": {"<": "little", ">": "big"}[order],
        "encoding": packing,
        "space origin": vectors[3],
        **({"data file": file} if file else {}),
        **(fields or {}),
    }
    header = "NRRD0004\n# made by a test\n" + "".join(f"{name}: {value}\n" for name, value in about.items() if value is not None) + keys
    data = stored(voxels, packing, order) if data is None else data
    return (header.encode(), data) if file else header.encode() + b"\n" + data


def mha(voxels=None, affine=OBLIQUE, *, packing="zlib", order="<", file=None, fields=None, data=None):
    """The bytes of a .mha file; of header and voxels each, where ``file`` names that of the voxels. For parameters see `nrrd`."""
    voxels = head() if voxels is None else voxels
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    code, extra = voxels.dtype.str[1:], voxels.ndim - 3
    matrix = np.eye(voxels.ndim)
    matrix[:3, :3] = (lps[:3, :3] / spacing).T  # a row an axis
    about = {
        "ObjectType": "Image",
        "NDims": voxels.ndim,
        "BinaryData": packing != "text",
        "BinaryDataByteOrderMSB": order == ">",
        "CompressedData": packing in ("zlib", "gzip"),
        "TransformMatrix": " ".join(map(repr, matrix.ravel().tolist())),
        "Offset": " ".join(map(repr, [*lps[:3, 3].tolist(), *[0] * extra])),
        "AnatomicalOrientation": "???",
        "ElementSpacing": " ".join(map(repr, [*spacing.tolist(), *[1] * extra])),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": f"MET_{MET_TYPES[code]}",
        **(fields or {}),
        "ElementDataFile": file or (fields or {}).get("ElementDataFile", "LOCAL"),
    }
    header = "".join(f"{name} = {value}\n" for name, value in about.items() if value is not None)
    data = stored(voxels, packing, order) if data is None else data
    return (header.encode(), data) if file else header.encode() + data
