"""The weights file: one .safetensors with the tensors, the folded Spec, the preprocessing record and the provenance.

Every file is untrusted: nothing in it can run code, and whatever does not match the Spec exactly is an error.

    metadata    {"format": "monet-edge", "spec": JSON, "preprocess": JSON, "provenance": JSON}
    tensors     float32, the names and shapes of `spec.tensor_shapes`, nothing missing and nothing left over
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from . import preprocess as _preprocess
from . import spec as _spec
from .errors import ModelError
from .files import atomic_write

FORMAT = "monet-edge"
DEFAULT = "brain-flair"
MAX_BYTES = 512 << 20  # U-Net-64 is 119 MB


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
    preprocess : Preprocess
    provenance : dict
        JSON-able: versions, data, licence, metrics, date, git revision, ...
    sha256 : str
        Of the whole file.
    """

    name: str
    spec: _spec.Spec
    tensors: Mapping[str, np.ndarray]
    preprocess: _preprocess.Preprocess
    provenance: Mapping[str, Any]
    sha256: str


def shipped() -> dict[str, Path]:
    """The models that come with the package, by name."""
    here = Path(__file__).parent
    folder = here / "shipped"  # the folder weights/ in an installed wheel
    if not folder.is_dir():
        folder = here.parent / "weights"  # in a checkout
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(model: str) -> Path:
    """The file of a shipped model's name or of a path.

    Raises
    ------
    ModelError
        If it is neither.
    """
    models = shipped()
    if model in models:
        return models[model]
    path = Path(model)
    if path.suffix != ".safetensors":
        raise ModelError(f"{model}: no such model. Shipped are {', '.join(models) or 'none'}; or give the path of a .safetensors file.")
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Shipped models are {', '.join(models) or 'none'}.")
    return path


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
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _load(path: Path) -> Weights:
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"the file has {path.stat().st_size:,} bytes, a weights file at most {MAX_BYTES:,}")
    raw = path.read_bytes()
    try:
        entries = dict(safetensors.deserialize(raw))
    except safetensors.SafetensorError as error:
        raise ModelError(f"not an intact safetensors file ({error}). Copy or download it again.") from None
    # deserialize has checked the header; it does not hand the metadata out
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]).get("__metadata__", {})
    if metadata.get("format") != FORMAT or not metadata.keys() >= {"spec", "preprocess", "provenance"}:
        raise ModelError("a safetensors file, but not one of monet-edge (its metadata lacks format, spec, preprocess or provenance)")
    spec = _spec.from_json(metadata["spec"])
    record = _preprocess.from_json(metadata["preprocess"])
    provenance = _provenance(metadata["provenance"])
    _check_fit(spec, record)
    tensors = _check_tensors(spec, entries)
    return Weights(path.stem, spec, tensors, record, provenance, hashlib.sha256(raw).hexdigest())


def _provenance(text: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its provenance is not JSON: {error}") from None
    if not isinstance(provenance, dict):
        raise ModelError("its provenance must be a JSON object")
    return provenance


def _check_fit(spec: _spec.Spec, record: _preprocess.Preprocess) -> None:
    if not spec.folded:
        raise ModelError("holds a network for training (BatchNorm, dropout); export it with monet-train export")
    if spec.in_channels != 2 * record.context + 1:
        raise ModelError(f"the network takes {spec.in_channels} channels, its preprocessing makes {2 * record.context + 1}")
    if spec.classes != record.classes:
        raise ModelError(f"the network has {spec.classes} outputs, the labels {', '.join(record.labels)} need {record.classes}")
    shape = _spec.infer_shapes(spec, record.size, record.size)[spec.output]
    if shape[1:] != (record.size, record.size):
        raise ModelError(f"the network makes {shape[1]}x{shape[2]} of {record.size}x{record.size}; it must keep the size")


def _check_tensors(spec: _spec.Spec, entries: Mapping[str, Any]) -> dict[str, np.ndarray]:
    expected = _spec.tensor_shapes(spec)
    if entries.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - entries.keys()), sorted(entries.keys() - expected.keys())
        raise ModelError(f"its tensors are not those of its network: missing {missing[:3]}, unknown {extra[:3]}")
    tensors = {}
    for name, shape in expected.items():
        entry = entries[name]
        if entry["dtype"] != "F32" or tuple(entry["shape"]) != shape:
            raise ModelError(f"tensor {name} is {entry['dtype']} {tuple(entry['shape'])}, its network needs F32 {shape}")
        tensor = np.frombuffer(entry["data"], "<f4", prod(shape)).reshape(shape).astype(np.float32)
        if not np.isfinite(tensor).all():
            raise ModelError(f"tensor {name} holds NaN or infinite values")
        tensor.flags.writeable = False
        tensors[name] = tensor
    return tensors


def save(
    path: Path, spec: _spec.Spec, tensors: Mapping[str, np.ndarray], record: _preprocess.Preprocess, provenance: Mapping[str, Any]
) -> None:
    """Write a weights file, whole or not at all; tensors go in op order, float32.

    Raises
    ------
    ModelError
        If what is given would not load again.
    """
    ordered = {name: np.ascontiguousarray(tensors[name], np.float32) for name in _spec.tensor_shapes(spec)}
    metadata = {
        "format": FORMAT,
        "spec": _spec.to_json(spec),
        "preprocess": _preprocess.to_json(record),
        "provenance": json.dumps(provenance),
    }
    raw = safetensors.numpy.save(ordered, metadata)
    _check_fit(spec, record)
    _check_tensors(spec, dict(safetensors.deserialize(raw)))
    with atomic_write(path, overwrite=True) as file:
        file.write(raw)
