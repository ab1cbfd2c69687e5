"""The weights file: one .safetensors with the tensors, the folded Spec, the preprocessing record and the provenance.

Every file is untrusted: nothing in it can run code, whatever does not match the Spec exactly is an error, and so is a
single flipped bit.

    metadata    {"format": "monet-edge", "spec": JSON, "preprocess": JSON, "fingerprint": JSON or "null", "provenance": JSON,
                 "checksum": sha256 of all these and the tensors}
    tensors     float32, the names and shapes of `spec.tensor_shapes`, nothing missing and nothing left over
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from . import fingerprint as _fingerprint
from . import limits, sides
from . import preprocess as _preprocess
from . import spec as _spec
from .errors import ModelError, ResourceError
from .files import atomic_write
from .nnunet import record as _nnunet
from .provenance import Provenance, check
from .registry import find
from .tensors import Tensors

FORMAT = "monet-edge"
MAX_BYTES = 4 << 30  # U-Net-64 is 119 MB, a fold of nnU-Net's residual encoder up to 560
KEPT = 16 << 20  # of a larger file no tensors are kept in memory: to read a MoNet's again takes 20 ms, a third of loading it
MAX_HEADER = 4 << 20  # bytes of JSON; Attention U-Net's are 20 KB
MAX_VALUE = 1 << 32  # floats of one value of the network, 16 GB; U-Net-64 at 4096x4096 makes 2e9
MAX_MACS = 1e13  # a slice; U-Net-64 at 1024x1024 has 7.7e11, some ten seconds
Record = _preprocess.Preprocess | _nnunet.Record
_TEXTS = ("format", "spec", "preprocess", "fingerprint", "provenance")


@dataclass(frozen=True)
class Weights:
    """A validated weights file.

    Attributes
    ----------
    name : str
        The file's name without its ending.
    spec : Spec
        Folded.
    tensors : mapping of str to float32 array
        Exactly those of `spec.tensor_shapes`.
    preprocess : Preprocess or nnunet.record.Record
        By its kind the way of a scan is chosen, see `ways`.
    fingerprint : Fingerprint or None
        How the training scans look.
    provenance : Provenance
    sha256 : str
        Of the whole file.
    """

    name: str
    spec: _spec.Spec
    tensors: Mapping[str, np.ndarray]
    preprocess: Record
    fingerprint: _fingerprint.Fingerprint | None
    provenance: Provenance
    sha256: str

    @property
    def sliced(self) -> _preprocess.Preprocess:
        """The record of a model that `monet-train` made.

        Raises
        ------
        ModelError
            If it is another's.
        """
        if not isinstance(self.preprocess, _preprocess.Preprocess):
            raise ModelError(f"{self.name} is a model of nnU-Net's: only segmenting is done with it, nothing else")
        return self.preprocess

    @property
    def kind(self) -> str:
        """Modality and contents."""
        return ", ".join(filter(None, (self.provenance.stated("modality"), self.contents)))

    @property
    def contents(self) -> str:
        """Its structures in a few words: a title has room for `sides.NAMED` of them, of more it tells how many."""
        return ", ".join(self.structures) if len(self.structures) <= sides.NAMED else f"{len(self.structures)} structures"

    @property
    def structures(self) -> list[str]:
        """Its labels for people, both sides of a structure at once."""
        return [name for name, _ in sides.structures(self.preprocess.labels)]

    @property
    def mirrored(self) -> list[int] | None:
        """Which of its channels says in a mirrored slice what each says in the slice itself.

        None where labels of the same thing are called left and right, and training has not exchanged them in mirror images:
        a mirrored heart has no right ventricle in the place of the left one.
        """
        channels = list(range(self.spec.classes))
        exchanged = sides.mirrored(self.preprocess.labels)[: len(channels)]
        return exchanged if exchanged == channels or self.provenance.made_mirrors else None

    @property
    def merged(self) -> bool:
        """Whether training merged all labels into one, as the provenance says."""
        return self.provenance.merged and len(self.preprocess.labels) == 1


def load(model: str | Path) -> Weights:
    """Read and check a weights file, given by a shipped model's name or a path.

    Raises
    ------
    ModelError
        Naming the file and what is wrong with it.
    """
    path = find(str(model))
    try:
        return _load(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ResourceError as error:
        raise ResourceError(f"{path}: {error}") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _load(path: Path) -> Weights:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(f"the file has {size:,} bytes, a weights file at most {MAX_BYTES:,}")
    # The file and its tensors; of a large one no more than a tensor, but to pack it for the kernels takes 91 MB of nnU-Net's 132.
    limits.demand(2 * size if size <= KEPT else size, "the weights file")
    with path.open("rb") as file:
        if size <= KEPT:
            return parse(path.stem, file.read())
        return _parse_large(path, file)


def parse(name: str, raw: bytes) -> Weights:
    """Check the bytes of a weights file.

    Raises
    ------
    ModelError
        Saying what is wrong with it.
    """
    header = _header(raw[:8], raw[8 : 8 + MAX_HEADER])
    try:
        entries = dict(safetensors.deserialize(raw))
    except safetensors.SafetensorError as error:
        raise _broken(str(error)) from None

    def tensors(spec: _spec.Spec) -> dict[str, np.ndarray]:
        shapes = _check_entries(spec, {key: (entry["dtype"], tuple(entry["shape"])) for key, entry in entries.items()})
        return {key: _tensor(entries[key]["data"], shape) for key, shape in shapes.items()}

    return _check(name, header, tensors, hashlib.sha256(raw).hexdigest())


def _parse_large(path: Path, file: BufferedReader) -> Weights:
    """As `parse`, with no more than one tensor of the file in memory."""
    length = file.read(8)
    header = _header(length, file.read(MAX_HEADER))
    try:
        with safetensors.safe_open(path, framework="np") as opened:  # the library checks the header
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  # not a mapping
            entries = {key: (each.get_dtype(), tuple(each.get_shape())) for key, each in slices.items()}
    except safetensors.SafetensorError as error:
        raise _broken(str(error)) from None

    def tensors(spec: _spec.Spec) -> Tensors:
        shapes, places = _check_entries(spec, entries), json.loads(header)
        first = len(length) + len(header)
        return Tensors(
            path, os.fstat(file.fileno()), {key: (first + places[key]["data_offsets"][0], shape) for key, shape in shapes.items()}
        )

    file.seek(0)
    return _check(path.stem, header, tensors, hashlib.file_digest(file, "sha256").hexdigest())


def _header(length: bytes, rest: bytes) -> bytes:
    """The JSON of a safetensors file, given its first 8 bytes and as many of the others as it may have."""
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise _broken("its header is too long")
    return rest[:size]


def _broken(why: str) -> ModelError:
    return ModelError(f"not an intact safetensors file ({why}). Copy or download it again.")


def _check(name: str, header: bytes, make: Callable[[_spec.Spec], Mapping[str, np.ndarray]], sha256: str) -> Weights:
    """A weights file, given its header, which the library has found intact, and what gives the tensors of its Spec."""
    metadata = json.loads(header).get("__metadata__") or {}
    if metadata.get("format") != FORMAT or metadata.keys() != {*_TEXTS, "checksum"}:
        raise ModelError(f"a safetensors file, but not one of monet-edge: its metadata must be {', '.join(_TEXTS)} and checksum")
    spec = _spec.from_json(metadata["spec"])
    record = _read_record(metadata["preprocess"])
    looks = _json(metadata["fingerprint"], "its fingerprint")
    fingerprint = None if looks is None else _fingerprint.from_record(looks, record.images)
    provenance = check(_json(metadata["provenance"], "its provenance"), record.labels)
    _check_fit(spec, record)
    tensors = make(spec)
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelError(f"tensor {key} holds NaN or infinite values")
    if metadata["checksum"] != _checksum(metadata, tensors):
        raise ModelError("its checksum is wrong: it was damaged or changed. Copy or download it again.")
    return Weights(name, spec, tensors, record, fingerprint, provenance, sha256)


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over everything that decides the result: a flipped bit in a weight is still a valid float."""
    digest = hashlib.sha256()
    for text in (metadata[key] for key in _TEXTS):
        digest.update(f"{len(text)}:{text}".encode())
    for name, tensor in tensors.items():
        digest.update(f"{name}:".encode())
        digest.update(tensor.astype("<f4", copy=False).data)
    return digest.hexdigest()


