"""Make tests/nnunet_models anew with nnU-Net itself: small models of random weights, random images, and what nnU-Net makes of them.

Run where nnU-Net is installed (pip install nnunetv2; 2.8.1 made what is committed): python tests/nnunet_reference.py tests/nnunet_models
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "."), nnUNet_def_n_proc="1", nnUNet_compile="f")

import nibabel
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from scipy.ndimage import gaussian_filter

CONVOLUTION = {
    "conv_op": "torch.nn.modules.conv.Conv2d", "conv_bias": True, "dropout_op": None, "dropout_op_kwargs": None,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "middle": 3}
HU = {"mean": 40.0, "std": 100.0, "percentile_00_5": -150.0, "percentile_99_5": 250.0}
# Of each variant: shape (x, y, z) and spacing of its images, and what differs from the first.
VARIANTS = {
    "tiles": {"shape": (45, 38, 4), "spacing": (0.9, 0.7, 2.5)},
    "residual": {"shape": (20, 33, 3), "spacing": (1.3, 1, 1), "residual": True},
    "regions": {"shape": (30, 22, 3), "spacing": (1, 1, 4), "labels": REGIONS, "order": [1, 2, 3]},
    "channels": {"shape": (31, 26, 5), "spacing": (0.8, 1.1, 1.2), "channels": 2, "masked": True, "margin": (4, 3, 1)},
    "folds": {"shape": (26, 26, 3), "spacing": (1, 0.8, 1), "folds": 2, "labels": {**LABELS, "ignore": 3}},
    "ct": {"shape": (4, 30, 34), "spacing": (3.5, 0.9, 1.1), "transpose": [2, 0, 1], "scheme": "CTNormalization", "margin": (0, 2, 3)},
    "oblong": {"shape": (8, 40, 3), "spacing": (4, 1, 1), "scheme": "RescaleTo01Normalization"},
    "turned": {"shape": (24, 20, 3), "spacing": (1.1, 0.9, 3.4), "reader": "NibabelIOWithReorient", "flips": (-1, 1, -1)},
}  # fmt: skip


def architecture(residual):
    network = {
        "n_stages": 3, "features_per_stage": [4, 6, 10], "kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 1]], **CONVOLUTION,
        "n_conv_per_stage_decoder": [1, 1],
    } | ({"n_blocks_per_stage": [1, 2, 1]} if residual else {"n_conv_per_stage": [1, 2, 1]})  # fmt: skip
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {"network_class_name": f"dynamic_network_architectures.architectures.unet.{name}", "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}  # fmt: skip


def write_model(folder, given):
    """A folder as nnU-Net's trainer leaves it, with random weights."""
    channels, labels = given.get("channels", 1), given.get("labels", LABELS)
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    name, forward = "resample_data_or_seg_to_shape", given.get("transpose", [0, 1, 2])
    plan = {
        "data_identifier": "2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [24, 20],
        "median_image_size_in_voxels": [24, 20], "spacing": [1.0, 0.9],
        "normalization_schemes": [given.get("scheme", "ZScoreNormalization")] * channels,
        "use_mask_for_norm": [given.get("masked", False)] * channels, "batch_dice": True,
        "resampling_fn_data": name, "resampling_fn_seg": name, "resampling_fn_probabilities": name,
        "resampling_fn_data_kwargs": {**resampling, "order": 3}, "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1}, "architecture": architecture(given.get("residual", False)),
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset001_Random", "plans_name": "nnUNetPlans", "image_reader_writer": given.get("reader", "SimpleITKIO"),
        "transpose_forward": forward, "transpose_backward": [int(i) for i in np.argsort(forward)], "configurations": {"2d": plan},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): HU for c in range(channels)},
    }  # fmt: skip
    dataset = {
        "channel_names": {str(c): f"image {c}" for c in range(channels)},
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
    if "order" in given:
        dataset["regions_class_order"] = given["order"]
    for fold in range(given.get("folds", 1)):
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.manual_seed(fold)
        kind = plan["architecture"]
        heads = len(labels) - ("order" in given) - ("ignore" in labels)
        network = get_network_from_plans(kind["network_class_name"], kind["arch_kwargs"], kind["_kw_requires_import"], channels, heads)
        with torch.no_grad():
            for name, tensor in network.named_parameters():
                if "norm" in name or "all_modules.1" in name:
                    tensor += 0.3 * torch.randn_like(tensor)
                elif "seg_layers" in name:
                    tensor *= 8 if name.endswith("weight") else 0
        torch.save({"network_weights": network.state_dict(), "init_args": {"configuration": "2d"}, "trainer_name": "nnUNetTrainer",
                    "inference_allowed_mirroring_axes": (0, 1)}, folder / f"fold_{fold}" / "checkpoint_final.pth")  # fmt: skip
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))


def write_images(folder, given):
    """Blurred noise, with a margin of zeros and a hole of them where a variant says so; as many files as channels."""
    folder.mkdir(parents=True)
    random, files = np.random.default_rng(0), []
    affine = np.diag([*np.multiply(given["spacing"], given.get("flips", (1, 1, 1))), 1])
    for channel in range(given.get("channels", 1)):
        noise = gaussian_filter(random.standard_normal(given["shape"]), 1.5, mode="wrap")
        voxels = np.round(noise / noise.std() * 100 + 40).astype(np.int16)
        if "margin" in given:
            x, y, z = given["margin"]
            empty = np.ones(given["shape"], bool)
            empty[x : -x or None, y : -y - 1, z : -z or None] = False
            middle = tuple(side // 2 for side in given["shape"])
            voxels[empty], voxels[middle] = 0, 0
        image = nibabel.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units("mm")
        files.append(str(folder / f"case_{channel:04}.nii.gz"))
        nibabel.save(image, files[-1])
    return files


def main(out):
    torch.set_num_threads(1)
    for name, given in VARIANTS.items():
        folder = out / name
        write_model(folder / "model", given)
        files = write_images(folder / "images", given)
        for mirrored in (False, True):
            predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), perform_everything_on_device=False)
            predictor.initialize_from_trained_model_folder(str(folder / "model"), tuple(range(given.get("folds", 1))))
            target = str(folder / ("mirrored" if mirrored else "expected"))
            predictor.predict_from_files_sequential([files], [target], save_probabilities=not mirrored, overwrite=True)
        stored = np.load(folder / "expected.npz")["probabilities"]
        np.savez_compressed(folder / "expected.npz", probabilities=np.round(stored * 65535).astype(np.uint16))  # 1.5e-5 at most
        for name in ("expected.pkl", "dataset.json", "plans.json", "predict_from_raw_data_args.json"):
            (folder / name).unlink()
        mask = np.asarray(nibabel.load(folder / "expected.nii.gz").dataobj)
        print(folder.name, np.bincount(mask.ravel()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
