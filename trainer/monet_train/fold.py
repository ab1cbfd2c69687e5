"""A finished run, folded: BatchNorm merged in float64 into what is beside it, held to PyTorch's output, described.

Or the mean of several runs: networks that were fine-tuned from one lie so near to each other that the mean of their weights is a network,
and often a better one than each (Wortsman et al., "Model soups", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .transfer import read as read_transfer
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


def fold_run(run: Path, source: Source, facts: Mapping[str, Any], more: Mapping[str, Any], others: Sequence[Path] = ()) -> Folded:
    """Fold a finished run and hold it to PyTorch, whatever it was trained on; nothing is written.

    Parameters
    ----------
    run : Path
    source : Source
        What it was trained on.
    facts, more : mapping of str to JSON value
        For its `Provenance`: of the training, beside its cases and their split, and of the file.
    others : sequence of Path
        Runs of the same network, labels and split: the tensors are the mean of all.

    Returns
    -------
    Folded
        Without the appearance of training scans, which takes a data set.

    Raises
    ------
    ModelError
        As `export`, if a fact cannot be told, or if one of the others is another kind of run, naming what differs.
    """
    settings = finished(run)
    path = run / "splits.json"
    split = read_splits(path)[0]
    for other in others:
        _demand_alike(run, settings, split, other)
    parts = [_tensors(each) for each in (run, *others)]
    stacks = {name: np.stack([part[name] for part, _ in parts]) for name in parts[0][0]}
    tensors = {name: stack.mean(0, dtype=np.float64).astype(np.float32) for name, stack in stacks.items()}
    facts = {**facts, "cases": len(split["train"]), "validated_on": len(split["val"]), "split": read_rule(path)}
    if others:
        facts["mean_of"] = [_in_short(each, epochs) for each, (_, epochs) in zip((run, *others), parts, strict=True)]
    made_of = dict.fromkeys(each for folder in (run, *others) for each in sources(folder))
    provenance = Provenance((source, *made_of), settings, parts[0][1], facts, more)
    provenance.to_record()  # what cannot be told is found before scans are read
    return Folded(settings, tensors, None, provenance, path.read_bytes())


def _tensors(run: Path) -> tuple[dict[str, np.ndarray], int]:
    """A finished run's folded tensors, held to PyTorch, and for how many epochs it was trained."""
    settings = finished(run)
    state, about = checkpoint.load(run / checkpoint.FINAL)
    tensors = fold_tensors(training_spec(settings), {name: tensor.numpy() for name, tensor in state.items()})
    _compare(settings, state, tensors)
    return tensors, about["epochs"]


def _in_short(run: Path, epochs: int) -> dict[str, Any]:
    """What tells the runs of a mean apart."""
    start = read_transfer(run)
    return {"seed": read_settings(run).seed, "epochs": epochs, "from": start["name"] if start else ""}


def _demand_alike(run: Path, settings: Settings, split: Mapping[str, Sequence[str]], other: Path) -> None:
    """Refuse a mean of what is not alike: a ModelError."""
    theirs = finished(other)
    for what, here, there in (
        ("network", training_spec(settings), training_spec(theirs)),
        ("labels or preprocessing", settings.preprocess, theirs.preprocess),
        ("split", split, read_splits(other / "splits.json")[0]),
    ):
        if here != there:
            raise ModelError(f"{other}: its {what} differs from that of {run}, their mean would mean nothing. Name runs that are alike")


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
