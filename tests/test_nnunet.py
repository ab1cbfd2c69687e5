"""nnU-Net's 2-D networks: as PyTorch calculates them, from its folders, with nothing of a checkpoint run."""

import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GENUINE, needs_genuine, random_tensors, tiny_nnunet

from monet_edge.engine import Engine
from monet_edge.errors import ModelError, SpecError
from monet_edge.nnunet import plain_conv_unet, residual_encoder_unet
from monet_edge.spec import infer_shapes, multiples, tensor_shapes
from monet_train.nnunet import read_model

KWARGS = {
    "n_stages": 3, "features_per_stage": [8, 20, 20], "kernel_sizes": [[3, 3], [3, 3], [1, 3]], "strides": [[1, 1], [2, 2], [2, 1]],
    "conv_op": "torch.nn.modules.conv.Conv2d", "conv_bias": True, "dropout_op": None, "dropout_op_kwargs": None,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
PLAIN = {"n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 1]}
RESIDUAL = {"n_blocks_per_stage": [1, 2, 1], "n_conv_per_stage_decoder": [1, 1]}


class Reference:
    """The two networks by their description, from a state dict with nnU-Net's names; knows nothing of Specs."""

    def __init__(self, state, strides):
        self.state, self.strides = state, strides

    def count(self, prefix):
        return len({name.removeprefix(prefix).split(".")[0] for name in self.state if name.startswith(prefix)})

    def unit(self, name, x, stride=1, activated=True):
        weight = self.state[f"{name}.conv.weight"]
        padding = [(side - 1) // 2 for side in weight.shape[2:]]
        x = F.conv2d(x, weight, self.state.get(f"{name}.conv.bias"), stride, padding)
        x = F.instance_norm(x, weight=self.state[f"{name}.norm.weight"], bias=self.state[f"{name}.norm.bias"], eps=1e-5)
        return F.leaky_relu(x, 0.01) if activated else x

    def stack(self, name, x, stride=1):
        for number in range(self.count(f"{name}.convs.")):
            x = self.unit(f"{name}.convs.{number}", x, stride if number == 0 else 1)
        return x

    def block(self, name, x, stride):
        skip = F.avg_pool2d(x, stride, stride) if max(stride) > 1 else x
        place = 1 if max(stride) > 1 else 0
        if f"{name}.skip.{place}.conv.weight" in self.state:
            skip = self.unit(f"{name}.skip.{place}", skip, activated=False)
        x = self.unit(f"{name}.conv2", self.unit(f"{name}.conv1", x, stride), activated=False)
        return F.leaky_relu(x + skip, 0.01)

    def __call__(self, x):
        skips, residual = [], "encoder.stem.convs.0.conv.weight" in self.state
        if residual:
            x = self.unit("encoder.stem.convs.0", x)
        for stage, stride in enumerate(self.strides):
            if residual:
                for block in range(self.count(f"encoder.stages.{stage}.blocks.")):
                    x = self.block(f"encoder.stages.{stage}.blocks.{block}", x, stride if block == 0 else (1, 1))
            else:
                x = self.stack(f"encoder.stages.{stage}.0", x, stride)
            skips.append(x)
        last = len(self.strides) - 2
        for number in range(last + 1):
            name = f"decoder.transpconvs.{number}"
            up = F.conv_transpose2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), self.strides[-1 - number])
            x = self.stack(f"decoder.stages.{number}", torch.cat([up, skips[-2 - number]], 1))
        return F.conv2d(x, self.state[f"decoder.seg_layers.{last}.weight"], self.state[f"decoder.seg_layers.{last}.bias"])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_a_network_is_what_pytorch_calculates_by_its_description(residual, bias):
    shared = {"features_per_stage": [8, 16, 16, 40], "kernel_sizes": [3, [3, 3], [3, 1], 3], "strides": [1, [2, 2], [1, 2], [2, 2]]}
    if residual:
        spec = residual_encoder_unet(2, 3, **shared, n_blocks_per_stage=[1, 3, 2, 1], n_conv_per_stage_decoder=[1, 2, 1], conv_bias=bias)
    else:
        spec = plain_conv_unet(2, 3, **shared, n_conv_per_stage=[2, 1, 2, 3], n_conv_per_stage_decoder=[1, 2, 2], conv_bias=bias)
    assert multiples(spec) == (4, 8)
    assert infer_shapes(spec, 24, 32)[spec.output] == (3, 24, 32)
    tensors = random_tensors(spec)
    image = np.random.default_rng(0).standard_normal((2, 24, 32)).astype(np.float32)
    state = {name: torch.from_numpy(tensor).double() for name, tensor in tensors.items()}
    reference = Reference(state, [(1, 1), (2, 2), (1, 2), (2, 2)])(torch.from_numpy(image)[None].double())[0].numpy()
    computed = Engine(spec, tensors).run(image[None])[0]
    assert np.abs(computed - reference).max() <= 1e-5 * max(1, np.abs(reference).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [1, 2]}, "strides must have a number for each of 3 stages"),
        ({"n_conv_per_stage": [1]}, "n_conv_per_stage must have"),
        ({"n_conv_per_stage_decoder": [1, 1, 1]}, "a number for each of 2 stages"),
        ({"kernel_sizes": [3, 3, [3, 3, 3]]}, "two sides"),
        ({"n_conv_per_stage": [10**9, 1, 1]}, "at most 3000 ops"),
    ],
)
def test_numbers_that_are_no_network_are_refused(change, message):
    kwargs = {"features_per_stage": [8, 8, 8], "kernel_sizes": [3, 3, 3], "strides": [1, 2, 2], **PLAIN, **change}
    with pytest.raises(SpecError, match=message):
        plain_conv_unet(1, 2, **kwargs)