def _json(text: str, what: str) -> Any:
    """What a text says; NaN, which Python's reader takes, is no JSON."""
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} is not JSON: {error}") from None
    return found


def _read_record(text: str) -> Record:
    found = _json(text, "the preprocessing record")
    if isinstance(found, dict) and found.get("way") == _nnunet.NAME:
        return _nnunet.from_record(found)
    return _preprocess.from_json(text)


def _write_record(record: Record) -> str:
    return _nnunet.to_json(record) if isinstance(record, _nnunet.Record) else _preprocess.to_json(record)


def _check_fit(spec: _spec.Spec, record: Record) -> None:
    if not spec.name.isprintable():
        raise ModelError(f"its name holds characters that cannot be printed: {spec.name!r}")
    if not spec.folded:
        raise ModelError("holds a network for training (BatchNorm, dropout); export it with monet-train export")
    if spec.in_channels != record.inputs:
        raise ModelError(f"the network takes {spec.in_channels} channels, its preprocessing makes {record.inputs}")
    if spec.classes != record.outputs:
        raise ModelError(f"the network has {spec.classes} outputs, the labels {', '.join(record.labels)} need {record.outputs}")
    shapes = _spec.infer_shapes(spec, *record.sides)
    found, wanted = ("x".join(map(str, sides)) for sides in (shapes[spec.output][1:], record.sides))
    if found != wanted:
        raise ModelError(f"the network makes {found} of {wanted}; it must keep the size")
    largest, macs = max(map(prod, shapes.values())), sum(_spec.count_macs(spec, *record.sides).values())
    if largest > MAX_VALUE or macs > MAX_MACS:
        found, most = f"{macs:.1e} multiplications a slice, values of {largest:.1e} floats", f"{MAX_MACS:.0e} and {MAX_VALUE:.0e}"
        raise ModelError(f"the network is too large: {found}; at most {most}")


