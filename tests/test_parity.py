"""The exporter writes nothing that the runtime would answer otherwise than PyTorch: BatchNorm folded by its formula, held to 1e-4."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import RECORD, settings

from monet_edge.engine import Engine
from monet_edge.errors import ModelError
from monet_train import fold
from monet_train.config import training_spec
from monet_train.network import Network


def trained_as(net):
    """Settings of a network, and a state dict whose BatchNorms have seen something."""
    generator = torch.manual_seed(0)
    found = replace(settings(), net=net, preprocess=replace(RECORD, size=16))
    state = Network(training_spec(found)).state_dict()
    for name, tensor in state.items():
        if ".bn." in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return found, state


@pytest.fixture
def trained(tiny):
    return trained_as(tiny)


def tensors_of(found, state):
    return fold.fold_tensors(training_spec(found), {name: tensor.numpy() for name, tensor in state.items()})


@pytest.mark.parametrize(("net", "kinds"), [("tiny", {"conv", "deconv"}), ("unet-16", {"affine"})])
def test_a_batch_norm_is_folded_by_its_formula(tiny, net, kinds):
    found, state = trained_as(net)
    folded = tensors_of(found, state)
    met = set()
    for op in (op for op in training_spec(found).ops if "bn" in op.attrs):
        part = {name: state[f"{op.name}.bn.{name}"].double().numpy() for name in ("weight", "bias", "running_mean", "running_var")}
        scale = part["weight"] / np.sqrt(part["running_var"] + op["bn"]["eps"])
        met.add(op.kind)
        if op.kind == "affine":
            np.testing.assert_allclose(folded[f"{op.name}.scale"], scale, rtol=1e-6)
            np.testing.assert_allclose(folded[f"{op.name}.shift"], part["bias"] - part["running_mean"] * scale, rtol=1e-5, atol=1e-6)
            continue
        out = 0 if op.kind == "conv" else 1
        weight = np.moveaxis(state[f"{op.name}.weight"].double().numpy(), out, -1) * scale
        np.testing.assert_allclose(np.moveaxis(folded[f"{op.name}.weight"], out, -1), weight, rtol=1e-6, atol=1e-9)
        before = state[f"{op.name}.bias"].double().numpy() if f"{op.name}.bias" in state else 0
        np.testing.assert_allclose(folded[f"{op.name}.bias"], part["bias"] + (before - part["running_mean"]) * scale, rtol=1e-5, atol=1e-6)
    assert met == kinds


def test_what_was_folded_right_is_accepted(trained, monkeypatch):
    """Having been compared: the engine ran once, and what it said is no constant, which any network would match."""
    found, state = trained
    said, run = [], Engine.run

    def listen(self, images):
        said.append(run(self, images))
        return said[-1]

    monkeypatch.setattr(Engine, "run", listen)
    fold._compare(found, state, tensors_of(found, state))
    (probability,) = said
    assert probability.shape == (2, 1, 16, 16)
    assert probability.std() > 0.01


@pytest.mark.parametrize(("difference", "accepted"), [(0.9e-4, True), (-0.9e-4, True), (1.1e-4, False), (-1.1e-4, False), (np.nan, False)])
def test_a_probability_off_by_more_than_1e_4_is_refused(trained, monkeypatch, difference, accepted):
    """One probability of all; PyTorch's own in the place of the runtime's, but for that."""
    found, state = trained
    network = Network(training_spec(found)).eval()
    network.load_state_dict(state)

    def run(self, images):
        with torch.no_grad():
            probability = network(torch.from_numpy(images)).numpy()
        probability[-1, 0, 3, 4] += difference
        return probability

    monkeypatch.setattr(Engine, "run", run)
    if accepted:
        fold._compare(found, state, tensors_of(found, state))
    else:
        with pytest.raises(ModelError, match="more than 1e-4"):
            fold._compare(found, state, tensors_of(found, state))


def test_a_network_folded_wrong_is_refused(trained):
    found, state = trained
    tensors = tensors_of(found, state)
    name = next(name for name in tensors if name.endswith(".bias"))
    tensors[name] = tensors[name] + np.float32(0.05)
    with pytest.raises(ModelError, match="more than 1e-4"):
        fold._compare(found, state, tensors)
