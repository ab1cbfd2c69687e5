"""Read a scan, write a result on its grid; nibabel images likewise.

Reading believes nothing: the header is checked against the file and the memory before the volume is allocated, and the
gzip stream is read to its end, checksum included.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from . import __version__, memory, nifti
from .errors import MonetError, OutputError, ResourceError, ScanError
from .files import atomic_write
from .labels import extension
from .orientation import Orientation as Orientation
from .orientation import from_canonical as from_canonical
from .orientation import to_canonical as to_canonical
from .stream import MOST_RATIO, Stream, opened

ENDINGS = (".nii.gz", ".nii")  # of what is written
SCANS = (*ENDINGS, ".img.gz", ".img")  # of what is read, in folders; the other half of an .img is its .hdr
_HUGE = np.finfo(np.float32).max
_KINDS = {"uint8": "mask", "float32": "probability"}
_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True)
class Scan:
    """One 3-D volume as stored.

    Attributes
    ----------
    path : Path or None
        None for an image that lives in memory.
    voxels : (X, Y, Z) array
        In the file's own dtype, native byte order, Fortran order, read-only.
    slope, inter : float
        Scaled intensity = voxels * slope + inter.
    affine : (4, 4) float64
        Voxel to world, mm.
    header : nibabel header
        The scan's; results take qform, sform, their codes and units from it.
    warnings : tuple of str
    """

    path: Path | None
    voxels: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: Any
    warnings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z)."""
        return self.voxels.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along X, Y, Z in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def is_ours(self) -> bool:
        """True for a mask or probability that monet-edge wrote."""
        return _is_ours(self.header)


def peek(path: Path) -> nifti.Layout:
    """Read and check the header only.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    """
    with _opened_scan(Path(path)) as (layout, _):
        return layout


def is_ours(path: Path) -> bool:
    """True for a mask or probability that monet-edge wrote; False also for what cannot be read."""
    try:
        return _is_ours(peek(path).header)
    except MonetError:
        return False


def read(path: Path, volume: int | None = None) -> Scan:
    """Read one volume.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 in one file or, as Analyze 7.5, in two (.hdr and .img, either may be named), compressed or not.
    volume : int, optional
        Which volume of a scan that has several, from 0.

    Raises
    ------
    ScanError
        Naming the file and what is wrong with it.
    ResourceError
        If the volume does not fit into memory.
    """
    path = Path(path)
    with _opened_scan(path) as (layout, stream):
        before = _choose(layout, volume) * layout.volume_bytes
        voxels = _allocate(layout)
        _expect(stream, layout, before, stream.skip(before))
        _expect(stream, layout, layout.volume_bytes, stream.fill(voxels.reshape(-1, order="F").view(np.uint8).data), before)
        after = layout.end - layout.offset - before - layout.volume_bytes
        _expect(stream, layout, after, stream.skip(after), before + layout.volume_bytes)
        warnings = layout.warnings + _finish(stream, layout)
    if not layout.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(layout.dtype.newbyteorder("="))
    if voxels.dtype == np.float64:
        for plane in voxels.T:  # beyond float32 it is no intensity, and its square would overflow: as good as infinite
            plane[np.abs(plane) > _HUGE] = np.inf
    voxels.flags.writeable = False
    return Scan(path, voxels, layout.slope, layout.inter, layout.affine, layout.header, warnings)


@contextmanager
def _opened_scan(path: Path) -> Iterator[tuple[nifti.Layout, Stream]]:
    """The checked header, and the file at its first voxel."""
    halves = _halves(path)
    with opened(halves[0]) as stream:
        layout = nifti.parse(stream.read, pair=len(halves) > 1)
        if len(halves) == 1:
            _check_size(stream, layout)
            yield layout, stream
    if len(halves) > 1:
        with opened(halves[1]) as stream:
            _check_size(stream, layout)
            stream.skip(layout.offset)
            yield layout, stream


def _halves(path: Path) -> tuple[Path, ...]:
    """The file itself, or header and voxels where they are two, whichever of them is named."""
    for ending in (".hdr.gz", ".img.gz", ".hdr", ".img"):
        if path.name.endswith(ending):
            stem, other = path.name.removesuffix(ending), {".hdr": ".img", ".img": ".hdr"}[ending[:4]]
            found = [path.with_name(stem + other + gz) for gz in ("", ".gz") if path.with_name(stem + other + gz).exists()]
            if path.exists() and not found:
                raise ScanError(f"{path}: half of a pair; its other half {stem}{other} is missing")
            return tuple(sorted([path, *found[:1]], key=lambda half: half.name.endswith((".img", ".img.gz"))))
    return (path,)


def _check_size(stream: Stream, layout: nifti.Layout) -> None:
    if not stream.gzip and layout.end > stream.size:
        _expect(stream, layout, layout.end - layout.offset, stream.size - layout.offset)
    if layout.end > stream.size * MOST_RATIO:
        raise ScanError(f"the header promises {_describe(layout)}, which {stream.size:,} compressed bytes cannot hold: it is corrupt")


def _choose(layout: nifti.Layout, volume: int | None) -> int:
    if volume is None and layout.volumes > 1:
        last = layout.volumes - 1
        ndim, grid = int(layout.header["dim"][0]), "x".join(map(str, layout.shape))
        word = "or" if last == 1 else "to"
        raise ScanError(f"{ndim}-D, {layout.volumes} volumes of {grid}. Choose one with --volume 0 {word} --volume {last}.")
    if volume is not None and not 0 <= volume < layout.volumes:
        raise ScanError(f"has no volume {volume}; it has {layout.volumes}, counted from 0")
    return volume or 0


