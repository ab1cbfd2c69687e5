"""Scans for the tests: every dtype and axis order, and the rows of the table of hostile input, byte by byte."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from fuzz.build import extension, gz, head, nifti
from nibabel.orientations import inv_ornt_aff

from monet_edge import formats
from monet_edge.errors import ScanError

DTYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]
ORIENTATIONS = [np.array(list(zip(axes, flips, strict=True))) for axes in permutations(range(3)) for flips in product((1, -1), repeat=3)]
SHAPE = (30, 26, 9)  # X, Y, Z of the scan as written


def blob(rng, shape=SHAPE):
    """Voxels (X, Y, Z) of noise inside an ellipsoid."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(np.square(axis) for axis in grid) < 0.6
    return (inside * rng.normal(500, 120, shape).clip(60)).astype(np.int16)


def image_of(voxels, affine=None, qcode=1, scode=2):
    """An image of them, by default in left-posterior-superior order."""
    affine = np.diag([-0.8, -0.9, 3.0, 1.0]) if affine is None else affine
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, qcode)
    image.set_sform(affine, scode)
    return image


def reoriented(array, affine, orientation):
    """The same volume stored in another axis order, by nibabel."""
    return nibabel.apply_orientation(array, orientation), affine @ inv_ornt_aff(orientation, array.shape)