def _check_entries(spec: _spec.Spec, entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """The shapes of the Spec's tensors, which those of the file, given as dtype and shape, must have."""
    expected = _spec.tensor_shapes(spec)
    if entries.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - entries.keys()), sorted(entries.keys() - expected.keys())
        raise ModelError(f"its tensors are not those of its network: missing {missing[:3]}, unknown {extra[:3]}")
    for name, shape in expected.items():
        dtype, found = entries[name]
        if dtype != "F32" or found != shape:
            raise ModelError(f"tensor {name} is {dtype} {found}, its network needs F32 {shape}")
    return expected


def _tensor(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    tensor = np.frombuffer(data, "<f4", prod(shape)).reshape(shape).astype(np.float32, copy=False)
    tensor.flags.writeable = False
    return tensor


def save(
    path: Path,
    spec: _spec.Spec,
    tensors: Mapping[str, np.ndarray],
    record: Record,
    provenance: Mapping[str, Any],
    fingerprint: _fingerprint.Fingerprint | None = None,
) -> None:
    """Write a weights file, whole or not at all, see `pack`."""
    raw = pack(path.stem, spec, tensors, record, provenance, fingerprint)
    with atomic_write(path, overwrite=True) as file:
        file.write(raw)


def pack(
    name: str,
    spec: _spec.Spec,
    tensors: Mapping[str, np.ndarray],
    record: Record,
    provenance: Mapping[str, Any],
    fingerprint: _fingerprint.Fingerprint | None = None,
) -> bytes:
    """The bytes of a weights file; the same content is the same bytes, so a sha256 tells models apart.

    Raises
    ------
    ModelError
        If what is given would not load again.
    """
    ordered = {name: np.ascontiguousarray(tensors[name], np.float32) for name in _spec.tensor_shapes(spec)}
    looks = json.dumps(fingerprint and _fingerprint.to_record(fingerprint), separators=(",", ":"))
    texts = (FORMAT, _spec.to_json(spec), _write_record(record), looks, json.dumps(provenance))
    metadata = dict(zip(_TEXTS, texts, strict=True))
    raw = _sorted_header(safetensors.numpy.save(ordered, {**metadata, "checksum": _checksum(metadata, ordered)}))
    parse(name, raw)
    return raw


def _sorted_header(raw: bytes) -> bytes:
    """A safetensors file with its header in alphabetical order: the library writes metadata in another order every time."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors after it stay aligned
    return len(header).to_bytes(8, "little") + header + raw[end:]
