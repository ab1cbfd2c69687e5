"""Read a model that nnU-Net trained, configuration ``2d``: its network as a Spec, its tensors, its plans. nnU-Net is not needed.

A checkpoint is a pickle, which may name any function to be called. It is opened by PyTorch's ``weights_only`` reader, which makes
tensors and plain containers, and here the numbers of NumPy that nnU-Net's log consists of; one that asks for more is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from monet_edge.errors import ModelError, SpecError
from monet_edge.nnunet import plain_conv_unet, residual_encoder_unet
from monet_edge.spec import Spec, tensor_shapes

# NumPy 1 called its module numpy.core; of a number's type torch wants the class as well
_NUMBERS = [
    *((scalar, f"{module}.multiarray.scalar") for module in ("numpy._core", "numpy.core")),
    *(np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, np.dtypes.BoolDType),
]
_BUILDERS: dict[str, tuple[Callable[..., Spec], str]] = {
    "PlainConvUNet": (plain_conv_unet, "n_conv_per_stage"),
    "ResidualEncoderUNet": (residual_encoder_unet, "n_blocks_per_stage"),
}
MAX_STAGES = 20  # an image of a million pixels a side is one pixel by then
_COMMON = {"features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder"}
_CLASSES = {"conv_op": "Conv2d", "norm_op": "InstanceNorm2d", "nonlin": "LeakyReLU"}  # the only ones, whatever their module is called
_READ = _COMMON | _CLASSES.keys() | {"n_stages", "conv_bias", "norm_op_kwargs", "nonlin_kwargs"}
_WITHOUT_EFFECT = {"dropout_op", "dropout_op_kwargs", "deep_supervision"}  # where a network is used


@dataclass(frozen=True)
class Imported:
    """One fold of a model folder.

    Attributes
    ----------
    spec : Spec
        Its output is logits.
    tensors : dict of str to float32 array
        Exactly those of `monet_edge.spec.tensor_shapes`.
    plans, dataset : dict
        ``plans.json`` and ``dataset.json`` as they are.
    name : str
        Of the plans' configuration that was trained.
    configuration : dict
        That, with what it inherits.
    trainer : str
        Name of the trainer's class.
    mirror_axes : tuple of int
        Axes of an image, 0 for rows, along which it may be mirrored; empty if none.
    """

    spec: Spec
    tensors: Mapping[str, np.ndarray]
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    name: str
    configuration: Mapping[str, Any]
    trainer: str
    mirror_axes: tuple[int, ...]


def read_model(folder: Path, fold: str = "0") -> Imported:
    """Read ``plans.json``, ``dataset.json`` and ``fold_{fold}/checkpoint_final.pth`` of a model folder.

    Raises
    ------
    ModelError
        If a file is missing, damaged, asks for code to be run, or describes a network that is not of nnU-Net's 2-D ones.
    """
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint = read_checkpoint(path)
    try:
        name = checkpoint["init_args"]["configuration"]
        configuration = resolve(plans, name)
        spec = network(configuration, count_channels(dataset), count_heads(dataset))
    except SpecError as error:
        raise ModelError(f"{folder / 'plans.json'}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder} holds no model as nnU-Net writes it: {type(error).__name__} {error}") from None
    tensors = take_tensors(spec, checkpoint["network_weights"], path)
    axes = checkpoint.get("inference_allowed_mirroring_axes") or ()
    return Imported(spec, tensors, plans, dataset, name, configuration, str(checkpoint["trainer_name"]), tuple(axes))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; expected a model folder of nnU-Net's") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} must hold an object, found {type(found).__name__}")
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net's as PyTorch reads it without running anything; tensors stay in the file until they are used."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist; expected a model folder of nnU-Net's, with fold_0/checkpoint_final.pth")
    with torch.serialization.safe_globals(_NUMBERS):  # type: ignore[arg-type]
        try:
            foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            found = None if foreign else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a damaged one may raise whatever its bytes lead to
            reason = (str(error).splitlines() or [""])[0][:200]
            raise ModelError(f"{path} is no checkpoint that PyTorch reads: {reason}") from None
    if foreign:
        raise ModelError(f"{path} is refused, nothing of it was run: it asks for {', '.join(foreign[:5])}, which no weights need")
    needed = {"network_weights", "init_args", "trainer_name"}
    if not isinstance(found, dict) or not needed <= found.keys() or not isinstance(found["network_weights"], dict):
        raise ModelError(f"{path} is no checkpoint of nnU-Net's: expected {', '.join(sorted(needed))}")
    return found


def resolve(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans: what it inherits, overridden by its own."""
    chain: list[str] = []
    found: dict[str, Any] = {}
    at: str | None = name
    while at is not None:
        if at in chain or at not in plans["configurations"]:
            raise SpecError(f"configuration {at!r} {'inherits from itself' if at in chain else 'is not there'}")
        chain.append(at)
        found = {**plans["configurations"][at], **found}
        at = plans["configurations"][at].get("inherits_from")
    return found