def refused(path, message):
    """Reading the file fails in one clear line that names it."""
    with pytest.raises(ScanError, match=message) as caught:
        formats.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def ball(shape):
    """A mask (X, Y, Z) uint8 of something round."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.asfortranarray(sum(np.square(axis) for axis in grid) < 0.3).astype(np.uint8)


# ---- what is refused, and the words of the refusal ----

RAW = nifti()
GZ = gz(RAW)
FLIPPED = GZ[:400] + bytes([GZ[400] ^ 4]) + GZ[401:]
BOMB = {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}

REFUSED = {
    "1 wrong gzip checksum": (GZ[:-8] + bytes(4) + GZ[-4:], "damaged"),
    "1 wrong gzip size": (GZ[:-4] + bytes(4), "damaged"),
    "1 one flipped bit": (FLIPPED, "damaged|promises|corrupt"),
    "2 truncated gzip": (GZ[:-9], "truncated"),
    "2 gzip ends inside its checksum": (GZ[:-3], "truncated"),
    "2 gzip of a truncated file": (gz(RAW[:-5]), r"12x10x6 int16 \(1,440 bytes\), the decompressed data ends after 1,435: it is truncated"),
    "3 the stream goes on": (gz(nifti(data=head().tobytes("F") + bytes(240))), "the header is wrong"),
    "4 truncated": (RAW[:-5], r"promises 12x10x6 int16 \(1,440 bytes\), the file ends after 1,435: it is truncated"),
    "4 ends inside the header": (RAW[:200], "truncated"),
    "4 ends before the voxels": (RAW[:350], "truncated"),
    "5 allocation bomb": (nifti(fields=BOMB), "promises 32767x32767x32767"),
    "5 allocation bomb, gzip": (gz(nifti(fields=BOMB)), "compressed bytes cannot hold"),
    "6 negative side": (nifti(fields={"dim": [3, 12, -10, 6, 1, 1, 1, 1]}), "at least 1"),
    "6 zero side": (nifti(fields={"dim": [3, 12, 0, 6, 1, 1, 1, 1]}), "at least 1"),
    "6 no dimension": (nifti(fields={"dim": [0, 12, 10, 6, 1, 1, 1, 1]}), "0 dimensions"),
    "6 nine dimensions": (nifti(fields={"dim": [9, 12, 10, 6, 1, 1, 1, 1]}), "9 dimensions"),
    "7 4-D": (nifti(np.zeros((4, 4, 4, 2), np.int16)), r"holds 2 volumes of 4x4x4, expected one. Choose one with volume 0 or volume 1"),
    "7 5-D": (
        nifti(np.zeros((4, 4, 4, 2, 3), np.int16)),
        r"holds 6 volumes of 4x4x4, expected one. Choose one with volume 0 to volume 5",
    ),
    "8 RGB": (nifti(fields={"datatype": 128, "bitpix": 24}), "RGB"),
    "8 complex": (nifti(fields={"datatype": 32, "bitpix": 64}), "complex64"),
    "8 long double": (nifti(fields={"datatype": 1536, "bitpix": 128}), "float128"),
    "8 unknown": (nifti(fields={"datatype": 77}), "unknown"),
    "8 bitpix of another datatype": (nifti(fields={"bitpix": 8}), "bitpix says 8"),
    "9 slope inf": (nifti(fields={"scl_slope": np.inf, "scl_inter": 0}), "scales intensities by inf"),
    "9 slope 1e38": (nifti(fields={"scl_slope": 1e38, "scl_inter": 0}), r"scales intensities by 1e\+38"),
    "9 inter NaN": (nifti(fields={"scl_slope": 1, "scl_inter": np.nan}), "adds nan"),
    "10 pixdim NaN": (nifti(fields={"pixdim": [1, 1, np.nan, 1, 0, 0, 0, 0]}), "pixdim"),
    "11 sform zero": (nifti(fields={"srow_x": 0, "srow_y": 0, "srow_z": 0}), "sform .* singular"),
    "11 sform NaN": (nifti(fields={"srow_x": np.nan}), "sform .* not finite"),
    "11 sform singular": (nifti(fields={"srow_x": [1, 2, 3, 0], "srow_y": [2, 4, 6, 0]}), "sform .* singular"),
    "11 qform alone, no rotation": (nifti(fields={"sform_code": 0, "quatern_b": 3}), "qform is no rotation"),
    "11 qform alone, NaN": (nifti(fields={"sform_code": 0, "qoffset_x": np.nan}), "qform is singular or not finite"),
    "11 negative code": (nifti(fields={"sform_code": -1}), "sform_code -1"),
    "11 unknown code": (nifti(fields={"sform_code": 9}), "sform_code 9"),
    "15 vox_offset NaN": (nifti(fields={"vox_offset": np.nan}), "byte nan"),
    "15 vox_offset huge": (nifti(fields={"vox_offset": 1e30}), r"byte 1e\+30"),
    "15 vox_offset negative": (nifti(fields={"vox_offset": -352}), "byte -352"),
    "15 vox_offset inside the header": (nifti(fields={"vox_offset": 4}), "byte 4"),
    "15 vox_offset beyond the end": (nifti(fields={"vox_offset": 8192}), "truncated"),
    "16 extension of 0": (nifti(extensions=extension(0, bytes(8))), "extension of 0 bytes at byte 352"),
    "16 extension of -16": (nifti(extensions=extension(-16, bytes(8))), "extension of -16 bytes"),
    "16 extension of 7": (nifti(extensions=extension(7, bytes(8))), "extension of 7 bytes"),
    "16 extension beyond the voxels": (nifti(extensions=extension(64, bytes(8))), "extension of 64 bytes"),
    "16 second extension": (nifti(extensions=extension(16, bytes(8)) + extension(7, bytes(8))), "extension of 7 bytes at byte 368"),
    "17 PNG": (b"\x89PNG\r\n\x1a\n" + bytes(400), "not a NIfTI file"),
    "17 text": (b"Dear colleague, here is the scan. " * 20, "not a NIfTI file"),
    "17 text, gzip": (gz(b"Dear colleague, here is the scan. " * 20), "not a NIfTI file"),
    "17 empty": (b"", "empty"),
    "17 empty gzip": (gz(b""), "empty"),
    "17 gzip magic only": (b"\x1f\x8b", "truncated"),
}

HDR = nifti(fields={"magic": b"ni1", "vox_offset": 0}, data=b"")[:348]
IMG = head().tobytes("F")
PAIRS = {
    "half missing": ({"scan.hdr": HDR}, r"other half scan\.img is missing"),
    "truncated": ({"scan.hdr": HDR, "scan.img": IMG[:-1]}, "promises 12x10x6 int16 .* the file ends after 1,439"),
    "truncated, gzip": ({"scan.hdr": HDR, "scan.img.gz": gz(IMG[:-1])}, "the decompressed data ends after 1,439"),
    "a slice too many": ({"scan.hdr": HDR, "scan.img": IMG + bytes(240)}, "the header is wrong"),
    "header truncated": ({"scan.hdr": HDR[:300], "scan.img": IMG}, "inside its header"),
    "header of a single file": ({"scan.hdr": nifti()[:352], "scan.img": IMG}, r"Expected \.hdr and \.img"),
    "header is text": ({"scan.hdr": b"Dear colleague," * 40, "scan.img": IMG}, "not a NIfTI file"),
    "extension of 7": ({"scan.hdr": HDR + b"\1\0\0\0" + extension(7, bytes(8)), "scan.img": IMG}, "extension of 7 bytes"),
    "offset beyond the end": ({"scan.hdr": nifti(fields={"magic": b"ni1", "vox_offset": 16})[:348], "scan.img": IMG}, "truncated"),
    "half of a pair called .nii": ({"scan.nii": HDR + IMG}, "not a NIfTI file"),
}

# ---- what is read with a warning, and the words of the warning ----

WARNED = {
    "3 more after the gzip stream": (GZ + b"more", "4 bytes after the end"),
    "3 more after the voxels": (RAW + b"more", "4 bytes after the end"),
    "10 pixdim negative": (nifti(fields={"pixdim": [1, -2, 1, 1, 0, 0, 0, 0]}), "-2 x 1 x 1 mm; taken as 2 x 1 x 1"),
    "10 pixdim zero": (nifti(fields={"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}), "0 x 1 x 1 mm; taken as 1 x 1 x 1"),
    "10 handedness": (nifti(fields={"pixdim": [5, 1, 1, 1, 0, 0, 0, 0]}), "taken as 1"),
    "11 qform broken beside a good sform": (nifti(fields={"quatern_b": 3}), "the sform is used"),
    "13 no code": (nifti(affine=None), "orientation is unknown"),
    "metres": (nifti(fields={"xyzt_units": 1}), "in metres"),
    "micrometres": (nifti(fields={"xyzt_units": 3}), "in micrometres"),
}
