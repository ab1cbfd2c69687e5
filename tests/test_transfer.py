"""A training may start from a weights file: it says what the file says, with a new head where labels differ, and the file is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_tensors
from synthetic import settings, write_dataset

from monet_edge import weights
from monet_edge.architectures import monet
from monet_edge.errors import ModelError, OutputError
from monet_edge.spec import fold_batchnorm
from monet_train import checkpoint, mix, transfer
from monet_train.config import training_spec
from monet_train.dataset import read
from monet_train.export import export
from monet_train.fold import fold_tensors
from monet_train.network import Network
from monet_train.prepare import prepare
from monet_train.train import fit
from monet_train.transfer import Transfer

PART = {"train": ["case_000", "case_001"], "val": ["case_002"]}
SHORT = settings(epoch_steps=2, dropout=0.0)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    spec = fold_batchnorm(monet(1, 1))
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    weights.save(path, spec, random_tensors(spec), SHORT.preprocess, {"licence": "CC BY-NC 4.0", "modality": "FLAIR"})
    return weights.load(path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return prepare(read(write_dataset(folder / "phantom")), folder / "prepared")


def named(*labels, **changes):
    return replace(SHORT, preprocess=replace(SHORT.preprocess, labels=labels, **changes))


def heads_apart(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(transfer.HEAD)}


def test_the_network_says_what_the_files_says(shipped):
    images = torch.rand(6, 1, 64, 64)
    network = Network(training_spec(SHORT))
    transfer.take_over(Transfer(shipped), SHORT, network, images)
    folded = Network(shipped.spec).eval()
    folded.load_state_dict({name: torch.tensor(tensor) for name, tensor in shipped.tensors.items()})
    with torch.no_grad():
        other, ref = torch.rand(2, 1, 64, 64), folded(images)
        assert torch.allclose(network.eval()(other), folded(other), atol=1e-4)
        assert torch.allclose(network.train()(images), ref, atol=0.02)  # normalised by the batch itself
        assert ref.std() > 0.05  # or that shows nothing


def test_other_labels_get_a_new_head(shipped):
    chosen = named("liver", "spleen")
    network = Network(training_spec(chosen))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if name.startswith(transfer.HEAD)}
    transfer.take_over(Transfer(shipped), chosen, network, torch.rand(4, 1, 64, 64))
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name.endswith("weight") and ".bn." not in name)
    folded = fold_tensors(training_spec(chosen), {name: tensor.numpy() for name, tensor in after.items()})
    for name, tensor in heads_apart(shipped.tensors).items():
        np.testing.assert_allclose(folded[name], tensor, rtol=1e-3, atol=1e-3)
    assert "a new head for liver, spleen" in Transfer(shipped).describe(chosen)
    assert "learning rate 0.003" in Transfer(shipped).describe(chosen)
    assert "head included" in Transfer(shipped).describe(SHORT)


def test_labels_in_another_order_keep_their_part_of_the_head(tmp_path):
    spec = fold_batchnorm(monet(1, 3))
    path = tmp_path / "organs.safetensors"
    weights.save(path, spec, random_tensors(spec), named("liver", "spleen").preprocess, {})
    organs = Transfer(weights.load(path))
    images, said = torch.rand(4, 1, 64, 64), []
    for labels in (("liver", "spleen"), ("spleen", "liver")):
        network = Network(training_spec(named(*labels)))
        transfer.take_over(organs, named(*labels), network, images)
        with torch.no_grad():
            said.append(network.eval()(images))
    assert torch.allclose(said[0][:, [0, 2, 1]], said[1], atol=1e-5)
    assert said[0][:, 1].sub(said[0][:, 2]).abs().max() > 0.01  # or that shows nothing
    assert organs.head_rows(named("left spleen", "right spleen", "liver")) == [0, 2, 2, 1]
    assert organs.head_rows(named("liver", "kidney")) is None
    assert organs.head_rows(named("liver")) is None


@pytest.mark.parametrize("chosen", [named("lesion", context=1), replace(SHORT, net="unet-16")], ids=["context", "net"])
def test_another_network_is_refused_by_its_first_layer_that_differs(shipped, tmp_path, chosen):
    with pytest.raises(ModelError, match=r"base \(monet\) is another network than this run's .*: \S+ is .* there, .* here"):
        transfer.check(Transfer(shipped), chosen, tmp_path)


def test_frozen_layers_stay_and_the_file_is_named(shipped, ready, tmp_path):
    lines = []
    run = tmp_path / "run"
    frozen = Transfer(shipped, frozen=True)
    network = fit(SHORT, ready, PART, run, device="cpu", transfer=frozen, announce=lines.append)
    folded = fold_tensors(network.spec, {name: tensor.numpy() for name, tensor in network.state_dict().items()})
    for name, tensor in heads_apart(shipped.tensors).items():
        np.testing.assert_allclose(folded[name], tensor, rtol=1e-3, atol=1e-3)
    assert any(not np.allclose(folded[name], tensor) for name, tensor in shipped.tensors.items() if name.startswith(transfer.HEAD))
    assert lines[0].startswith("starting from base, head included; all but the head frozen")
    told = export(run, read(ready.folder.parent / "phantom"), tmp_path / "m.safetensors").provenance
    assert told["licence"] == "none; CC BY-NC 4.0"
    assert told["data"]["name"] == "phantom; weights base"
    for other in (None, Transfer(shipped)):
        with pytest.raises(OutputError, match="was started from base, frozen"):
            fit(SHORT, ready, PART, run, device="cpu", resume=True, transfer=other)
    fit(SHORT, ready, PART, run, device="cpu", resume=True, transfer=frozen)


def folded_of(network):
    return fold_tensors(network.spec, {name: tensor.numpy() for name, tensor in network.state_dict().items()})


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_mixed_run_ends_between_its_start_and_what_it_learnt(shipped, ready, tmp_path, share):
    learnt, ended = (
        fit(SHORT, ready, PART, tmp_path / f"{mix}", device="cpu", transfer=Transfer(shipped, mix=mix)) for mix in (0.0, share)
    )
    after, comp = folded_of(learnt), folded_of(ended)
    for name, tensor in shipped.tensors.items():
        np.testing.assert_allclose(comp[name], share * tensor + (1 - share) * after[name], rtol=1e-5, atol=1e-5)
    assert max(np.abs(after[name] - tensor).max() for name, tensor in shipped.tensors.items()) > 1e-3  # or that shows nothing
    state, _ = checkpoint.load(tmp_path / f"{share}" / checkpoint.FINAL)
    assert all(torch.equal(state[name], tensor) for name, tensor in ended.state_dict().items())
    with pytest.raises(OutputError, match=f"was started from base, mix {share:g}"):
        fit(SHORT, ready, PART, tmp_path / f"{share}", device="cpu", resume=True, transfer=Transfer(shipped))


def test_sides_are_mixed_with_what_they_started_from(tmp_path):
    spec = fold_batchnorm(monet(1, 3))
    path = tmp_path / "organs.safetensors"
    weights.save(path, spec, random_tensors(spec), named("liver", "kidney").preprocess, {})
    organs = Transfer(weights.load(path), mix=0.75)
    chosen = named("left kidney", "right kidney", "liver")
    network = Network(training_spec(chosen))
    after, comp = folded_of(network), folded_of(mix.mixed(organs, chosen, network))
    for part in ("weight", "bias"):
        ref = 0.75 * organs.weights.tensors[f"head.{part}"][[0, 2, 2, 1]] + 0.25 * after[f"head.{part}"]
        np.testing.assert_allclose(comp[f"head.{part}"], ref, rtol=1e-5, atol=1e-6)


def test_a_new_head_cannot_be_mixed(shipped, tmp_path):
    with pytest.raises(ModelError, match=r"--mix 0\.5: base does not know all labels"):
        transfer.check(Transfer(shipped, mix=0.5), named("liver", "spleen"), tmp_path)


def test_a_run_of_before_did_not_mix(shipped, tmp_path):
    record = {name: value for name, value in Transfer(shipped).record().items() if name != "mix"}
    (tmp_path / transfer.FILE).write_text(json.dumps(record), encoding="utf-8")
    assert transfer.read(tmp_path) == Transfer(shipped).record()


def test_without_freeze_all_layers_learn(shipped, ready, tmp_path):
    network = fit(SHORT, ready, PART, tmp_path / "run", device="cpu", transfer=Transfer(shipped))
    folded = fold_tensors(network.spec, {name: tensor.numpy() for name, tensor in network.state_dict().items()})
    assert all(not np.array_equal(folded[name], tensor) for name, tensor in shipped.tensors.items() if name.endswith("weight"))
