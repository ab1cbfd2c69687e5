"""JPEG Lossless (ITU-T T.81, process 14, all seven predictors): what archives are full of, and no library under a free licence
decodes without crashing on damaged bytes. GDCM's does (it also weighs 43 MB), pylibjpeg's is under the GPL.

A Huffman code's length follows from the 16 bits that begin there, so it is looked up for every bit of the stream at once;
only the way from code to code is walked one by one. A slice of 512x512 takes 0.1 s.
"""

from __future__ import annotations

import struct

import numpy as np

from ...errors import ScanError
from .codestream import segments

_FRAME, _TABLE, _SCAN, _RESTARTS = 0xC3, 0xC4, 0xDA, 0xDD
_LONGEST = 16  # bits of a code


def decode(stream: bytes) -> np.ndarray:
    """A frame of one component, (rows, columns) uint16.

    Raises
    ------
    ScanError
        If it is no such stream, or ends too early.
    """
    table, shape, bits, restarts = None, None, 0, 0
    for marker, at, end in segments(stream):
        if end > len(stream):
            break
        if marker == _FRAME:
            bits, *shape, components = struct.unpack(">BHHB", stream[at : at + 6].ljust(6, b"\0"))
            if components != 1 or not 2 <= bits <= 16 or min(shape) < 1:
                raise ScanError("its JPEG Lossless data is not of one component of 2 to 16 bits")
        elif marker == _TABLE:
            table = _lookup(stream[at:end])
        elif marker == _RESTARTS:
            restarts = int.from_bytes(stream[at : at + 2], "big")
        elif marker == _SCAN:
            if table is None or shape is None:
                break
            predictor, _, shift = stream[at + 3 : at + 6].ljust(3, b"\0")
            shift &= 15
            if not 1 <= predictor <= 7 or shift >= bits:
                raise ScanError(f"its JPEG Lossless data uses predictor {predictor}, shift {shift}; expected predictors 1 to 7")
            differences = _differences(stream[end:], table, shape[0] * shape[1], restarts)
            return _predict(differences.reshape(shape), predictor, 1 << (bits - shift - 1), restarts) << shift
    raise ScanError("its JPEG Lossless data lacks a frame, a table or a scan")


def _lookup(segment: bytes) -> np.ndarray:
    """Of a Huffman table, for every 16 bits that a code may begin: (65536, 2) its length and the category; length 0 is no code."""
    counts, values = segment[1:17], segment[17:]
    found = np.zeros((1 << _LONGEST, 2), np.int64)
    code = used = 0
    for length, count in enumerate(counts, 1):
        for category in values[used : used + count]:
            first = code << (_LONGEST - length)
            found[first : first + (1 << (_LONGEST - length))] = length, min(category, 16)
            code += 1
        used += count
        code <<= 1
    return found


def _differences(scan: bytes, table: np.ndarray, count: int, restarts: int) -> np.ndarray:
    """The ``count`` differences of a scan, (count,) int64; after every ``restarts`` of them the codes begin anew."""
    intervals = _intervals(scan) if restarts else [_interval(scan)]
    step = restarts or count
    if len(intervals) < -(-count // step):
        raise ScanError("its JPEG Lossless data ends too early: it is truncated")
    return np.concatenate([_walk(one, table, min(step, count - at)) for one, at in zip(intervals, range(0, count, step), strict=False)])


def _intervals(scan: bytes) -> list[np.ndarray]:
    """What stands between the markers that restart decoding."""
    found, begin = [], 0
    at = scan.find(b"\xff")
    while 0 <= at < len(scan) - 1:
        if scan[at + 1] != 0:
            found.append(_interval(scan[begin:at]))
            begin = at + 2
            if not 0xD0 <= scan[at + 1] <= 0xD7:
                return found
        at = scan.find(b"\xff", at + 2)
    return [*found, _interval(scan[begin:])]


def _interval(scan: bytes) -> np.ndarray:
    """Its bytes up to the next marker, without the zero that follows every 0xFF."""
    raw = np.frombuffer(scan, np.uint8)
    after = np.flatnonzero(raw[:-1] == 0xFF) + 1
    marker = after[raw[after] != 0]
    end = marker[0] - 1 if marker.size else len(raw)
    return np.delete(raw[:end], after[after < end])


def _walk(raw: np.ndarray, table: np.ndarray, count: int) -> np.ndarray:
    """``count`` differences from bytes without markers."""
    size = 8 * len(raw)
    padded = np.concatenate([raw, np.full(8, 0xFF, np.uint8)]).astype(np.int64)  # 24 bits from every byte on, then from every bit
    words = (padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:])[:, None]
    window = ((words >> np.arange(8, 0, -1)) & 0xFFFF).ravel()[: size + 32]
    length, category = table[window].T
    extra = np.where(category == 16, 0, category)  # category 16 is 32768, and no bits follow
    ahead = np.where(length > 0, np.arange(len(window)) + length + extra, len(window)).tolist()
    ahead += [len(ahead)] * 64
    places, at = [], 0
    for _ in range(count):
        places.append(at)
        at = ahead[at] if at < len(ahead) else at
    if at > size:
        raise ScanError("its JPEG Lossless data ends too early, or is damaged")
    start = np.array(places)
    bits, more = category[start], extra[start]
    value = window[np.minimum(start + length[start], len(window) - 1)] >> (16 - more)
    low = (more > 0) & (value < (1 << np.maximum(more - 1, 0)))
    return np.where(bits == 16, 32768, value - np.where(low, (1 << more) - 1, 0))


def _predict(differences: np.ndarray, predictor: int, first: int, restarts: int) -> np.ndarray:
    """Pixels from differences to what their neighbours predict: a to the left, b above, c between (T.81, table H.1)."""
    rows, columns = differences.shape
    pixels = np.empty((rows, columns), np.int64)
    fresh = range(0, rows, restarts // columns) if restarts >= columns and restarts % columns == 0 else (0,)
    for y in range(rows):
        row = first + np.cumsum(differences[y]) if y in fresh else _row(differences[y], pixels[y - 1], predictor)
        pixels[y] = row & 0xFFFF
    return pixels.astype(np.uint16)


def _row(d: np.ndarray, b: np.ndarray, predictor: int) -> np.ndarray:
    """A row below ``b``: its first pixel is predicted by the one above, whatever the predictor."""
    c = np.concatenate([b[:1], b[:-1]])
    if predictor == 1:
        return np.asarray(b[0] + np.cumsum(d))
    if predictor in (2, 3):
        return d + (b if predictor == 2 else c)
    if predictor in (4, 5):
        slope = b - c if predictor == 4 else (b - c) >> 1
        return np.asarray(b[0] + np.cumsum(d + slope))
    row: list[int] = []
    a = 0
    for difference, above, between in zip(d.tolist(), b.tolist(), c.tolist(), strict=True):
        predicted = (above + ((a - between) >> 1) if predictor == 6 else (a + above) >> 1) if row else above
        a = (predicted + difference) & 0xFFFF
        row.append(a)
    return np.array(row)
