"""From a model folder of nnU-Net's to a weights file, and the record in it, which is believed nothing."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monet_edge import weights
from monet_edge.errors import ModelError, OutputError
from monet_edge.nnunet.record import from_record, to_json
from monet_train.cli import app
from monet_train.import_nnunet import import_model

MODELS = Path(__file__).parent / "nnunet_models"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(MODELS / "folds" / "model", tmp_path / "model")
    return tmp_path / "model"


def edit(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def plan(change):
    return lambda folder: edit(folder / "plans.json", lambda plans: change(plans["configurations"]["2d"], plans))


def dataset(change):
    return lambda folder: edit(folder / "dataset.json", change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plan(lambda plan, plans: plan.update(preprocessor_name="Mine")), "preprocessor is Mine; only DefaultPreprocessor"),
        (plan(lambda plan, plans: plan.update(previous_stage="2d_low")), "DefaultPreprocessor, a cascade; only"),
        (plan(lambda plan, plans: plans.update(image_reader_writer="NaturalImage2DIO")), "were read by NaturalImage2DIO; known are"),
        (plan(lambda plan, plans: plan.update(resampling_fn_data="resample_torch_fornnunet")), "resamples by resample_torch_fornnunet"),
        (plan(lambda plan, plans: plan["resampling_fn_data_kwargs"].update(order=2)), r"orders must be of \(0, 1, 3\)"),
        (plan(lambda plan, plans: plan.update(normalization_schemes=["Mine"])), "is normalised by Mine; known are ZScore"),
        (plan(lambda plan, plans: plan.update(spacing=[1, 1, 1])), "only configuration 2d is known"),
        (plan(lambda plan, plans: plan.update(patch_size=[23, 20])), "an input of 23x20 does not divide by 4"),
        (plan(lambda plan, plans: plans.pop("transpose_forward")), "plans.json is not as nnU-Net writes it: KeyError 'transpose_forward'"),
        (
            dataset(lambda found: found.update(labels={"background": 0, "a": 1, "b": 3})),
            r"numbers its labels \[0, 1, 3\]; expected 0, 1, 2",
        ),
        (dataset(lambda found: found.update(labels={"background": 0, "a": [1, 2], "b": 2, "c": 3})), "regions_class_order"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line_that_names_it(folder, tmp_path, change, message):
    change(folder)
    with pytest.raises(ModelError, match=message) as raised:
        import_model(folder, tmp_path / "model.safetensors")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "model.safetensors").exists()


def test_folds_are_chosen_or_all(folder, tmp_path):
    for chosen, count in (([], 2), (["1"], 1)):
        found = import_model(folder, tmp_path / "model.safetensors", chosen)
        assert (found.preprocess.folds, found.provenance["nnunet"]["folds"]) == (count, chosen or ["0", "1"])
        assert found.spec.classes == 3 * count
    (folder / "fold_0").rename(folder / "fold_all")
    assert import_model(folder, tmp_path / "model.safetensors").provenance["nnunet"]["folds"] == ["1"]
    with pytest.raises(ModelError, match="fold_7"):
        import_model(folder, tmp_path / "model.safetensors", ["7"])


def test_the_same_folder_is_the_same_file(folder, tmp_path):
    assert import_model(folder, tmp_path / "a.safetensors").sha256 == import_model(folder, tmp_path / "b.safetensors").sha256


def test_the_command_says_what_it_wrote(folder, tmp_path):
    result = CliRunner().invoke(app, ["import-nnunet", str(folder), "-o", str(tmp_path / "model.safetensors"), "--fold", "0"])
    assert result.exit_code == 0
    assert "sha256" in result.output
    assert weights.load(tmp_path / "model.safetensors").kind == "image 0, a, b"
    with pytest.raises(OutputError, match=r"ends in \.safetensors"):
        import_model(folder, tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": [24]}, "patch must be two sides"),
        ({"patch": [24, 1 << 20]}, "patch must be two sides"),
        ({"spacing": [0, 1]}, "spacing must be two numbers"),
        ({"spacing": [float("nan"), 1]}, "spacing must be two numbers"),
        ({"transpose": [0, 1, 1]}, "transpose must name three axes"),
        ({"mirror": [2]}, "mirror must name rows"),
        ({"regions": [9]}, "regions must be labels"),
        ({"labels": ["a", "a"]}, "labels with names of their own"),
        ({"labels": ["a\nb"]}, "labels with names of their own"),
        ({"channels": []}, "1 to 64 channels"),
        ({"channels": [{"name": "a"}]}, "must hold exactly"),
        ({"folds": True}, "folds must be 1 to 10"),
        ({"image": {"order": 2, "order_z": 0, "separate": None}}, "orders must be"),
        ({"reorient": 1}, "must be a bool"),
        ({"more": 1}, "must hold exactly"),
    ],
)
def test_a_forged_record_is_refused(folder, tmp_path, change, message):
    record = import_model(folder, tmp_path / "model.safetensors", ["0"]).preprocess
    assert from_record(json.loads(to_json(record))) == record
    with pytest.raises(ModelError, match=message):
        from_record({**asdict(record), **change})


def test_a_record_that_is_not_the_networks_is_refused(folder, tmp_path):
    found = import_model(folder, tmp_path / "model.safetensors", ["0"])
    tensors = {name: np.array(tensor) for name, tensor in found.tensors.items()}
    for change, message in (
        ({"folds": 2}, "has 3 outputs"),
        ({"labels": ("a",)}, "has 3 outputs"),
        ({"channels": found.preprocess.channels * 2}, "takes 1 channels, its preprocessing makes 2"),
        ({"patch": (4096, 4096)}, None),
        ({"patch": (22, 20)}, "does not divide"),
    ):
        record = replace(found.preprocess, **change)
        if message is None:
            weights.pack("a", found.spec, tensors, record, {})
            continue
        with pytest.raises(ModelError, match=message):
            weights.pack("a", found.spec, tensors, record, {})
