"""The mean of several runs in one file: of all their weights, of what they were started from, and of runs that are alike only."""

import json
import shutil
from dataclasses import replace

import heads
import numpy as np
import pytest
from conftest import random_tensors
from synthetic import settings, write_dataset
from typer.testing import CliRunner

from monet_edge import weights
from monet_edge.architectures import monet
from monet_edge.errors import DatasetError, ModelError
from monet_edge.spec import fold_batchnorm
from monet_train.cli import app
from monet_train.dataset import read
from monet_train.export import export, release
from monet_train.fold import fold_run
from monet_train.prepare import prepare
from monet_train.provenance import Source
from monet_train.synth.origin import Origin, fold
from monet_train.synth.train import RECIPE, make_record, make_settings
from monet_train.synth.train import fit as fit_synth
from monet_train.train import fit
from monet_train.transfer import Transfer

PART = {"train": ["case_000", "case_001"], "val": ["case_002"]}
SHORT = settings(epoch_steps=2, dropout=0.0)
OURS = Source("ours", "", "CC0", "MRI")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of other seeds, the second from a file with a licence, and their data set."""
    folder = tmp_path_factory.mktemp("runs")
    spec = fold_batchnorm(monet(1, 1))
    weights.save(folder / "base.safetensors", spec, random_tensors(spec), SHORT.preprocess, {"licence": "CC BY-NC 4.0", "modality": "MRI"})
    ready = prepare(read(write_dataset(folder / "phantom")), folder / "prepared")
    for seed, start in enumerate((None, Transfer(weights.load(folder / "base.safetensors")), None)):
        fit(replace(SHORT, seed=seed), ready, PART, folder / f"run{seed}", device="cpu", transfer=start)
    return folder


def folded(*folders):
    return fold_run(folders[0], OURS, {}, {}, folders[1:])


def test_every_tensor_is_the_mean(runs):
    folders = [runs / f"run{seed}" for seed in range(3)]
    each, comp = [folded(folder).tensors for folder in folders], folded(*folders).tensors
    assert [*comp] == [*each[0]]
    for name, tensor in comp.items():
        ref = sum(part[name].astype(np.float64) for part in each) / 3
        np.testing.assert_allclose(tensor, ref, rtol=1e-6, atol=1e-7)
        assert tensor.dtype == np.float32
    assert max(np.abs(comp[name] - tensor).max() for name, tensor in each[0].items()) > 1e-3  # or that shows nothing


def test_one_run_alone_is_as_it_was(runs):
    alone, twice = folded(runs / "run0"), folded(runs / "run0", runs / "run0")
    assert "mean_of" not in alone.provenance.training
    for name, tensor in alone.tensors.items():
        assert np.array_equal(twice.tensors[name], tensor)


def test_what_every_run_started_from_is_told_with_its_licence(runs):
    about = folded(runs / "run0", runs / "run1", runs / "run2").provenance.to_record()
    assert about["training"]["mean_of"] == [
        {"seed": 0, "epochs": 2, "from": ""},
        {"seed": 1, "epochs": 2, "from": "base"},
        {"seed": 2, "epochs": 2, "from": ""},
    ]
    assert about["licence"] == "CC0; CC BY-NC 4.0"
    assert about["data"]["name"] == "ours; weights base"


def test_the_card_says_of_how_many(runs):
    words = ["export", "run0", "phantom", "-o", "mean.safetensors", "--mean-with", "run1", "--mean-with", "run2", "--quiet"]
    words = [str(runs / word) if word.startswith(("run", "phantom", "mean.")) else word for word in words]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    comp, ref = weights.load(runs / "mean.safetensors"), folded(*(runs / f"run{seed}" for seed in range(3)))
    for name, tensor in comp.tensors.items():
        assert np.array_equal(tensor, ref.tensors[name])
    text = (runs / "mean.md").read_text(encoding="utf-8")
    assert "2 epochs, seed 0; the mean of 3 such runs, with seeds 0, 1, 2:" in text
    assert comp.provenance["licence"].endswith("CC BY-NC 4.0")


@pytest.mark.parametrize("what", ["network", "labels or preprocessing", "split"])
def test_runs_that_are_not_alike_have_no_mean(runs, tmp_path, what):
    other = tmp_path / "other"
    shutil.copytree(runs / "run1", other)
    path = other / ("splits.json" if what == "split" else "config.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    if what == "split":
        found[0] = {"train": found[0]["val"], "val": found[0]["train"]}
    elif what == "network":
        found["net"] = "unet-16"
    else:
        found["preprocess"]["high"] += 1
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(ModelError, match=f"other: its {what} differs from that of .*run0, their mean would mean nothing"):
        folded(runs / "run0", other)


def test_an_unfinished_run_has_no_mean(runs, tmp_path):
    shutil.copytree(runs / "run1", tmp_path / "other", ignore=shutil.ignore_patterns("final.safetensors"))
    with pytest.raises(ModelError, match="other: this run is not finished"):
        folded(runs / "run0", tmp_path / "other")


def test_a_run_on_other_scans_is_not_exported_with_this_one(runs, tmp_path):
    """Of the same names: what validates here may have trained there."""
    folder = write_dataset(tmp_path / "phantom", 4)
    for part in ("imagesTr", "labelsTr"):
        shutil.copy(folder / part / "case_003.nii.gz", folder / part / "case_000.nii.gz")
    ready = prepare(read(folder), tmp_path / "prepared")
    fit(SHORT, ready, PART, tmp_path / "run", device="cpu")
    with pytest.raises(DatasetError, match=f"is not what {tmp_path / 'run'} was trained on"):
        release(runs / "run0", read(runs / "phantom"), tmp_path / "m.safetensors", means=[tmp_path / "run"])
    assert not list(tmp_path.glob("m.*"))
    export(runs / "run0", read(runs / "phantom"), tmp_path / "m.safetensors")


def test_generated_runs_have_a_mean_and_other_label_maps_have_none(tmp_path, tiny):
    recipe = replace(RECIPE, epochs=1, epoch_steps=1, batch=2, validate_every=1)
    maps = heads.label_maps()
    for seed, traced in enumerate((0.0, 1.0)):
        origin = Origin("heads", "none", "key", replace(heads.STILL, traced=traced))
        fit_synth(
            make_settings("heads", tiny, make_record(32, 1, False), recipe, seed), origin, maps, tmp_path / f"run{seed}", device="cpu"
        )
    about = fold(tmp_path / "run0", "", [tmp_path / "run1"]).provenance.to_record()
    assert [row["seed"] for row in about["training"]["mean_of"]] == [0, 1]
    assert about["generated"]["ranges"]["traced"] == 0
    assert [ranges["traced"] for ranges in about["generated"]["mean_with"]] == [1]
    path = tmp_path / "run1" / "synth.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "key": "another"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"run1: its label maps are not those of .*run0"):
        fold(tmp_path / "run0", "", [tmp_path / "run1"])
