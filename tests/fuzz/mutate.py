"""Break a valid file in one of many ways; every choice comes from the generator given, so a seed repeats it."""

import json

import numpy as np
import safetensors.numpy
from conftest import random_tensors
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from records import make_record

from monet_edge import fingerprint, weights
from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.preprocess import Preprocess, to_json
from monet_edge.spec import count_floats, fold_batchnorm, from_json, tensor_shapes
from monet_edge.spec import to_json as spec_to_json

from .build import extension, gz, head, nifti

EXTREMES = [
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    16,
    127,
    255,
    348,
    352,
    540,
    544,
    32767,
    -32768,
    2**31 - 1,
    2**63 - 1,
    1e-45,
    1e20,
    1e38,
    np.nan,
    np.inf,
    -np.inf,
]


def pick(rng, options):
    """One of a list of anything."""
    return options[int(rng.integers(len(options)))]


# ---- bytes ----


def flip(rng, raw, end=None):
    """One to eight bits, anywhere before ``end``."""
    out = bytearray(raw)
    for _ in range(int(rng.integers(1, 9))):
        out[int(rng.integers(min(end or len(out), len(out))))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def truncate(rng, raw):
    return raw[: int(rng.integers(len(raw)))]


def append(rng, raw):
    return raw + pick(rng, [bytes(1), bytes(4096), rng.bytes(100), raw, gz(raw)])


def overwrite(rng, raw):
    start, count = int(rng.integers(len(raw))), int(rng.integers(1, 64))
    return raw[:start] + pick(rng, [bytes(count), b"\xff" * count, rng.bytes(count)]) + raw[start + count :]


def cut(rng, raw):
    start, count = int(rng.integers(len(raw))), int(rng.integers(1, 64))
    return raw[:start] + raw[start + count :]


def insert(rng, raw):
    start = int(rng.integers(len(raw)))
    return raw[:start] + rng.bytes(int(rng.integers(1, 64))) + raw[start:]


def splice(rng, raw, other):
    return raw[: int(rng.integers(len(raw)))] + other[int(rng.integers(len(other))) :]


def anything(rng, raw, other):
    """One of the above."""
    kind = pick(rng, [flip, flip, truncate, append, overwrite, cut, insert, splice])
    return kind(rng, raw, other) if kind is splice else kind(rng, raw)


# ---- scans ----


def scan(rng):
    """A valid NIfTI file, uncompressed: any dtype, byte order, version, a small shape, with and without extensions."""
    shape = pick(rng, [(12, 10, 6), (17, 3, 1), (1, 1, 1), (8, 8, 4, 2), (9, 9)])
    dtype = pick(rng, [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.int64])
    voxels = head((*shape, 1)[: max(3, len(shape))], dtype, int(rng.integers(9))).reshape(shape)
    order = pick(rng, "<>")
    extensions = pick(rng, [b"", extension(16, bytes(8), order) + extension(32, bytes(24), order)])
    fields = pick(rng, [{}, {"scl_slope": 2.5, "scl_inter": -10}, {"sform_code": 0}])
    return nifti(voxels, order=order, version=pick(rng, [1, 1, 2]), extensions=extensions, fields=fields)


def field_to_extreme(rng, raw):
    """Set up to three header fields to something nobody writes."""
    kind = Nifti2Header if b"n+2" in raw[:12] else Nifti1Header
    size = kind.template_dtype.itemsize
    order = "<" if raw[0] in (348 & 255, 540 & 255) else ">"
    header = kind(raw[:size], order, check=False)
    for _ in range(int(rng.integers(1, 4))):
        field = header.structarr[pick(rng, header.keys())]
        if field.dtype.kind in "iuf":
            at = int(rng.integers(max(field.size, 1)))
            with np.errstate(all="ignore"):
                field.reshape(-1)[at] = np.array(pick(rng, EXTREMES)).astype(field.dtype)
    return header.binaryblock + raw[size:]


def hostile_scan(rng):
    """The bytes of a broken scan, compressed or not, broken before or after compression; sometimes not broken at all."""
    raw = scan(rng)
    for _ in range(int(rng.integers(0, 3))):
        raw = (
            pick(rng, [field_to_extreme, lambda rng, raw: flip(rng, raw, 352), lambda rng, raw: anything(rng, raw, scan(rng))])(rng, raw)
            or raw
        )
        if len(raw) < 552:
            break
    if rng.random() < 0.5:
        raw = gz(raw, int(rng.integers(0, 10)))
        if rng.random() < 0.5:
            raw = anything(rng, raw, gz(scan(rng)))
    return raw


# ---- weights ----

RECORD = make_record("blob")
NETWORKS = [
    fold_batchnorm(monet(filters=4, depth=1)),
    fold_batchnorm(unet(2)),
    fold_batchnorm(attention_unet(2)),
    fold_batchnorm(monet(filters=2, depth=1, classes=3)),
]
VALUES = [0, 1, -1, 2, 3, 4, 5, 7, 64, 65, 8192, 2**31, 1.5, None, True, "", "relu", "conv", "image", [], {}, "x" * 200, 1e400, "\ud800"]


def model(rng):
    """Spec, tensors and the bytes of a valid weights file."""
    spec = pick(rng, NETWORKS)
    record = Preprocess(**{**RECORD.__dict__, "labels": ("one", "two") if spec.classes == 3 else ("blob",)})
    return spec, record


def tree_to_extreme(rng, tree):
    """Change, drop or add something anywhere in a JSON tree."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = pick(rng, keys)
        if isinstance(node[key], (dict, list)) and len(node[key]) and rng.random() < 0.95:
            node = node[key]
            continue
        change = int(rng.integers(8))
        if change == 0:
            del node[key]
        elif change == 1 and isinstance(node, dict):
            node[str(pick(rng, VALUES))] = pick(rng, VALUES)
        elif change == 2 and isinstance(node, list):
            node.insert(key, json.loads(json.dumps(node[key])))
        else:
            node[key] = pick(rng, VALUES)
        return


def hostile_weights(rng):
    """The bytes of a broken weights file: damaged by chance, or forged by somebody who knows how to make the checksum right."""
    spec, record = model(rng)
    texts = {"format": weights.FORMAT, "spec": spec_to_json(spec), "preprocess": to_json(record)}
    looks = fingerprint.Fingerprint(np.zeros((1, fingerprint.COUNT)), np.eye(fingerprint.COUNT)[None], 9.0)
    texts["fingerprint"] = json.dumps(fingerprint.to_record(looks))
    texts["provenance"] = '{"dice": "0.7"}'
    tensors = random_tensors(spec, int(rng.integers(9)))
    forged = rng.random() < 0.6
    if forged:
        for _ in range(int(rng.integers(1, 3))):
            which = pick(rng, ["spec", "spec", "spec", "preprocess", "fingerprint", "provenance"])
            tree = json.loads(texts[which])
            tree_to_extreme(rng, tree)
            texts[which] = json.dumps(tree)
        try:  # the tensors that the forged network asks for, so that its reader gets further than their names
            spec = from_json(texts["spec"])
            if count_floats(spec) < 1_000_000:
                tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in tensor_shapes(spec).items()}
        except Exception:
            pass
        if rng.random() < 0.2:
            name = pick(rng, list(tensors))
            tensors[name] = pick(rng, [tensors[name] * np.float32(np.nan), tensors[name][..., None], tensors[name].astype(np.float16)])
    raw = safetensors.numpy.save(tensors, {**texts, "checksum": weights._checksum(texts, tensors)})
    if not forged:
        raw = anything(rng, raw, safetensors.numpy.save(tensors))
    return raw
