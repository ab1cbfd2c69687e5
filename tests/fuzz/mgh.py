"""FreeSurfer's MGH byte by byte: build one, break it, and say by nibabel what is in one that was read."""

import io
import struct

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from .build import OBLIQUE, gz, head
from .mutate import EXTREMES, anything, pick

TYPES = {"u1": 0, "i2": 4, "u2": 10, "i4": 1, "f4": 3}
NAMES = [*(f"sides {axis}" for axis in range(4)), "type", "version", "good", *(f"spacing {axis}" for axis in range(3)), "cosine", "centre"]
PLACES = dict(zip(NAMES, [(4, "i"), (8, "i"), (12, "i"), (16, "i"), (20, "i"), (0, "i"), (28, "h"), (30, "f"), (34, "f"), (38, "f"),
                          (42, "f"), (78, "f")], strict=True))  # fmt: skip
BEHIND = struct.pack(">5f", 2300, 0.16, 2, 900, 256) + b"\0\0\0\3mri_convert" + bytes(30)  # TR, ..., and a tag of FreeSurfer's


def mgh(voxels=None, affine=OBLIQUE, *, fields=None, behind=BEHIND, data=None):
    """The bytes of an .mgh file.

    Parameters
    ----------
    affine : (4, 4)
        Voxel to right, anterior, superior.
    fields : dict, optional
        Of `PLACES`, to set at the end, whatever they make of the file.
    behind : bytes
        What follows the voxels.
    data : bytes, optional
        Instead of the voxels' own.
    """
    voxels = head() if voxels is None else voxels
    sides = (*voxels.shape, 1)[:4]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines, centre = (affine[:3, :3] / spacing).T, affine[:3, :3] @ (np.array(sides[:3]) / 2) + affine[:3, 3]
    about = struct.pack(">7ih15f", 1, *sides, TYPES[voxels.dtype.str[1:]], 0, 1, *spacing, *cosines.ravel(), *centre)
    header = bytearray(about.ljust(284, b"\0"))
    for name, value in (fields or {}).items():
        place, kind = PLACES[name]
        struct.pack_into(f">{kind}", header, place, value)
    stored = voxels.astype(voxels.dtype.newbyteorder(">")).tobytes(order="F") if data is None else data
    return bytes(header) + stored + behind


def _scan(rng):
    shape = pick(rng, [(12, 10, 6), (17, 3, 1), (1, 1, 1), (8, 8, 4, 2)])
    return mgh(head(shape, np.dtype(pick(rng, list(TYPES))), int(rng.integers(9))), fields=pick(rng, [{}, {}, {"good": 0}]))


def _field_to_extreme(rng, raw):
    if len(raw) < 284:
        return raw
    out = bytearray(raw)
    place, kind = PLACES[pick(rng, NAMES)]
    with np.errstate(all="ignore"):
        out[place : place + struct.calcsize(kind)] = (
            np.array(pick(rng, EXTREMES)).astype({"i": ">i4", "h": ">i2", "f": ">f4"}[kind]).tobytes()
        )
    return bytes(out)


def hostile_mgh(rng):
    """The bytes of a broken .mgz, compressed or not; sometimes not broken at all."""
    raw = _scan(rng)
    for _ in range(int(rng.integers(0, 3))):
        raw = pick(rng, [_field_to_extreme, lambda rng, raw: anything(rng, raw, _scan(rng))])(rng, raw) or raw
    if rng.random() < 0.5:
        raw = gz(raw)
        if rng.random() < 0.5:
            raw = anything(rng, raw, gz(_scan(rng)))
    return raw


def check_mgh(scan, data, index):
    """What was read is what nibabel reads of the decompressed bytes ``data``; the affine where the header says that it is good."""
    header = MGHHeader.from_fileobj(io.BytesIO(data))
    shape = (*(int(side) for side in header["dims"]), 1)[:4]
    dtype = np.dtype(">" + {number: code for code, number in TYPES.items()}[int(header["type"])])
    count = int(np.prod(shape[:3]))
    ref = np.frombuffer(data, dtype, count, 284 + (index or 0) * count * dtype.itemsize).reshape(shape[:3], order="F")
    assert scan.shape == shape[:3]
    assert scan.voxels.dtype == dtype.newbyteorder("=")
    assert scan.voxels.tobytes("F") == ref.astype(dtype.newbyteorder("=")).tobytes("F")
    if scan.oriented:
        size = np.asarray(header["delta"], float)
        steps = np.asarray(header["Mdc"], float).T * size
        origin = np.asarray(header["Pxyz_c"], float) - steps @ (np.array(shape[:3]) / 2)
        np.testing.assert_allclose(scan.affine[:3], np.column_stack([steps, origin]), rtol=1e-9, atol=1e-6 * max(1, abs(origin).max()))
