"""From a trained network to the portable weights file: BatchNorm folded in float64, held to PyTorch's output, measured, described."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from monet_edge import DISCLAIMER, __version__, fingerprint
from monet_edge.engine import Engine
from monet_edge.errors import ModelError, OutputError
from monet_edge.files import atomic_write
from monet_edge.spec import Spec, fold
from monet_edge.weights import Weights, load, save

from . import checkpoint
from .card import card, measuring
from .config import DEPTHS, Settings, training_spec
from .config_text import read_settings
from .data import strip
from .dataset import Case, Dataset, oriented, read_splits
from .dataset import load as load_case
from .evaluate import evaluate, make_model, summarise
from .network import Network


def fold_tensors(spec: Spec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge every BatchNorm into the tensors of `monet_edge.spec.fold(spec)`.

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


def export(run: Path, dataset: Dataset, output: Path, command: str = "", channel: int = 0) -> Weights:
    """Fold a finished run into a weights file, and write its splits beside it.

    Parameters
    ----------
    run : Path
        A run folder with its final weights.
    dataset : Dataset
        What it was trained on: the training part's appearance goes into the file, see `monet_edge.fingerprint`.
    output : Path
        The .safetensors file.
    command : str
        How it was trained, for the model card.
    channel : int
        Which one of a scan with several.

    Returns
    -------
    Weights
        As loaded again from ``output``.

    Raises
    ------
    OutputError
        If ``output`` cannot be such a file.
    DatasetError
        If the run was trained on other cases than this data set's.
    ModelError
        If the run has no final weights, or the runtime's probabilities differ from PyTorch's by more than 1e-4.
    """
    if output.suffix != ".safetensors" or not output.parent.is_dir():
        raise OutputError(f"{output}: expected a file that ends in .safetensors, in a folder that exists")
    settings = read_settings(run)
    if not (run / "final.safetensors").exists():
        raise ModelError(f"{run}: this run is not finished, it has no final.safetensors. Go on with monet-train fit ... --resume")
    state, about = checkpoint.load(run / "final.safetensors")
    spec = training_spec(settings)
    tensors = fold_tensors(spec, {name: tensor.numpy() for name, tensor in state.items()})
    _compare(settings, state, tensors)  # before anything is written
    split = read_splits(run / "splits.json")
    provenance = {
        "modality": dataset.modality,
        "licence": dataset.licence,
        "data": {"name": dataset.name, "reference": dataset.reference, "licence": dataset.licence},
        "training": {
            "command": command,
            "epochs": about["epochs"],
            "cases": len(split[0]["train"]),
            "validated_on": len(split[0]["val"]),
            "settings": asdict(settings),
        },
        "batchnorm_epsilon": sorted({op["bn"]["eps"] for op in spec.ops if "bn" in op.attrs}),
        "versions": {"monet-edge": __version__, "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
        "revision": _revision(),
        "use": DISCLAIMER,
    }
    looks = _fingerprint((load_case(dataset, name, channel) for name in split[0]["train"]), settings)
    save(output, fold(spec), tensors, settings.preprocess, provenance, looks)
    with atomic_write(output.with_suffix(".splits.json"), overwrite=True) as file:
        file.write(json.dumps(split, indent=1).encode())
    return load(output)


def release(
    run: Path,
    dataset: Dataset,
    output: Path,
    others: Sequence[Dataset] = (),
    notes: Sequence[str] = (),
    command: str = "",
    channel: int = 0,
    named: bool = False,
) -> Weights:
    """Export a run, measure it through the runtime, and write its card beside the file.

    Parameters
    ----------
    run, dataset, output, command, channel
        As for `export`; measured on the validation part of ``dataset``.
    others : sequence of Dataset
        Also measured on, all of each.
    notes : sequence of str
        What a reader of the card must know.
    named : bool
        Name the worst cases in the file and the card: a hospital's cases may be named after their patients.

    Returns
    -------
    Weights
        With what was measured in their provenance, as loaded again from ``output``.

    Raises
    ------
    MonetError
        As `export`, and if a case is not fit for use.
    """
    weights = export(run, dataset, output, command, channel)
    model, held = make_model(weights), read_splits(run / "splits.json")[0]["val"]
    measured = [(f"{dataset.name}, validation", dataset, held), *((other.name, other, list(other.pairs)) for other in others)]
    summaries = {heading: summarise(list(evaluate(model, found, names, channel=channel)), named) for heading, found, names in measured}
    # the first summary's Dice in short, for lists of models
    dice = " / ".join(f"{row['dice']['mean']:.2f}" for row in next(iter(summaries.values())).values())
    provenance = {**weights.provenance, "dice": dice, "metrics": summaries}
    save(output, weights.spec, weights.tensors, weights.preprocess, provenance, weights.fingerprint)
    weights = load(output)
    commands = [measuring(output, dataset.name, True, channel), *(measuring(output, other.name, False, channel) for other in others)]
    with atomic_write(output.with_suffix(".md"), overwrite=True) as file:
        file.write(card(weights, summaries, notes, commands).encode())
    return weights


def _fingerprint(cases: Iterable[Case], settings: Settings) -> fingerprint.Fingerprint | None:
    """How the training scans look, and how they look stripped where training strips them; None where they are too few to tell."""
    record, augmentation = settings.preprocess, settings.recipe.augmentation
    depths = []
    if augmentation.strip and record.intensity == "zscore":
        scale = fingerprint.SIDE / record.size
        depths = [min(DEPTHS - 1, round(depth * scale)) for depth in np.linspace(*augmentation.strip_depth, 3)]
    rows: list[list[np.ndarray]] = []
    for case in cases:
        case = oriented(case, record.slicing)
        slices = fingerprint.look(case.image, record, case.statistics, case.slope, case.inter)
        rows.append([fingerprint.features(slices), *(fingerprint.features(strip(slices, depth, record)) for depth in depths)])
    plain, *variants = np.stack(rows, axis=1)
    return fingerprint.learn(plain, variants)


def _revision() -> str:
    """The commit that this runs from, where it runs from a git checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return ""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _compare(settings: Settings, state: Mapping[str, torch.Tensor], tensors: Mapping[str, np.ndarray]) -> None:
    """Hold the runtime with the folded tensors to PyTorch: probabilities of random images within 1e-4."""
    spec = training_spec(settings)
    network = Network(spec).eval()
    network.load_state_dict(state)
    shape = (2, spec.in_channels, settings.preprocess.size, settings.preprocess.size)
    images = np.random.default_rng(0).random(shape, np.float32)
    with torch.no_grad():
        reference = network(torch.from_numpy(images)).numpy()
    difference = float(np.abs(Engine(fold(spec), tensors).run(images) - reference).max())
    if not difference <= 1e-4:
        raise ModelError(f"the runtime's probabilities differ from PyTorch's by {difference:.2g}, more than 1e-4")