def count_channels(dataset: Mapping[str, Any]) -> int:
    """Channels of the network's input."""
    return len(dataset.get("modality", dataset.get("channel_names", ())))


def count_heads(dataset: Mapping[str, Any]) -> int:
    """Channels of the network's output: labels with the background, or regions without it; ``ignore`` has none."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if is_regions(labels):
        return sum(value not in (0, [0]) for value in labels.values())
    return len(labels)


def is_regions(labels: Mapping[str, Any]) -> bool:
    """Whether labels stand for regions that may overlap: nnU-Net says so by a list of more than one."""
    return any(isinstance(value, list) and len(value) > 1 for value in labels.values())


def network(configuration: Mapping[str, Any], channels: int, heads: int) -> Spec:
    """The network of a configuration.

    Raises
    ------
    SpecError
        If it is none of nnU-Net's 2-D ones.
    """
    name, found = architecture(configuration)
    if name not in _BUILDERS:
        raise SpecError(f"the network is a {name}; known are {' and '.join(_BUILDERS)}")
    build, per_stage = _BUILDERS[name]
    for key, expected in _CLASSES.items():
        if str(found.get(key, expected)).rpartition(".")[2] != expected:
            raise SpecError(f"{key} is {found[key]}, only {expected} is known (configuration 2d)")
    unknown = sorted(key for key, value in found.items() if key not in {*_READ, *_WITHOUT_EFFECT, per_stage} and value)
    if unknown:
        raise SpecError(f"the network has {', '.join(unknown)}, which none of nnU-Net's own plans has")
    norm = found.get("norm_op_kwargs") or {}
    if norm.get("affine") is not True or norm.get("track_running_stats", False):
        raise SpecError(f"norm_op_kwargs are {norm}, only affine normalisation by the slice itself is known")
    stages = found["n_stages"]
    if type(stages) is not int or not 1 <= stages <= MAX_STAGES:
        raise SpecError(f"n_stages must be 1 to {MAX_STAGES}, found {stages!r}")
    numbers = {key: found[key] if isinstance(found[key], list) else [found[key]] * (stages - (key == "n_conv_per_stage_decoder"))
               for key in (*_COMMON, per_stage)}  # fmt: skip
    slope = (found.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    return build(channels, heads, **numbers, conv_bias=found.get("conv_bias", False), eps=float(norm.get("eps", 1e-5)), slope=float(slope))


def architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The network's class and what it is built with, also of plans from before nnU-Net 2.4, which spell it out."""
    if "architecture" in configuration:
        found = configuration["architecture"]
        return found["network_class_name"].rpartition(".")[2], found["arch_kwargs"]
    name, counts = configuration["UNet_class_name"], configuration["n_conv_per_stage_encoder"]
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return name, {
        "n_stages": len(counts),
        "features_per_stage": [min(base << stage, most) for stage in range(len(counts))],
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage": counts,
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    }


def take_tensors(spec: Spec, weights: Mapping[str, torch.Tensor], path: Path) -> dict[str, np.ndarray]:
    """The tensors that a Spec names, in float32.

    A checkpoint has each up to four times: as ``conv`` and ``norm`` and in ``all_modules``, and those of the encoder once more
    below ``decoder.encoder``. It also has the heads of deep supervision, which only training uses.
    """
    named = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    shapes = tensor_shapes(spec)
    for name, tensor in named.items():
        other = ".all_modules." in name or name.startswith(("decoder.encoder.", "decoder.seg_layers."))
        if name not in shapes and not other:
            raise ModelError(f"{path} holds {name}, for which the network of plans.json has no place")
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ModelError(f"{path}: {name} is no tensor of floating-point numbers")
    for name, shape in shapes.items():
        if name not in named:
            raise ModelError(f"{path} lacks {name}, which the network of plans.json has")
        if tuple(named[name].shape) != shape:
            raise ModelError(f"{path}: {name} has shape {tuple(named[name].shape)}, the network of plans.json has {shape}")
    return {name: named[name].detach().float().contiguous().numpy().copy() for name in shapes}
