"""Break NRRD and MetaImage files, and say by other means than the package's own what is in one that was read."""

import bz2
import re
import zlib
from math import prod

import numpy as np

from .build import MET_TYPES, NRRD_TYPES, head, mha, nrrd
from .mutate import anything, pick

BESIDE = "voxels.raw"  # lies in the folder of every broken file, whole
VOXELS = head().tobytes("F")
VALUES = [
    *("", "0", "1", "-1", "2", "3", "4", "9", "nan", "inf", "1e308", "99999999999999999999", "1_0", "12 10", "12 10 6 1"),
    *("none", "none none none", "(1,0,0)", "(nan,0,0) (0,1,0) (0,0,1)", "(1,0,0) (0,2,0) (0,0,3)", "(1,0,0) (1,0,0) (0,0,1)"),
    *("raw", "gzip", "bzip2", "text", "hex", "big", "little", "float", "short", "uchar", "double", "MET_DOUBLE", "MET_UCHAR"),
    *("1 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0", "1 1 1", "-1 1 1", "(1,0) (0,1)", "32767 32767 32767", "True", "False"),
    *("right-anterior-superior", "left-anterior-superior", "scanner-xyz", "RGB-color domain domain", "é", "x" * 500, "\0"),
    *("LIST", "LOCAL", "../x", "/dev/zero", BESIDE),
]  # fmt: skip


def _scan(rng, build, packings):
    """A valid file, its voxels after the header, or now and then in the file beside it."""
    if rng.random() < 0.15:
        return build(packing="raw", file=BESIDE)[0]
    shape = pick(rng, [(12, 10, 6), (17, 3, 1), (1, 1, 1), (8, 8, 4, 2)])
    dtype = pick(rng, [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.int64])
    return build(head(shape, dtype, int(rng.integers(9))), packing=pick(rng, packings), order=pick(rng, "<>"))


def _field_to_extreme(rng, raw):
    """Change, drop or double a line of the header."""
    lines = raw.split(b"\n")
    at = int(rng.integers(min(len(lines), 15)))
    name, mark, value = re.match(rb"([^=:]*)(: ?| = ?|=|:=)?(.*)", lines[at], re.DOTALL).groups()
    change = int(rng.integers(6))
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(at, lines[int(rng.integers(min(len(lines), 15)))])
    elif change == 2:
        words = value.split() or [b""]
        words[int(rng.integers(len(words)))] = pick(rng, VALUES).encode()
        lines[at] = name + (mark or b"") + b" ".join(words)
    else:
        lines[at] = name + (mark or b"") + pick(rng, VALUES).encode()
    return b"\n".join(lines)


def _hostile(rng, build, packings):
    """The bytes of a broken file; sometimes not broken at all."""
    raw = _scan(rng, build, packings)
    for _ in range(int(rng.integers(0, 3))):
        change = pick(rng, [_field_to_extreme, _field_to_extreme, lambda rng, raw: anything(rng, raw, _scan(rng, build, packings))])
        raw = change(rng, raw) or raw
    return raw


def hostile_nrrd(rng):
    """The bytes of a broken .nrrd."""
    return _hostile(rng, nrrd, ["raw", "gzip", "bzip2", "text"])


def hostile_mha(rng):
    """The bytes of a broken .mha."""
    return _hostile(rng, mha, ["raw", "zlib", "text"])


# ---- what is in one ----


def _inflated(data, wbits):
    """The bytes of one or, of gzip, several members, whole and verified."""
    out = b""
    while True:
        member = zlib.decompressobj(wbits)
        out += member.decompress(data)
        assert member.eof, "accepted, although its compressed data has no end"
        data = member.unused_data
        if wbits != 31 or not data.startswith(b"\x1f\x8b"):
            return out


def _bunzipped(data):
    out = b""
    while data.startswith(b"BZh"):
        member = bz2.BZ2Decompressor()
        out += member.decompress(data)
        assert member.eof
        data = member.unused_data
    return out


def _numbers(text):
    return [float(word) for word in text.split()]


def _compare(scan, ref, affine, index):
    """Voxels (X, Y, Z, volumes) and affine of what was read."""
    volume = ref[..., index or 0].astype(ref.dtype.newbyteorder("="))
    if volume.dtype == np.float64:
        volume = np.where(np.abs(volume) > np.finfo(np.float32).max, np.inf * np.ones(volume.shape), volume)
    assert scan.voxels.shape == volume.shape
    assert scan.voxels.dtype == volume.dtype
    assert scan.voxels.tobytes("F") == volume.tobytes("F")
    np.testing.assert_allclose(scan.affine, affine, rtol=1e-12, atol=1e-12)


