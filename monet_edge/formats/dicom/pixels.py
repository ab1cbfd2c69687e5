"""The pixels of slices, one frame in memory at a time: nothing is decoded whose size is not the one that the header promises."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Any, BinaryIO

import numpy as np

from ...errors import ScanError
from .codestream import Promise, promise
from .deflated import plain
from .image import Image, Slice
from .library import about, pydicom, reading
from .lossless import decode as decode_lossless
from .members import Members

_EXTENDED = "1.2.840.10008.1.2.4.51"
_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_END = b"\xff\xd9"  # of a stream
_RLE = "1.2.840.10008.1.2.5"
_MOST_RLE = 64  # a run of 128 bytes takes 2
_DECODED = (  # by the libraries of the extra: pillow (JPEG), CharLS, OpenJPEG (JPEG 2000, and its high-throughput kind), pydicom (RLE)
    *("1.2.840.10008.1.2.4.50", _EXTENDED, *_LS, "1.2.840.10008.1.2.4.90"),
    *("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203", _RLE),
)
_PIECE, _LAST = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"  # tags of an item, and of the end of them
_GROUP = 0x7FE0  # of the element of pixels; private ones and padding may follow
_UNKNOWN_LENGTH = 0xFFFFFFFF


def undecodable(image: Image) -> str:
    """Why its pixels cannot be decoded; empty where they can."""
    if not image.syntax:
        return "without a transfer syntax"
    library = pydicom()
    uid = library.uid.UID(image.syntax, library.config.IGNORE)
    if image.syntax == _EXTENDED and image.stored > 8:
        return f"compressed as {uid.name}, of more than 8 bits, which cannot be decoded"
    native = uid.is_transfer_syntax and not uid.is_private and not uid.is_compressed
    if native or image.syntax in (*_DECODED, *_LOSSLESS):
        return ""
    return f"compressed as {uid.name}, which cannot be decoded"


def frames(members: Members, slices: Sequence[Slice]) -> Iterator[tuple[int, np.ndarray]]:
    """Every slice's place in ``slices`` and its pixels (rows, columns), in its image's own dtype, file by file.

    Raises
    ------
    ScanError
        If a file has changed since its header was read, or is damaged.
    """
    order = sorted(range(len(slices)), key=lambda place: (slices[place].image.file, slices[place].frame))
    for name, places in groupby(order, key=lambda place: slices[place].image.file):
        wanted = {slices[place].frame: place for place in places}
        image = slices[next(iter(wanted.values()))].image
        with members.file(name) as file:
            if members.version(name) != image.version:
                raise ScanError(f"{name} has changed since its header was read. Try again once it is whole.")
            with about(name), reading(name) as library:
                found = _frames(library, plain(file), image, sorted(wanted))
                for frame, pixels in found:
                    yield wanted[frame], _used_bits(pixels, image)


def _frames(library: Any, file: BinaryIO, image: Image, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and pixels of the wanted frames, in order."""
    dataset = library.dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    little, implicit = dataset.original_encoding[1], dataset.original_encoding[0]
    vr, length = _pixel_element(file, little, implicit)
    if library.uid.UID(image.syntax).is_compressed:
        if length != _UNKNOWN_LENGTH:
            raise ScanError("its compressed pixels have a length, which such data has not")
        yield from _compressed(library, file, image, wanted)
        return
    size = prod((image.rows, image.columns, image.dtype.itemsize))
    if length == _UNKNOWN_LENGTH or length < size * image.frames:
        raise ScanError(f"the header promises {size * image.frames:,} bytes of pixels, {length:,} are stored")
    if vr == b"OW" and image.dtype.itemsize == 1 and not little:
        raise ScanError("pixels of 8 bits in big-endian words; expected bytes")
    start = file.tell()
    file.seek(start + length)
    if not _is_element(file.read(8), little, implicit, file.seek(0, os.SEEK_END) - start - length - 8):
        raise ScanError("what follows its pixels is no element: bytes were lost or added. Copy it again.")
    for frame in wanted:
        file.seek(start + frame * size)
        raw = file.read(size)
        if len(raw) < size:
            raise ScanError(f"{size:,} bytes of pixels expected, the file ends after {len(raw):,}: it is truncated")
        pixels = np.frombuffer(raw, image.dtype.newbyteorder("<" if little else ">")).reshape(image.rows, image.columns)
        yield frame, pixels.astype(image.dtype, copy=False)


