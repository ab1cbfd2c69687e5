"""The fields of a NIfTI header as a NumPy record, both versions, and the affines they stand for.

A tenth of a second of every start would go into nibabel, which imports every format that it knows; its own headers are the same
records, and `image` hands them to and fro.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NIFTI1 = np.dtype(
    [("sizeof_hdr", "<i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "<i4"), ("session_error", "<i2"), ("regular", "S1"),
     ("dim_info", "u1"), ("dim", "<i2", 8), ("intent_p1", "<f4"), ("intent_p2", "<f4"), ("intent_p3", "<f4"), ("intent_code", "<i2"),
     ("datatype", "<i2"), ("bitpix", "<i2"), ("slice_start", "<i2"), ("pixdim", "<f4", 8), ("vox_offset", "<f4"), ("scl_slope", "<f4"),
     ("scl_inter", "<f4"), ("slice_end", "<i2"), ("slice_code", "u1"), ("xyzt_units", "u1"), ("cal_max", "<f4"), ("cal_min", "<f4"),
     ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4"), ("glmin", "<i4"), ("descrip", "S80"), ("aux_file", "S24"),
     ("qform_code", "<i2"), ("sform_code", "<i2"), ("quatern_b", "<f4"), ("quatern_c", "<f4"), ("quatern_d", "<f4"),
     ("qoffset_x", "<f4"), ("qoffset_y", "<f4"), ("qoffset_z", "<f4"), ("srow_x", "<f4", 4), ("srow_y", "<f4", 4),
     ("srow_z", "<f4", 4), ("intent_name", "S16"), ("magic", "S4")]
)  # fmt: skip
NIFTI2 = np.dtype(
    [("sizeof_hdr", "<i4"), ("magic", "S4"), ("eol_check", "u1", 4), ("datatype", "<i2"), ("bitpix", "<i2"), ("dim", "<i8", 8),
     ("intent_p1", "<f8"), ("intent_p2", "<f8"), ("intent_p3", "<f8"), ("pixdim", "<f8", 8), ("vox_offset", "<i8"), ("scl_slope", "<f8"),
     ("scl_inter", "<f8"), ("cal_max", "<f8"), ("cal_min", "<f8"), ("slice_duration", "<f8"), ("toffset", "<f8"), ("slice_start", "<i8"),
     ("slice_end", "<i8"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "<i4"), ("sform_code", "<i4"), ("quatern_b", "<f8"),
     ("quatern_c", "<f8"), ("quatern_d", "<f8"), ("qoffset_x", "<f8"), ("qoffset_y", "<f8"), ("qoffset_z", "<f8"), ("srow_x", "<f8", 4),
     ("srow_y", "<f8", 4), ("srow_z", "<f8", 4), ("slice_code", "<i4"), ("xyzt_units", "<i4"), ("intent_code", "<i4"),
     ("intent_name", "S16"), ("dim_info", "u1"), ("unused_str", "S15")]
)  # fmt: skip
SINGLE = {NIFTI1: b"n+1", NIFTI2: b"n+2"}  # `magic` of a file that holds header and voxels
MM, LABEL = 2, 1002  # codes of a unit, of an intent
UNITS = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}  # of length by their code, and how many mm they are
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
OTHERS = {1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128", 2048: "complex256", 2304: "RGBA"}
XFORMS = range(6)  # codes that an affine may have


def parse(block: bytes, form: np.dtype, order: str) -> np.ndarray:
    """The record () of a header's bytes, in the byte order "<" or ">"."""
    return np.frombuffer(block, form.newbyteorder(order)).reshape(()).copy()  # type: ignore[arg-type]


def version(header: Any) -> np.dtype | None:
    """`NIFTI1` or `NIFTI2` of a header in either byte order; None of what is no NIfTI header."""
    if not isinstance(header, np.ndarray):
        return None
    return next((form for form in (NIFTI1, NIFTI2) if header.dtype in (form, form.newbyteorder(">"))), None)


def order(header: np.ndarray) -> str:
    """ "<" or ">"."""
    return "<" if header.dtype in (NIFTI1, NIFTI2) else ">"


def empty(form: np.dtype) -> np.ndarray:
    """A header of nothing: unscaled, no affine, in one file without extensions."""
    header = np.zeros((), form)
    header["sizeof_hdr"], header["magic"], header["vox_offset"] = form.itemsize, SINGLE[form], form.itemsize + 4
    header["dim"][1:], header["pixdim"][:], header["scl_slope"] = 1, 1, 1
    if form == NIFTI2:
        header["eol_check"] = (13, 10, 26, 10)
    return header


def unit(header: np.ndarray) -> tuple[str, float]:
    """What the header's lengths are in, and how many mm that is; ("mm", 1) also where it names nothing (nifti1.h, xyzt_units)."""
    return UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))


def sform(header: np.ndarray) -> np.ndarray:
    """(4, 4) float64: the affine as written."""
    return np.vstack([header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]).astype(np.float64)


def qform(header: np.ndarray) -> np.ndarray:
    """(4, 4) float64: the affine of a rotation, as a quaternion whose real part is left out, voxel sizes and offsets.

    Raises
    ------
    ValueError
        If the quaternion is too long.
    """
    b, c, d = vector = np.array([header["quatern_b"], header["quatern_c"], header["quatern_d"]], np.float64)
    square = 1 - vector @ vector
    rounding = 3 * float(np.finfo(header["quatern_b"].dtype).eps)
    if not square > -rounding:  # NaN neither
        raise ValueError("the quaternion is longer than 1")
    a = np.sqrt(square) if square >= rounding else 0.0
    s = 2 / (a * a + vector @ vector)
    rotation = np.array(
        [
            [1 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
            [s * (b * c + a * d), 1 - s * (b * b + d * d), s * (c * d - a * b)],
            [s * (b * d - a * c), s * (c * d + a * b), 1 - s * (b * b + c * c)],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * header["pixdim"][1:4] * [1, 1, header["pixdim"][0]]
    affine[:3, 3] = header["qoffset_x"], header["qoffset_y"], header["qoffset_z"]
    return affine


def write_qform(header: np.ndarray, affine: np.ndarray) -> None:
    """Write voxel sizes, offsets and the nearest rotation of an affine, without its shear."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / sizes
    handedness = 1.0 if np.linalg.det(axes) > 0 else -1.0
    left, _, right = np.linalg.svd(axes * [1, 1, handedness])
    rotation = left @ right
    # The quaternion of a rotation is the eigenvector of this matrix with the eigenvalue 1 (Bar-Itzhack, 2000): no case is singular
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    b, c, d, a = np.linalg.eigh(matrix / 3)[1][:, -1]
    sign = -1 if a < 0 else 1
    header["pixdim"][:4] = handedness, *sizes
    for field, value in zip("bcd", (b, c, d), strict=True):
        header[f"quatern_{field}"] = sign * value
    for field, value in zip("xyz", affine[:3, 3], strict=True):
        header[f"qoffset_{field}"] = value


def grid(header: np.ndarray) -> np.ndarray:
    """(4, 4) float64 where neither affine has a code: voxel sizes, the first axis to the left, the origin in the middle."""
    count = min(int(header["dim"][0]), 3)
    shape, sizes = np.ones(3), np.ones(3)
    shape[:count], sizes[:count] = header["dim"][1 : count + 1], header["pixdim"][1 : count + 1]
    sizes[0] *= -1
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -(shape - 1) / 2 * sizes
    return affine
