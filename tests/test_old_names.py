"""Files that were written before settings were renamed are read as they are, and a run that they belong to goes on."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import settings

from monet_edge import weights
from monet_edge.errors import MonetError
from monet_train import checkpoint
from monet_train.config import PAPER, RECIPES, STRONG
from monet_train.config_text import OLD_NAMES, from_json, override, renamed
from monet_train.train import fit

ROOT = Path(__file__).parents[1]
NEW_NAMES = {new: old for old, new in OLD_NAMES.items()}
PART = {"train": ["case_000"], "val": ["case_001"]}


def with_old_names(record):
    """JSON values with every setting called as it was."""
    if isinstance(record, dict):
        return {NEW_NAMES.get(name, name): with_old_names(value) for name, value in record.items()}
    return [with_old_names(value) for value in record] if isinstance(record, list) else record


def committed():
    """Settings as they stand in a committed file of every kind."""
    yield "weights/hippocampus", weights.load("hippocampus").provenance["training"]["settings"]
    results = ROOT / "benchmarks" / "results"
    yield "results/*.safetensors", weights.load(str(results / "paper-monet-pancreas-ct.safetensors")).provenance["training"]["settings"]
    yield "results/paper-*.json", json.loads((results / "paper-monet-pancreas-ct.json").read_text(encoding="utf-8"))["settings"]
    yield "results/federated.json", json.loads(json.loads((results / "federated.json").read_text(encoding="utf-8"))["settings"])


@pytest.mark.parametrize(("name", "written"), list(committed()), ids=lambda given: given if isinstance(given, str) else "")
def test_a_committed_file_of_before_is_read(name, written):
    recipe, augmentation = written["recipe"], written["recipe"]["augmentation"]
    assert {*OLD_NAMES} <= {*recipe, *augmentation}  # or this test shows nothing
    found = from_json(json.dumps(written)).recipe
    for old, new in OLD_NAMES.items():
        ref, comp = (recipe[old], getattr(found, new)) if old in recipe else (augmentation[old], getattr(found.augmentation, new))
        assert comp == (tuple(ref) if isinstance(ref, list) else ref), new
    assert found.name in RECIPES
    assert asdict(found)["dropout"] == recipe["dropout"]


@pytest.mark.parametrize("recipe", [PAPER, STRONG], ids=["paper", "strong"])
def test_old_and_new_names_mean_the_same(recipe):
    given = replace(settings(), recipe=recipe)
    written = with_old_names(json.loads(json.dumps(asdict(given))))
    assert {*OLD_NAMES} <= {*written["recipe"], *written["recipe"]["augmentation"]}
    assert from_json(json.dumps(written)) == from_json(json.dumps(asdict(given))) == given


def test_a_setting_with_two_names_at_once_is_refused():
    written = json.loads(json.dumps(asdict(settings())))
    written["recipe"]["rate"] = 1.0
    with pytest.raises(MonetError, match=r"learning_rate.*twice"):
        from_json(json.dumps(written))


@pytest.mark.parametrize("change", ["rate=0.1", "augmentation.strip=0.5"])
def test_a_change_by_an_old_name_says_the_new_one(change):
    name = change.partition("=")[0].rpartition(".")[2]
    with pytest.raises(MonetError, match=f"{name}: no such setting; it is called {OLD_NAMES[name]} now"):
        override(STRONG, [change])
    with pytest.raises(MonetError, match="bias_field: no such setting; there are"):  # of the augmentation, not of the recipe
        override(STRONG, ["bias_field=0.1"])


class Stopped(Exception):
    """The first epoch is written."""


def stop(row):
    raise Stopped


@pytest.mark.slow
def test_a_run_folder_of_before_goes_on_to_the_same_bits(small, tmp_path):
    given = settings()
    whole = fit(given, small[1], PART, tmp_path / "whole", device="cpu")
    folder = tmp_path / "old"
    with pytest.raises(Stopped):
        fit(given, small[1], PART, folder, device="cpu", log=stop)
    config = folder / "config.json"
    config.write_text(json.dumps(with_old_names(json.loads(config.read_text(encoding="utf-8")))), encoding="utf-8")
    (path,) = folder.glob("epoch-*.safetensors")
    tensors, scalars = checkpoint.load(path)
    old = with_old_names(scalars)
    checkpoint.save(path, tensors, old)
    assert "rate" in old
    assert "learning_rate" not in config.read_text(encoding="utf-8") + json.dumps(old)
    fit(given, small[1], PART, folder, device="cpu", resume=True)
    again = checkpoint.load(folder / "final.safetensors")[0]
    for name, tensor in whole.state_dict().items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
    rows = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("epoch,learning_rate,")
    assert all(row.split(",")[1] for row in rows)


def test_metrics_of_before_are_those_of_today():
    assert renamed({"epoch": 3, "rate": 0.1, "val_loss": 0.5}) == {"epoch": 3, "learning_rate": 0.1, "val_loss": 0.5}
