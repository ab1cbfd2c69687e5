"""The header of a NIfTI file, checked field by field before anything relies on it: nothing here reads a voxel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from ...errors import ScanError
from ..space import usable
from . import fields
from .fields import DTYPES, NIFTI1, NIFTI2, OTHERS, XFORMS

MAX_EXTENSIONS = 16 << 20  # bytes between header and voxels; a DICOM header kept there has some 10 KB
MAX_SCALE = 1e20  # of slope and inter: beyond, scaled values leave float32


@dataclass(frozen=True)
class Layout:
    """What a checked header says.

    Attributes
    ----------
    shape : (X, Y, Z)
        Of one volume.
    volumes : int
        1, or more for 4-D and beyond.
    dtype : numpy dtype
        In the file's byte order.
    offset : int
        Bytes before the first voxel.
    slope, inter : float
        Scaled intensity = voxel * slope + inter; 1, 0 where the header says unscaled.
    affine : (4, 4) float64
        Voxel to world, mm.
    header : nibabel header
    warnings : tuple of str
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    affine: np.ndarray
    header: np.ndarray
    warnings: tuple[str, ...]

    @property
    def oriented(self) -> bool:
        """False if the header does not say how the patient lies."""
        return bool(self.header["sform_code"] or self.header["qform_code"])


def parse(read: Callable[[int], bytes], *, pair: bool = False) -> Layout:
    """Read and check everything before the voxels.

    Parameters
    ----------
    read : callable
        ``read(n)`` gives the file's next n bytes, fewer at its end.
    pair : bool
        The voxels are in a file of their own; the header may then be of Analyze 7.5.

    Raises
    ------
    ScanError
        Naming the field, what it holds and what was expected.
    """
    header = _raw_header(read, pair)
    dims = _dims(header)
    dtype = _dtype(header)
    offset = _offset(header, 0 if pair else header.dtype.itemsize + 4)
    _check_extensions(read, header, None if pair else offset)
    return layout(header, dims, dtype, offset)


def layout(header: np.ndarray, dims: tuple[int, ...], dtype: np.dtype, offset: int) -> Layout:
    """The part of the checks that also an image in memory needs: scaling and geometry."""
    with np.errstate(all="ignore"):  # a signalling NaN would print a warning; what is not finite is refused below
        slope, inter = _scaling(header)
        warnings = _pixdim(header)
        affine, more = _affine(header)
    warnings += more
    unit, mm = fields.unit(header)
    if mm != 1:
        warnings.append(f"its lengths are in {unit}, as its header says, and taken so")
    affine[:3] *= mm
    x, y, z = (*dims, 1)[:3]
    return Layout((x, y, z), prod(dims[3:]), dtype, offset, slope, inter, affine, header, tuple(warnings))


def _raw_header(read: Callable[[int], bytes], pair: bool) -> np.ndarray:
    block = read(348)
    if not block:
        raise ScanError("the file is empty. Copy it again.")
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(block[:4], name)  # type: ignore[arg-type]
        if size not in (348, 540):
            continue
        block += read(size - 348)
        if len(block) < size:
            raise ScanError(f"the file ends after {len(block)} bytes, inside its header: it is truncated. Copy it again.")
        magic = block[344:348] if size == 348 else block[4:12]
        if magic in ((b"ni1\0", b"ni2\0\r\n\x1a\n") if pair else (b"n+1\0", b"n+2\0\r\n\x1a\n")):
            return fields.parse(block, NIFTI1 if size == 348 else NIFTI2, order)
        if pair and size == 348 and not magic.startswith(b"n"):
            return _of_analyze(fields.parse(block, NIFTI1, order))
    raise ScanError(f"not a NIfTI file: it does not begin with such a header. Expected {'.hdr and .img' if pair else '.nii or .nii.gz'}.")


def _of_analyze(header: np.ndarray) -> np.ndarray:
    """Analyze 7.5 has these fields where NIfTI has them, scaling as SPM writes it, and nothing on orientation."""
    known = fields.empty(NIFTI1).astype(header.dtype)
    for field in ("dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter"):
        known[field] = header[field]
    return known


def _dims(header: np.ndarray) -> tuple[int, ...]:
    ndim, *dims = (int(n) for n in header["dim"])
    if not 2 <= ndim <= 7:
        raise ScanError(f"the header says {ndim} dimensions, expected 3 (or up to 7 of which one volume is chosen)")
    if min(dims[:ndim]) < 1:
        raise ScanError(f"the header says {'x'.join(map(str, dims[:ndim]))} voxels; every side must be at least 1")
    return tuple(dims[:ndim])


