"""From a model folder of nnU-Net's to one weights file: the network, its folds, the plans' way of a case as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge.errors import ModelError
from monet_edge.nnunet import side_by_side
from monet_edge.nnunet.networks import fold as fold_name
from monet_edge.nnunet.record import Channel, Record, Resampling
from monet_edge.weights import Weights, load, save

from .export import check_output
from .nnunet import Imported, count_channels, is_regions, read_model
from .provenance import stamp

# nnU-Net's reader and whether it turns images to right, anterior, superior
_READERS = {"SimpleITKIO": False, "NibabelIO": False, "SimpleITKIOWithReorient": True, "NibabelIOWithReorient": True}
_SCHEMES = {"ZScoreNormalization": "zscore", "CTNormalization": "ct", "NoNormalization": "none", "RescaleTo01Normalization": "rescale",
            "RGBTo01Normalization": "rgb"}  # fmt: skip
_RESAMPLING = "resample_data_or_seg_to_shape"


def find_folds(folder: Path) -> list[str]:
    """The trained folds of a model folder: those of the cross-validation or, where there is none, the one of all cases.

    Raises
    ------
    ModelError
        If there is none.
    """
    names = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob("fold_*/checkpoint_final.pth"))
    folds = [name for name in names if name.isdecimal()] or names
    if not folds:
        raise ModelError(f"{folder} holds no fold_*/checkpoint_final.pth; expected a model folder of nnU-Net's, with plans.json")
    return folds


def import_model(folder: Path, output: Path, folds: Sequence[str] = ()) -> Weights:
    """Write a model of nnU-Net's as a weights file.

    Parameters
    ----------
    folder : Path
        With ``plans.json``, ``dataset.json`` and ``fold_*/checkpoint_final.pth``.
    output : Path
        The .safetensors file.
    folds : sequence of str
        Of which logits are averaged. Default: all that are there.

    Returns
    -------
    Weights
        As loaded again from ``output``.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or says what is not known here: naming it.
    OutputError
        If ``output`` cannot be such a file.
    """
    check_output(output)
    chosen = list(folds) or find_folds(folder)
    models = [read_model(folder, fold) for fold in chosen]
    first = models[0]
    tensors: dict[str, np.ndarray] = {}
    for number, model in enumerate(models):
        tensors |= {fold_name(number, name) if len(models) > 1 else name: tensor for name, tensor in model.tensors.items()}
    try:
        record = make_record(first, len(models))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'plans.json'} is not as nnU-Net writes it: {type(error).__name__} {error}") from None
    save(output, side_by_side([model.spec for model in models]), tensors, record, _provenance(first, chosen))
    return load(output)


def make_record(model: Imported, folds: int) -> Record:
    """How a case goes through a model, from its plans.

    Raises
    ------
    ModelError
        If they ask for what is not known here.
    """
    plans, plan = model.plans, model.configuration
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in _READERS:
        raise ModelError(f"the model's images were read by {reader}; known are {', '.join(_READERS)}")
    preprocessor = plan.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor" or plan.get("previous_stage"):
        raise ModelError(f"the model's preprocessor is {preprocessor}{', a cascade' * bool(plan.get('previous_stage'))}; "
                         "only DefaultPreprocessor is known")  # fmt: skip
    if len(plan["spacing"]) != 2 or len(plan["patch_size"]) != 2:
        raise ModelError(f"the model's tiles are {plan['patch_size']}: only configuration 2d is known")
    names, regions = labels_of(model.dataset)
    return Record(
        channels=tuple(_channel(model, number) for number in range(count_channels(model.dataset))),
        labels=names,
        regions=regions,
        patch=(int(plan["patch_size"][0]), int(plan["patch_size"][1])),
        spacing=(float(plan["spacing"][0]), float(plan["spacing"][1])),
        transpose=tuple(plans["transpose_forward"]),
        reorient=_READERS[reader],
        mirror=tuple(sorted(model.mirror_axes)),
        folds=folds,
        image=_resampling(plan, "data", 3),
        logits=_resampling(plan, "probabilities", 1),
    )


def _channel(model: Imported, number: int) -> Channel:
    named = model.dataset.get("modality") or model.dataset["channel_names"]
    name, scheme = str(named[str(number)]), model.configuration["normalization_schemes"][number]
    if scheme not in _SCHEMES:
        raise ModelError(f"channel {name} is normalised by {scheme}; known are {', '.join(_SCHEMES)}")
    masked = bool(model.configuration["use_mask_for_norm"][number])
    if _SCHEMES[scheme] != "ct":
        return Channel(name=name, scheme=_SCHEMES[scheme], masked=masked and _SCHEMES[scheme] == "zscore")
    key = "foreground_intensity_properties_per_channel"
    found = model.plans.get(key) or model.plans["foreground_intensity_properties_by_modality"]
    low, high, mean, sd = (float(found[str(number)][each]) for each in ("percentile_00_5", "percentile_99_5", "mean", "std"))
    return Channel(name=name, scheme="ct", low=low, high=high, mean=mean, sd=sd)


def _resampling(plan: Mapping[str, Any], what: str, order: int) -> Resampling:
    name = plan.get(f"resampling_fn_{what}", _RESAMPLING)
    if name != _RESAMPLING:
        raise ModelError(f"the model resamples by {name}; only {_RESAMPLING} is known")
    found = {"order": order, "order_z": 0, "force_separate_z": None, **plan.get(f"resampling_fn_{what}_kwargs", {})}
    return Resampling(order=found["order"], order_z=found["order_z"], separate=found["force_separate_z"])


def labels_of(dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the labels 1, 2, ..., and of regions the label that each writes, in their order.

    Raises
    ------
    ModelError
        If the labels are not numbered from 0 on without a gap.
    """
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if is_regions(labels):
        written = [int(label) for label in dataset["regions_class_order"]]
        regions = [name for name, value in labels.items() if value not in (0, [0])]
        if len(regions) != len(written) or min(written) < 1:
            raise ModelError(f"dataset.json has regions {', '.join(regions)} and their regions_class_order {written}, one for each")
        last = dict(zip(written, regions, strict=True))  # the last region that writes a label is what is left of it
        return tuple(last.get(label, f"label {label}") for label in range(1, max(written) + 1)), tuple(written)
    numbers = {int(value[0] if isinstance(value, list) else value): name for name, value in labels.items()}
    if sorted(numbers) != list(range(len(labels))):
        raise ModelError(f"dataset.json numbers its labels {sorted(numbers)}; expected 0, 1, 2, ... without a gap")
    return tuple(numbers[label] for label in range(1, len(numbers))), ()


def _provenance(model: Imported, folds: Sequence[str]) -> dict[str, Any]:
    """What a file says of where it comes from. A model folder names no version: the form of its plans does."""
    since = "2.4 or later" if "architecture" in model.configuration else "2.0 to 2.3"
    names = [str(name) for name in (model.dataset.get("modality") or model.dataset["channel_names"]).values()]
    told = {key: model.plans.get(key, "") for key in ("dataset_name", "plans_name", "experiment_planner_used")}
    return stamp(
        {
            "modality": " and ".join(names),
            "licence": str(model.dataset.get("licence") or model.dataset.get("license") or ""),
            "made_by": f"nnU-Net {since}",
            "nnunet": {**told, "configuration": model.name, "trainer": model.trainer, "folds": list(folds)},
            "data": {"name": str(model.dataset.get("name") or told["dataset_name"]), "reference": str(model.dataset.get("reference", ""))},
        },
        packages=("torch",),
    )
