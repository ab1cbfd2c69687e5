"""The paper's recipe as a benchmark: goes on where the clock stopped it, says what did not converge, scores as evaluate does."""

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import machine, parity, training
from monet_edge import phantom, weights
from monet_edge.model import Model
from monet_train.dataset import read
from monet_train.evaluate import evaluate, make_model
from monet_train.prepare import open_prepared, prepare
from monet_train.state import training_spec

pytestmark = pytest.mark.slow  # every test trains a network
TRIAL = ("--size", "32", "--set", "epochs=3", "--set", "batch=4", "--set", "epoch_steps=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three phantoms, the last one stored another way round, prepared; and their split."""
    folder = tmp_path_factory.mktemp("data")
    phantom.write_dataset(folder / "data", 3, shape=(6, 64, 64))
    for part in ("imagesTr", "labelsTr"):
        path = folder / "data" / part / "phantom_02.nii.gz"
        image = nibabel.load(path)
        turned = image.as_reoriented(nibabel.orientations.axcodes2ornt(("P", "S", "R")))
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine), path)
    prepare(read(folder / "data"), folder / "prepared")
    (folder / "splits.json").write_text(json.dumps([{"train": ["phantom_00", "phantom_01"], "val": ["phantom_02"]}]))
    return folder


def call(data, output, *more):
    words = ["training", str(data / "prepared"), "--splits", str(data / "splits.json"), "-o", str(output), "--net", "monet", *TRIAL, *more]
    result = CliRunner().invoke(command.app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def call_until_the_clock_stops_it(*words):
    """Its hour is over once it looks at the clock, after the first epoch that is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "time", SimpleNamespace(monotonic=lambda: math.inf, perf_counter=time.perf_counter))
        return call(*words, "--minutes", "60")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder in which the clock stopped a training, which then went on; and what was said."""
    output = tmp_path_factory.mktemp("out")
    stopped = call(data, output, "--minutes", "0"), call_until_the_clock_stops_it(data, output)
    assert not list(output.glob("*.json"))
    return output, stopped, call(data, output)


def test_the_same_command_goes_on_where_the_clock_stopped_it(trained):
    output, (nothing, stopped), finished = trained
    assert "epoch" not in nothing
    assert "epoch 0" in stopped
    assert "stopped by the clock" in stopped
    assert "epoch 0" not in finished
    assert "epoch 2" in finished
    assert "NOT CONVERGED after 3 epochs" in finished
    found = json.loads((output / "paper-monet-phantom.json").read_text())
    assert [row["epoch"] for row in found["curve"]] == [0, 1, 2]
    assert (found["converged"], found["epochs"]) == (False, 3)
    assert found["settings"]["recipe"]["name"] == "paper"
    assert found["machine"]["versions"]["torch"]


def test_an_unfinished_training_is_scored_only_if_asked(data, tmp_path):
    call_until_the_clock_stops_it(data, tmp_path, "--unfinished")
    assert json.loads((tmp_path / "paper-monet-phantom.json").read_text())["epochs"] == 1


def test_the_clock_stops_at_an_epoch_that_is_kept(data, tmp_path):
    assert "epoch 1" in call_until_the_clock_stops_it(data, tmp_path, "--checkpoint-every", "2")
    said = call(data, tmp_path, "--checkpoint-every", "2")
    assert "epoch 1" not in said
    assert "NOT CONVERGED after 3 epochs" in said  # the last one is kept whatever its number


def test_scores_are_those_of_evaluate_and_the_mask_is_the_users(data, trained):
    found = json.loads((trained[0] / "paper-monet-phantom.json").read_text())
    model = make_model(weights.load(trained[0] / "paper-monet-phantom.safetensors"), threads=1)
    dataset = replace(read(data / "data"), spacing_known=False)
    (row,) = found["patients"]["phantom"]
    assert row == vars(next(evaluate(model, dataset, ["phantom_02"])))
    mask = Model.segment(model, dataset.pairs["phantom_02"][0]).get_fdata() > 0
    truth = nibabel.load(dataset.pairs["phantom_02"][1]).get_fdata() > 0
    assert row["predicted"] == mask.sum()
    assert row["dice"] == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def test_the_exported_weights_are_the_best_epochs(data, trained):
    task = training.make_task(
        "monet", open_prepared(data / "prepared"), data / "splits.json", trained[0], 32, ("epochs=3", "batch=4", "epoch_steps=0")
    )
    tensors, history = training.best_weights(task)
    found = weights.load(trained[0] / "paper-monet-phantom.safetensors")
    image = np.random.default_rng(0).random((1, 32, 32), np.float32)
    assert parity.compare(training_spec(task.settings), tensors, found, image)["passed"]
    assert found.provenance["training"]["best"] == min(history, key=lambda row: row["val_loss"])


def test_a_layer_that_differs_is_named(data, trained):
    task = training.make_task("monet", open_prepared(data / "prepared"), data / "splits.json", trained[0], 32)
    tensors, _ = training.best_weights(task)
    found = weights.load(trained[0] / "paper-monet-phantom.safetensors")
    broken = {**found.tensors, "head.weight": found.tensors["head.weight"] + 1}
    image = np.random.default_rng(0).random((1, 32, 32), np.float32)
    result = parity.compare(training_spec(task.settings), tensors, replace(found, tensors=broken), image)
    assert not result["passed"]
    assert {result[key]["layer"] for key in ("without fusion", "with fusion")} == {"head"}
    assert result["without fusion"]["values"] > result["with fusion"]["values"] > 20


def test_converged_means_twenty_epochs_without_a_better_one():
    history = [{"val_loss": loss} for loss in (0.9, 0.5, *[0.6] * 19)]
    assert not training.progress(history, 20)["converged"]
    reached = training.progress([*history, {"val_loss": 0.55}], 20)
    assert reached["converged"]
    assert (reached["epochs"], reached["best"], reached["last"]) == (22, {"val_loss": 0.5}, {"val_loss": 0.55})


def test_pictures_are_drawn_of_scans_that_may_be_shown(data, trained, tmp_path, monkeypatch):
    names = {path.name for path in trained[0].glob("*.png")}
    assert names == {"paper-monet-phantom-overlays.png", "paper-monet-phantom-activations.png"}
    task = training.make_task("monet", open_prepared(data / "prepared"), data / "splits.json", tmp_path, 32)
    monkeypatch.setattr(training, "SHOWN", ("pancreas-ct",))
    shares = training.pictures(task, make_model(weights.load(trained[0] / "paper-monet-phantom.safetensors"), threads=1))
    assert list(shares) == ["enc0.conv", "mid.f2", "dec0.f4"]  # an ELU's each, never a concat's or an affine's
    assert all(0 <= share <= 1 for share in shares.values())
    assert not list(tmp_path.iterdir())


def test_steps_are_timed_by_network(data, tmp_path):
    words = ["step", str(data / "prepared"), "--splits", str(data / "splits.json"), "--net", "monet,unet-16", *TRIAL, "--steps", "2"]
    result = CliRunner().invoke(command.app, [*words, "--device", "cpu", "--results", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "paper-gpu.json").read_text())
    assert [(row["network"], row["steps"], row["batch"], row["compiled"]) for row in found["rows"]] == [
        ("monet", 2, 4, False),
        ("unet-16", 2, 4, False),
    ]
    assert all(0 < row["min"] <= row["seconds"] for row in found["rows"])


def test_a_copy_without_git_says_its_revision_in_a_file(tmp_path, monkeypatch):
    assert machine.describe()["revision"] != "told"
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.describe()["revision"] == "unknown"
    (tmp_path / "REVISION").write_text("told\n")
    assert machine.describe()["revision"] == "told"


def test_seeds_stand_side_by_side_and_differ(data, trained, tmp_path):
    call(data, trained[0], "--seed", "1")
    first, second = (json.loads((trained[0] / f"paper-monet-phantom{end}.json").read_text()) for end in ("", "-seed1"))
    assert (first["settings"]["seed"], second["settings"]["seed"]) == (0, 1)
    assert first["curve"][0]["train_loss"] != second["curve"][0]["train_loss"]
    assert weights.load(trained[0] / "paper-monet-phantom-seed1.safetensors").sha256 == second["sha256"]


def test_a_cropped_set_is_scored_on_the_slices_that_hold_the_structure(data, trained, monkeypatch):
    prepared = open_prepared(data / "prepared")
    model = make_model(weights.load(trained[0] / "paper-monet-phantom.safetensors"), threads=1)
    monkeypatch.setattr(training, "CROPPED", ("phantom",))
    (row,) = training.patients(model, prepared, ["phantom_02"])
    case = prepared.load("phantom_02")
    kept = training.holding(case)
    np.testing.assert_array_equal(kept.label, case.label[case.label.any(axis=(1, 2))])
    assert 0 < len(kept.label) < len(case.label)
    assert row["truth"] == case.label.sum()
    monkeypatch.setattr(training, "holding", lambda case: replace(case, images=(case.images[0][:0],), label=case.label[:0]))
    assert list(training.patients(model, prepared, ["phantom_02"])) == []


def test_what_never_began_is_not_scored(data, tmp_path):
    assert call(data, tmp_path, "--minutes", "0", "--unfinished") == ""
    assert not list(tmp_path.rglob("*.json"))


def test_an_unknown_network_is_named(data, tmp_path):
    words = ["training", str(data / "prepared"), "--splits", str(data / "splits.json"), "-o", str(tmp_path), "--net", "monet,resnet"]
    result = CliRunner().invoke(command.app, words)
    assert result.exit_code == 2
    assert "found resnet" in result.output


def test_a_command_is_recorded_without_folders_of_its_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "training", "/somewhere/brain-flair", "--net", "monet"])
    assert training.command_line() == "python -m benchmarks training brain-flair --net monet"