def _pixel_element(file: BinaryIO, little: bool, implicit: bool) -> tuple[bytes, int]:
    """Pass over the head of the element of pixels: its value representation, and its length."""
    order = "little" if little else "big"
    head = file.read(8 if implicit else 12)
    if len(head) < 8 or (int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)) != (0x7FE0, 0x0010):  # type: ignore[arg-type]
        raise ScanError("no pixels of whole numbers (PixelData) in it")
    return (b"" if implicit else head[4:6]), int.from_bytes(head[-4:], order)  # type: ignore[arg-type]


def _is_element(head: bytes, little: bool, implicit: bool, left: int) -> bool:
    """Whether bytes begin an element of a later group, one no longer than the ``left`` bytes behind them, or there are none."""
    order: Any = "little" if little else "big"
    if not head:
        return True
    fits = int.from_bytes(head[4:], order) <= left if implicit else head[4:6].isalpha() and head[4:6].isupper()
    return len(head) == 8 and int.from_bytes(head[:2], order) > _GROUP and fits


def _compressed(library: Any, file: BinaryIO, image: Image, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    from pydicom.encaps import encapsulate, generate_frames

    decoder = None if image.syntax in _LOSSLESS else library.pixels.get_decoder(library.uid.UID(image.syntax))
    options: dict[str, Any] = {
        "rows": image.rows, "columns": image.columns, "samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 8 * image.dtype.itemsize, "bits_stored": image.stored, "number_of_frames": 1, "pixel_keyword": "PixelData",
        "pixel_representation": int(image.dtype.kind == "i"), "transfer_syntax_uid": library.uid.UID(image.syntax),
    }  # fmt: skip
    _refuse_cut(file)
    left = iter(wanted)
    frame: int | None = next(left)
    for number, stream in enumerate(generate_frames(file, number_of_frames=image.frames)):
        if number != frame:
            continue
        _hold(image, stream)
        if decoder is None:
            pixels = decode_lossless(stream)
        else:
            pixels = decoder.as_array(encapsulate([stream], has_bot=False), index=0, **options)[0]
        if pixels.shape != (image.rows, image.columns):
            raise ScanError(f"frame {number + 1} has {pixels.shape} pixels")
        yield number, pixels.astype(image.dtype, copy=False)
        frame = next(left, None)
    if frame is not None:
        raise ScanError(f"{image.frames} frames are promised, number {frame + 1} is missing: it is truncated")


def _refuse_cut(file: BinaryIO) -> None:
    """Refuse compressed pixels whose pieces are not all there: pydicom would take what there is."""
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    at = start
    while True:
        file.seek(at)
        head = file.read(8)
        if head.startswith(_LAST):
            break
        at += 8 + int.from_bytes(head[4:], "little")
        if not head.startswith(_PIECE) or at > end:
            raise ScanError("its compressed pixels end too early: the file is truncated, or damaged. Copy it again.")
    file.seek(start)


def _hold(image: Image, stream: bytes) -> None:
    """Refuse a frame of another size than the header's before it is decoded: a few bytes can promise 65535x65535."""
    bits = 8 * image.dtype.itemsize
    if image.syntax == _RLE:
        if image.rows * image.columns * bits // 8 > _MOST_RLE * len(stream):
            raise ScanError(f"{len(stream):,} bytes cannot hold {image.columns}x{image.rows} pixels: it is corrupt")
        return
    found = promise(stream)
    if found is None or found[:3] != Promise(image.rows, image.columns, 1, 0)[:3] or not 0 < found.bits <= bits:
        words = "nothing" if found is None else f"{found.columns}x{found.rows} pixels of {found.components} x {found.bits} bits"
        raise ScanError(f"the header promises {image.columns}x{image.rows} pixels of {bits} bits, the data {words}")
    if image.syntax in _LS and not stream.rstrip(b"\0").endswith(_END):  # CharLS takes 3 s to say so, of 512x512 pixels
        raise ScanError("its JPEG-LS data does not end as it must: it is truncated, or damaged. Copy it again.")


def _used_bits(pixels: np.ndarray, image: Image) -> np.ndarray:
    """The bits that count, the sign extended: what stands above them (overlays, leftovers) is no intensity."""
    unused = 8 * image.dtype.itemsize - image.stored
    return (pixels << unused) >> unused if unused else pixels