def state_of(spec, tensors):
    """As nnU-Net saves it: every tensor under all its names, and the heads of deep supervision."""
    state = {}
    for name, tensor in tensors.items():
        tensor = torch.from_numpy(tensor)
        names = [name, name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")]
        names += [f"decoder.{each}" for each in names if each.startswith("encoder.")]
        state |= dict.fromkeys(names, tensor)
    return state | {"decoder.seg_layers.0.weight": torch.zeros(3, 20, 1, 1), "decoder.seg_layers.0.bias": torch.zeros(3)}


def write_folder(folder, residual=False, kwargs=None, **checkpoint):
    """A model folder as nnU-Net leaves it; returns its tensors."""
    spec = tiny_nnunet(residual)
    tensors = random_tensors(spec)
    own = KWARGS | (RESIDUAL if residual else PLAIN) | (kwargs or {})
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    network = {"network_class_name": f"dynamic_network_architectures.architectures.unet.{name}", "arch_kwargs": own}
    plans = {
        "configurations": {"2d": {"architecture": network, "patch_size": [8, 8]}, "2d_more": {"inherits_from": "2d", "patch_size": [16, 8]}}
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}})
    )
    log = {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch": np.int64(3)}
    content = {"network_weights": state_of(spec, tensors), "optimizer_state": None, "logging": log, "_best_ema": np.float64(0.5),
               "init_args": {"configuration": "2d_more", "device": torch.device("cuda")}, "trainer_name": "nnUNetTrainer",
               "inference_allowed_mirroring_axes": (0, 1)}  # fmt: skip
    torch.save(content | checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return tensors


@pytest.mark.parametrize("residual", [False, True])
def test_a_folder_becomes_a_spec_and_its_tensors(tmp_path, residual):
    tensors = write_folder(tmp_path / "model", residual)
    found = read_model(tmp_path / "model")
    assert found.spec == tiny_nnunet(residual)
    assert found.tensors.keys() == tensor_shapes(found.spec).keys()
    assert all(np.array_equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert (found.trainer, found.mirror_axes, found.configuration["patch_size"]) == ("nnUNetTrainer", (0, 1), [16, 8])


def test_plans_that_spell_out_the_network_are_read_too(tmp_path):
    write_folder(tmp_path)
    old = {"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 8, "unet_max_num_features": 20,
           "n_conv_per_stage_encoder": PLAIN["n_conv_per_stage"], "n_conv_per_stage_decoder": PLAIN["n_conv_per_stage_decoder"],
           "pool_op_kernel_sizes": KWARGS["strides"], "conv_kernel_sizes": KWARGS["kernel_sizes"]}  # fmt: skip
    (tmp_path / "plans.json").write_text(json.dumps({"configurations": {"2d_more": old}}))
    spec = tiny_nnunet(residual=False, features=[8, 16, 20])
    path = tmp_path / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"network_weights": state_of(spec, random_tensors(spec))}, path)
    assert read_model(tmp_path).spec == spec


@pytest.mark.parametrize(
    ("labels", "heads"), [({"background": 0, "whole": [1, 2], "core": [2]}, 2), ({"background": 0, "a": 1, "ignore": 2}, 2)]
)
def test_regions_have_no_background_and_what_is_ignored_no_head(tmp_path, labels, heads):
    write_folder(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": labels}))
    with pytest.raises(ModelError, match=rf"seg_layers.1.weight has shape \(3, 8, 1, 1\), the network of plans.json has \({heads}, 8"):
        read_model(tmp_path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("overlooked", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch, overlooked):
    """Also where the list of what it asks for were not complete."""
    write_folder(tmp_path / "model", logging=Evil(tmp_path / "ran"))
    if overlooked:
        monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda path: [])
    message = "is no checkpoint" if overlooked else r"refused, nothing of it was run: it asks for (posix|nt)\.mkdir"
    with pytest.raises(ModelError, match=message) as raised:
        read_model(tmp_path / "model")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"conv_op": "torch.nn.modules.conv.Conv3d"}, "conv_op is torch.nn.modules.conv.Conv3d, only Conv2d"),
        ({"norm_op": "torch.nn.BatchNorm2d"}, "only InstanceNorm2d"),
        ({"nonlin": "torch.nn.ReLU"}, "only LeakyReLU"),
        ({"norm_op_kwargs": {"affine": False}}, "only affine"),
        ({"nonlin_first": True}, "has nonlin_first"),
        ({"squeeze_excitation": True}, "has squeeze_excitation"),
        ({"n_stages": 10**9}, "n_stages must be 1 to 20"),
        ({"strides": [[1, 1], [2, 2]]}, "strides must have a number for each of 3"),
        ({"strides": "abc"}, "plans.json|holds no model"),
        ({"features_per_stage": [8, 16, 16]}, r"has shape \(20, 8, 3, 3\), the network of plans.json has \(16"),
        ({"n_conv_per_stage": [2, 2, 3]}, "lacks encoder.stages.2.0.convs.2.conv.weight"),
        ({"n_conv_per_stage": [2, 2, 1]}, "holds encoder.stages.2.0.convs.1.conv.weight, for which"),
    ],
)
def test_another_network_is_refused_in_one_line(tmp_path, kwargs, message):
    write_folder(tmp_path, kwargs=kwargs)
    with pytest.raises(ModelError, match=message) as raised:
        read_model(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\x80\x02}q\x00."])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, change):
    write_folder(tmp_path)
    path = tmp_path / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match="is no checkpoint") as raised:
        read_model(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"plans.json cannot be read"):
        read_model(tmp_path)
    write_folder(tmp_path / "model")
    (tmp_path / "model" / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(ModelError, match="does not exist; expected a model folder"):
        read_model(tmp_path / "model")
    (tmp_path / "model" / "plans.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        read_model(tmp_path / "model")


@needs_genuine
@pytest.mark.parametrize("case", ["hippo_a", "hippo_b", "hippo_c", "hippo_d"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_tile_of_a_genuine_model_is_what_nnunet_makes_of_it(case, threads):
    model = read_model(GENUINE / "model")
    stored = np.load(GENUINE / "intermediate" / f"{case}.npz")
    computed, reference = Engine(model.spec, model.tensors, threads).run(stored["net_input"]), stored["net_output"]
    assert np.abs(computed - reference).max() <= 2e-5 * max(1, np.abs(reference).max())  # measured: 1.3e-6