def check_nrrd(scan, raw, index):
    """What was read of ``raw`` is what its header says is there."""
    end = re.search(rb"\n\r?\n|\Z", raw)
    text, data = raw[: end.start()].decode("utf-8", "surrogateescape"), raw[end.end() :]
    lines = (re.match(r"([A-Za-z ]+):(?!=)(.*)", line) for line in text.split("\n")[1:] if line[:1] != "#")
    fields = {line[1].lower().replace(" ", ""): line[2].strip() for line in lines if line}
    sizes, packing = [int(size) for size in fields["sizes"].split()], fields["encoding"].lower()
    names = {name: code for code, name in NRRD_TYPES.items()}
    dtype = np.dtype({"big": ">"}.get(fields.get("endian", "").lower(), "<") + names[fields["type"].lower()])
    data = VOXELS if fields.get("datafile") else data
    data = data.split(b"\n", int(fields["lineskip"]))[-1] if int(fields.get("lineskip") or 0) else data
    if packing in ("text", "txt", "ascii"):
        array = np.array(
            [float(word) if dtype.kind == "f" else int(word) for word in data.replace(b",", b" ").split()], dtype.newbyteorder("=")
        )
    else:
        data = {"gzip": lambda: _inflated(data, 31), "bzip2": lambda: _bunzipped(data), "raw": lambda: data}[packing]()
        skip = int(fields.get("byteskip", 0))
        array = np.frombuffer(data[skip if skip >= 0 else len(data) - prod(sizes) * dtype.itemsize :], np.uint8)
        array = array[: prod(sizes) * dtype.itemsize].view(dtype)
    if "spacedirections" in fields:
        steps = re.findall(r"none|\(.*?\)", fields["spacedirections"])
        space = [axis for axis, step in enumerate(steps) if step != "none"]
        columns = [_numbers(steps[axis].strip("()").replace(",", " ")) for axis in space]
    else:
        space = [axis for axis, kind in enumerate((fields.get("kinds") or "domain domain domain").split()) if kind != "list"][:3]
        columns = np.diag(_numbers(fields["spacings"]) if "spacings" in fields else [1, 1, 1])[: len(space)].tolist()
    columns = [[*column, 0][:3] for column in columns]
    columns += [np.cross(*columns) / np.linalg.norm(np.cross(*columns))] if len(columns) == 2 else []
    others = [axis for axis in range(len(sizes)) if axis not in space]
    array = array.reshape(sizes, order="F").transpose(*space, *others)
    name = fields.get("space", "").lower()
    signs = {"right-anterior-superior": (1, 1), "ras": (1, 1), "left-anterior-superior": (-1, 1), "las": (-1, 1)}.get(name, (-1, -1))
    origin = [*_numbers(fields.get("spaceorigin", "(0,0,0)").strip("()").replace(",", " ")), 0][:3]
    affine = np.diag([*signs, 1, 1.0]) @ np.vstack([np.column_stack([*columns, origin]), [0, 0, 0, 1]])
    shape = (*(sizes[axis] for axis in space), 1)[:3]
    _compare(scan, array.reshape(*shape, -1, order="F"), affine, index)


def check_mha(scan, raw, index):
    """What was read of ``raw`` is what its header says is there."""
    header = re.search(rb"^\s*ElementDataFile[ \t]*=[^\n]*(\n|\Z)", raw, re.MULTILINE).end()
    pairs = (line.split("=", 1) for line in raw[:header].decode("utf-8", "surrogateescape").split("\n") if "=" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    data = VOXELS if fields["ElementDataFile"].upper() != "LOCAL" else raw[header:]
    sizes, names = [int(size) for size in fields["DimSize"].split()], {f"MET_{name}": code for code, name in MET_TYPES.items()}
    big = fields.get("BinaryDataByteOrderMSB", "F")[:1] in ("t", "T", "1")
    dtype = np.dtype((">" if big else "<") + names[fields["ElementType"]])
    if fields.get("CompressedData", "False")[0] in "tT1":
        data = _inflated(data, 31 if data.startswith(b"\x1f\x8b") else 15)
    elif fields.get("BinaryData", "True")[0] not in "tT1":
        words = data.replace(b",", b" ").split()
        data = np.array([float(word) if dtype.kind == "f" else int(word) for word in words], dtype).tobytes()
    skip = int(fields.get("HeaderSize", 0))
    channels = int(fields.get("ElementNumberOfChannels", 1))
    count = channels * prod(sizes) * dtype.itemsize
    array = np.frombuffer(data[skip if skip >= 0 else len(data) - count :][:count], np.uint8).view(dtype)
    array = np.moveaxis(array.reshape(channels, *(*sizes, 1)[: max(3, len(sizes))], order="F"), 0, -1)
    n = len(sizes)
    spacing = _numbers(fields.get("ElementSpacing", fields.get("ElementSize", " ".join(["1"] * n))))
    matrix = np.reshape(_numbers(fields["TransformMatrix"]) if "TransformMatrix" in fields else np.eye(n).ravel(), (n, n))
    lps = np.eye(4)
    lps[: min(n, 3), : min(n, 3)] = matrix[:3, :3].T * spacing[:3]
    if n == 2:
        lps[2, 2] = np.sign(np.linalg.det(lps[:2, :2]))
    lps[: min(n, 3), 3] = (_numbers(fields["Offset"]) if "Offset" in fields else [0] * 3)[: min(n, 3)]
    _compare(scan, array.reshape(*array.shape[:3], -1, order="F"), np.diag([-1, -1, 1, 1]) @ lps, index)
