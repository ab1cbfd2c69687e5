"""What a JPEG, JPEG-LS or JPEG 2000 stream promises to hold, from its own first markers; nothing is decoded."""

from __future__ import annotations

import struct
from typing import NamedTuple

MOST_TILES = 4096  # of a JPEG 2000 image: 4096x4096 in tiles of 64x64; a stream may claim one for every pixel
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # markers: baseline, extended, progressive, lossless, LS
_START = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, sizes


class Promise(NamedTuple):
    """Sizes of a frame."""

    rows: int
    columns: int
    components: int
    bits: int


def promise(stream: bytes) -> Promise | None:
    """The sizes that a stream claims; None where it is none of the three, or claims nonsense."""
    try:
        return _jpeg(stream) if stream.startswith(b"\xff\xd8") else _jpeg2000(stream)
    except (struct.error, IndexError):  # it ends too early
        return None


def _jpeg(stream: bytes) -> Promise | None:
    for marker, at, _ in segments(stream):
        if marker in _FRAMES:
            bits, rows, columns, components = struct.unpack_from(">BHHB", stream, at)
            return Promise(rows, columns, components, bits)
    return None


def segments(stream: bytes) -> list[tuple[int, int, int]]:
    """Marker, begin and end of the content of every segment of a JPEG stream up to the scan's, that included."""
    found, at = [], 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] == 0xFF:  # fill bytes
            at += 1
            continue
        marker, length = struct.unpack_from(">xBH", stream, at)
        found.append((marker, at + 4, at + 2 + length))
        if marker == 0xDA or length < 2:
            break
        at += 2 + length
    return found


def _jpeg2000(stream: bytes) -> Promise | None:
    at = stream[:256].find(_START)  # 0, or behind the boxes of a JP2 file
    if at < 0:
        return None
    right, bottom, left, top, tile_width, tile_height, *_ = struct.unpack_from(">8I", stream, at + 8)
    components, depth = struct.unpack_from(">HB", stream, at + 40)
    columns, rows = right - left, bottom - top
    if min(columns, rows, tile_width, tile_height) < 1 or -(-columns // tile_width) * -(-rows // tile_height) > MOST_TILES:
        return None
    return Promise(rows, columns, components, (depth & 0x7F) + 1)
