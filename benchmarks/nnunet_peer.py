"""nnU-Net's own predictor on the CPU, and a model for it: of random weights, as its default planner would make it for 2-D images.

    python nnunet_peer.py make FOLDER PATCH
    python nnunet_peer.py predict FOLDER IMAGE MASK THREADS ROUNDS

A script: nothing of monet-edge is imported. The second prints the seconds of every round, and then the process's peak memory in bytes.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "."))

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

CLASSES = 4
CONV = {"conv_op": "torch.nn.Conv2d", "norm_op": "torch.nn.InstanceNorm2d", "nonlin": "torch.nn.LeakyReLU"}
RESAMPLE = "resample_data_or_seg_to_shape"


def make(folder: Path, patch: int) -> None:
    """A model folder: 32 features, doubled at every stage up to 512, down to 4x4 pixels."""
    stages = patch.bit_length() - 2
    network = {
        **CONV, "n_stages": stages, "features_per_stage": [min(32 << stage, 512) for stage in range(stages)],
        "kernel_sizes": [[3, 3]] * stages, "strides": [[1, 1], *[[2, 2]] * (stages - 1)], "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    kind = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    kwargs = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    plan = {
        "data_identifier": "2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [patch, patch],
        "median_image_size_in_voxels": [patch, patch], "spacing": [0.9, 0.9], "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False], "batch_dice": True,
        **{f"resampling_fn_{what}": RESAMPLE for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": {**kwargs, "order": 3}, "resampling_fn_seg_kwargs": {**kwargs, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**kwargs, "order": 1},
        "architecture": {"network_class_name": kind, "arch_kwargs": network, "_kw_requires_import": [*CONV, "dropout_op"]},
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset001_Random", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"2d": plan},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }  # fmt: skip
    labels = {"background": 0, **{f"label {i}": i for i in range(1, CLASSES)}}
    dataset = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.manual_seed(0)
    weights = get_network_from_plans(kind, network, [*CONV, "dropout_op"], 1, CLASSES).state_dict()
    checkpoint = {"network_weights": weights, "init_args": {"configuration": "2d"}, "trainer_name": "nnUNetTrainer",
                  "inference_allowed_mirroring_axes": (0, 1)}  # fmt: skip
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def predict(folder: Path, image: str, mask: str, threads: int, rounds: int) -> None:
    """From file to file, without mirroring; the model is loaded before."""
    torch.set_num_threads(threads)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    target, shown = mask.removesuffix(".nii.gz"), sys.stdout
    seconds = []
    for _ in range(rounds):
        sys.stdout = sys.stderr
        start = time.perf_counter()
        predictor.predict_from_files_sequential([[image]], [target], overwrite=True)
        seconds.append(time.perf_counter() - start)
        sys.stdout = shown
    print(json.dumps({"seconds": seconds, "peak": peak_memory()}))


def peak_memory() -> int:
    """Largest resident size of this process in bytes; rusage would count what its parent held before the start."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), sys.argv[3], sys.argv[4], *map(int, sys.argv[5:]))
