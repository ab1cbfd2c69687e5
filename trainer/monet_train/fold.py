"""A finished run, folded: BatchNorm merged in float64 into what is beside it, held to PyTorch's output, described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monet_edge import fingerprint
from monet_edge.engine import Engine
from monet_edge.errors import ModelError
from monet_edge.files import write_together
from monet_edge.spec import Spec, fold_batchnorm
from monet_edge.weights import Weights, load, pack

from . import checkpoint
from .config import Settings, training_spec
from .config_text import read_settings
from .network import Network
from .provenance import Provenance, Source
from .splits import read_rule, read_splits
from .transfer import sources


def fold_tensors(spec: Spec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge every BatchNorm into the tensors of `monet_edge.spec.fold_batchnorm(spec)`.

    Parameters
    ----------
    spec : Spec
        For training, with its ``bn`` attributes.
    tensors : mapping of str to float array
        Named as `monet_edge.spec.tensor_shapes(spec)`.

    Returns
    -------
    dict of str to float32 array
        Computed in float64. A convolution gains a bias; where a BatchNorm follows an activation it becomes a scale and a
        shift, since folding it forward into the next convolution is wrong at zero-padded borders.
    """
    folded = {}
    for op in spec.ops:
        weight, bias = (tensors[key].astype(np.float64) if (key := f"{op.name}.{part}") in tensors else None for part in ("weight", "bias"))
        if "bn" in op.attrs:
            gamma, beta, mean, variance = (
                tensors[f"{op.name}.bn.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + op["bn"]["eps"])
            if op.kind == "affine":
                folded[f"{op.name}.scale"], folded[f"{op.name}.shift"] = scale, beta - mean * scale
                continue
            assert weight is not None
            # output channels are axis 0 of a convolution's weights and axis 1 of a transposed one's
            weight = weight * scale.reshape((-1, 1, 1, 1) if op.kind == "conv" else (1, -1, 1, 1))
            bias = beta + ((0 if bias is None else bias) - mean) * scale
        if weight is not None:
            folded[f"{op.name}.weight"] = weight
        if bias is not None:
            folded[f"{op.name}.bias"] = bias
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in folded.items()}


@dataclass(frozen=True)
class Folded:
    """A finished run, folded, checked against PyTorch and described, in memory."""

    settings: Settings
    tensors: Mapping[str, np.ndarray]
    looks: fingerprint.Fingerprint | None
    provenance: Provenance
    splits: bytes

    def pack(self, output: Path) -> bytes:
        """The bytes of its weights file."""
        spec = fold_batchnorm(training_spec(self.settings))
        return pack(output.stem, spec, self.tensors, self.settings.preprocess, self.provenance.to_record(), self.looks)

    def files(self, output: Path) -> dict[Path, bytes]:
        """The weights file and the splits beside it."""
        return {output: self.pack(output), output.with_suffix(".splits.json"): self.splits}

    def write(self, output: Path) -> Weights:
        """Write both, or none; returns the weights as loaded again."""
        write_together(self.files(output))
        return load(output)


def finished(run: Path) -> Settings:
    """The settings of a run that has its final weights; a ModelError if it has not."""
    settings = read_settings(run)
    if not (run / checkpoint.FINAL).exists():
        raise ModelError(f"{run}: this run is not finished, it has no final.safetensors. Go on with it: the same command and --resume")
    return settings


def fold_run(run: Path, source: Source, facts: Mapping[str, Any], more: Mapping[str, Any]) -> Folded:
    """Fold a finished run and hold it to PyTorch, whatever it was trained on; nothing is written.

    Parameters
    ----------
    run : Path
    source : Source
        What it was trained on.
    facts, more : mapping of str to JSON value
        For its `Provenance`: of the training, beside its cases and their split, and of the file.

    Returns
    -------
    Folded
        Without the appearance of training scans, which takes a data set.

    Raises
    ------
    ModelError
        As `export`, or if a fact cannot be told.
    """
    settings = finished(run)
    state, about = checkpoint.load(run / checkpoint.FINAL)
    tensors = fold_tensors(training_spec(settings), {name: tensor.numpy() for name, tensor in state.items()})
    _compare(settings, state, tensors)
    path = run / "splits.json"
    split = read_splits(path)[0]
    facts = {**facts, "cases": len(split["train"]), "validated_on": len(split["val"]), "split": read_rule(path)}
    provenance = Provenance((source, *sources(run)), settings, about["epochs"], facts, more)
    provenance.to_record()  # what cannot be told is found before scans are read
    return Folded(settings, tensors, None, provenance, path.read_bytes())


def _compare(settings: Settings, state: Mapping[str, torch.Tensor], tensors: Mapping[str, np.ndarray]) -> None:
    """Hold the runtime with the folded tensors to PyTorch: probabilities of random images within 1e-4."""
    spec = training_spec(settings)
    network = Network(spec).eval()
    network.load_state_dict(state)
    shape = (2, spec.in_channels, settings.preprocess.size, settings.preprocess.size)
    images = np.random.default_rng(0).random(shape, np.float32)
    with torch.no_grad():
        reference = network(torch.from_numpy(images)).numpy()
    difference = float(np.abs(Engine(fold_batchnorm(spec), tensors).run(images) - reference).max())
    if not difference <= 1e-4:
        raise ModelError(f"the runtime's probabilities differ from PyTorch's by {difference:.2g}, more than 1e-4")