def _dtype(header: np.ndarray) -> np.dtype:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code not in DTYPES:
        name = OTHERS.get(code, "unknown")
        raise ScanError(f"its voxels are of datatype {code} ({name}); expected integers or floats, one number a voxel")
    dtype = np.dtype(fields.order(header) + DTYPES[code])
    if bits != 8 * dtype.itemsize:
        raise ScanError(f"the header is corrupt: datatype {code} has {8 * dtype.itemsize} bits a voxel, bitpix says {bits}")
    return dtype


def _offset(header: np.ndarray, least: int) -> int:
    value = float(header["vox_offset"])
    if not (least <= value <= least + MAX_EXTENSIONS and value == int(value)):
        raise ScanError(f"the header puts the first voxel at byte {value:g}; expected a whole number of {least} or a little more")
    return int(value)


def _check_extensions(read: Callable[[int], bytes], header: np.ndarray, offset: int | None) -> None:
    """Walk the extensions: nibabel takes a size of 7 for "all that is left", be it gigabytes.

    They end where the voxels begin, or with the header's own file.
    """
    start = header.dtype.itemsize + 4
    block = read(MAX_EXTENSIONS if offset is None else offset - start + 4)
    if offset is not None and len(block) < offset - start + 4:
        raise ScanError("the file ends before its first voxel: it is truncated. Copy it again.")
    if not block or block[0] == 0:
        return
    at = 4
    while at < len(block):
        size = int.from_bytes(block[at : at + 4], "little" if fields.order(header) == "<" else "big", signed=True)
        if size < 16 or size % 16 or at + size > len(block):
            raise ScanError(
                f"the header is corrupt: an extension of {size} bytes at byte {start - 4 + at}; "
                f"expected a multiple of 16 that ends at byte {start - 4 + len(block)} or before"
            )
        at += size


def _scaling(header: np.ndarray) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (abs(slope) <= MAX_SCALE and abs(inter) <= MAX_SCALE):
        raise ScanError(f"the header scales intensities by {slope:g} and adds {inter:g}; expected two ordinary numbers")
    return slope, inter


def _pixdim(header: np.ndarray) -> list[str]:
    """Check the voxel size and repair what has a customary meaning, as nibabel does: negative, 0, no handedness."""
    pixdim = header["pixdim"]
    if not np.isfinite(pixdim[:4]).all():
        raise ScanError(f"the header's voxel size (pixdim) is {', '.join(f'{size:g}' for size in pixdim[:4])}; expected numbers")
    warnings = []
    if (pixdim[1:4] <= 0).any():
        found = " x ".join(f"{size:g}" for size in pixdim[1:4])
        pixdim[1:4] = np.where(pixdim[1:4] == 0, 1, np.abs(pixdim[1:4]))
        warnings.append(f"the header's voxel size is {found} mm; taken as {' x '.join(f'{size:g}' for size in pixdim[1:4])}")
    if pixdim[0] not in (-1, 1):
        if pixdim[0] != 0:  # 0 is customary for 1
            warnings.append(f"the header's handedness (pixdim[0]) is {pixdim[0]:g}; taken as 1")
        pixdim[0] = 1
    return warnings


def _affine(header: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The sform if it has a code, else the qform, else the voxel size alone."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform not in XFORMS or qform not in XFORMS:  # other tools take an unknown one for 0, and so another affine
        raise ScanError(f"the header is corrupt: sform_code {sform}, qform_code {qform}; expected 0 to 5")
    warnings = []
    if sform > 0:
        affine = usable(fields.sform(header), "sform (srow_x, srow_y, srow_z)")
        try:
            usable(fields.qform(header), "qform") if qform else None
        except (ValueError, ScanError):
            warnings.append("its qform is not valid; the sform is used")
    elif qform > 0:
        try:
            affine = usable(fields.qform(header), "qform")
        except ValueError:
            raise ScanError("the header's qform is no rotation (its quaternion is too long); expected a usable affine") from None
    else:
        affine = usable(fields.grid(header), "voxel size")
        warnings.append("its orientation is unknown (qform_code and sform_code are 0); left, right, front and back are a guess")
    return np.asarray(affine, np.float64), warnings
