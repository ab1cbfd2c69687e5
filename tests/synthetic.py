"""Synthetic heads as training data sets, in both dialects, and settings whose training takes a second."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import torch

from monet_edge import phantom
from monet_train.config import STRONG, Settings, make_preprocess

torch.set_num_threads(1)  # networks so small gain nothing from a second thread, and on a busy machine it is waited for

SHAPE = (8, 64, 64)
RECORD = make_preprocess(("lesion",), size=64, low=-2.0, high=4.0)


def write_dataset(folder, cases=3, dialect="decathlon", shape=SHAPE):
    """Phantoms in the genuine layout of the decathlon (4-D, listed, ._ files) or of nnU-Net (a file a channel, nothing listed)."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    names = [f"case_{seed:03d}" for seed in range(cases)]
    for seed, name in enumerate(names):
        image, mask = phantom.make(seed, shape)
        second = np.flip(image, 2)
        affine = phantom.to_image(image).affine
        if dialect == "decathlon":
            both = np.stack([array.transpose(2, 1, 0) for array in (image, second)], axis=-1)
            nibabel.save(nibabel.Nifti1Image(both, affine), folder / "imagesTr" / f"{name}.nii.gz")
            (folder / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"resource fork")
        else:
            for channel, array in enumerate((image, second)):
                nibabel.save(phantom.to_image(array), folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        nibabel.save(phantom.to_image(mask), folder / "labelsTr" / f"{name}.nii.gz")
    if dialect == "decathlon":
        about = {
            "name": "phantom",
            "licence": "none",
            "modality": {"0": "FLAIR", "1": "mirrored"},
            "labels": {"0": "background", "1": "lesion"},
            "numTraining": cases,
            "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        }
    else:
        about = {
            "channel_names": {"0": "FLAIR", "1": "mirrored"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def settings(**changes):
    recipe = replace(STRONG, batch=4, epochs=2, ema_decay=0.9, **changes)
    return Settings(dataset="phantom", net="monet", preprocess=RECORD, recipe=recipe, deterministic=True)