def _allocate(layout: nifti.Layout) -> np.ndarray:
    memory.demand(layout.volume_bytes, "the volume")
    try:
        return np.empty(layout.shape, layout.dtype, order="F")
    except MemoryError:
        raise ResourceError(f"the volume needs {layout.volume_bytes / 1e6:,.0f} MB of memory, more than there is") from None


def _describe(layout: nifti.Layout) -> str:
    grid = "x".join(map(str, layout.shape if layout.volumes == 1 else (*layout.shape, layout.volumes)))
    return f"{grid} {layout.dtype.name} ({layout.end - layout.offset:,} bytes)"


def _expect(stream: Stream, layout: nifti.Layout, wanted: int, found: int, before: int = 0) -> None:
    if found < wanted:
        ending = "the decompressed data ends" if stream.gzip else "the file ends"
        raise ScanError(f"the header promises {_describe(layout)}, {ending} after {before + found:,}: it is truncated. Copy it again.")


def _finish(stream: Stream, layout: nifti.Layout) -> tuple[str, ...]:
    """Read on to the end; a few bytes more than promised are tolerated, a slice more means that the header is wrong."""
    most = layout.shape[0] * layout.shape[1] * layout.dtype.itemsize
    surplus = stream.skip(most)
    if surplus == most:
        raise ScanError(f"the header promises {_describe(layout)}, the file holds at least one slice more: the header is wrong")
    extra = surplus + stream.trailing
    return (f"{extra:,} bytes after the end of the volume were ignored",) if extra else ()


def _is_ours(header: Any) -> bool:
    return bytes(header["descrip"]).startswith(nifti.OURS.encode())


def from_image(image: Any) -> Scan:
    """A nibabel image as a Scan: from its file, with every check, where its voxels are still there; else from memory.

    Raises
    ------
    ScanError
        If it is not one volume of real numbers on a usable grid.
    """
    if len(image.shape) < 2 or min(image.shape) < 1 or max(image.shape[3:], default=1) > 1:
        raise ScanError(f"an image of shape {image.shape}; expected one 3-D volume")
    kind = nibabel.Nifti2Image if isinstance(image.header, Nifti2Header) else nibabel.Nifti1Image
    try:
        # whatever format it is of, and whatever was done to its affine since: nibabel makes the NIfTI header of it
        with np.errstate(all="ignore"):
            header = kind(np.broadcast_to(np.uint8(0), image.shape), image.affine, image.header).header
    except (nibabel.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise ScanError(f"the image has no usable header or affine: {error}") from None
    header.set_slope_inter(1, 0)
    layout = nifti.layout(header, image.shape, np.dtype(np.uint8), 0)
    affine = layout.affine if image.affine is None else np.array(image.affine, np.float64)  # the header's is float32
    file = getattr(image.dataobj, "file_like", None)
    if isinstance(file, (str, Path)) and Path(file).name.endswith(ENDINGS):
        scan = read(Path(file))
        if scan.shape != layout.shape:
            raise ScanError(f"{file}: its shape is {scan.shape}, the image loaded from it has {layout.shape}: it has changed since")
        return Scan(scan.path, scan.voxels, scan.slope, scan.inter, affine, header, scan.warnings)
    try:
        voxels = np.asanyarray(image.dataobj).reshape(layout.shape, order="F")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScanError(f"the image's voxels cannot be read: {error}") from None
    if voxels.dtype.kind not in "uif" or voxels.dtype.itemsize > 8:
        raise ScanError(f"its voxels are {voxels.dtype}; expected integers or floats of at most 64 bits")
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False).view()
    voxels.flags.writeable = False
    return Scan(None, voxels, 1.0, 0.0, affine, header, layout.warnings)


def to_image(array: np.ndarray, like: Scan, labels: Sequence[str] = ()) -> Any:
    """A mask (uint8) or probability (float32) on a scan's grid as a nibabel image, see `write`."""
    header = _result_header(array, like, labels)
    return (nibabel.Nifti2Image if isinstance(header, Nifti2Header) else nibabel.Nifti1Image)(array, like.affine, header)


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
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise OutputError(f"{path}: a result is written as .nii.gz or .nii. Choose such a name for --output.")
    if like.path and path.exists() and like.path.exists() and path.samefile(like.path):
        raise OutputError(f"{path} is the input itself{' (through a link)' if path != like.path else ''}. Choose another --output.")
    header = _result_header(array, like, labels)
    # Level 1: a mask of 512x512x300 takes 0.3 s; level 6 saves nothing worth waiting for. zlib writes no name and no time.
    deflate = zlib.compressobj(1, wbits=31) if path.name.endswith(".gz") else None
    with atomic_write(path, overwrite=overwrite) as file:
        for piece in _pieces(header, array):
            file.write(deflate.compress(piece) if deflate else piece)
        if deflate:
            file.write(deflate.flush())


def _pieces(header: Any, array: np.ndarray) -> Iterator[bytes]:
    start = io.BytesIO()
    header.write_to(start)  # and the extensions, or four zero bytes
    yield start.getvalue()
    for index in np.ndindex(*array.shape[:1:-1]):  # X runs fastest
        yield array[:, :, *index[::-1]].tobytes(order="F")


def _result_header(array: np.ndarray, like: Scan, labels: Sequence[str]) -> Any:
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
    header["descrip"] = f"{nifti.OURS}{__version__} {kind}"
    if kind == "mask":
        header.set_intent("label")
    return header
