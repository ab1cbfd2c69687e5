"""A training on generated images, from a folder of label maps to a file that the runtime loads."""

import json
from dataclasses import replace
from pathlib import Path

import heads
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monet_edge import limits, load, phantom
from monet_edge.errors import DatasetError, ModelError, MonetError, OutputError, ResourceError
from monet_edge.files import locked
from monet_train.cli import app
from monet_train.config import Augmentation
from monet_train.dataset import load as load_case
from monet_train.dataset import read
from monet_train.synth.labels import DEPTHS, NUMBERS
from monet_train.synth.maps import encode
from monet_train.synth.origin import Origin, fold
from monet_train.synth.train import RECIPE, fit, make_record, make_settings, make_split
from monet_train.transfer import Transfer

CODES = Path(__file__).parents[1] / "weights" / "codes.json"
QUICK = ("--size", "32", "--context", "1", "--net", "tiny", "--device", "cpu", "--quiet")


def run(*words):
    done = CliRunner().invoke(app, ["synth", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def training(tiny):
    """The arguments of a run of four short epochs."""
    recipe = replace(RECIPE, epochs=4, epoch_steps=2, batch=4, validate_every=2)
    settings = make_settings("heads", tiny, make_record(32, 1, False), recipe, 0)
    return settings, Origin("heads", "none", "key", heads.STILL), heads.label_maps()


@pytest.mark.slow
def test_from_label_maps_to_a_file_that_the_runtime_loads(tmp_path, tiny):
    folder = heads.write_folder(tmp_path / "heads")
    packed = tmp_path / "heads.zip"
    assert "2 label maps" in run(folder, "--pack", packed)
    steps = [word for change in ("epochs=5", "epoch_steps=8", "batch=4", "ema_decay=0.8", "validate_every=5") for word in ("--set", change)]
    run(packed, "-o", tmp_path / "run", *QUICK, *steps)
    rows = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("train_loss")]) for row in rows[1:]]
    assert len(losses) == 5
    assert losses[-1] < 0.95 * losses[0]
    model = load(tmp_path / "run" / "model.safetensors")
    assert model.weights.preprocess == make_record(32, 1, False)
    about = model.weights.provenance
    assert (about["licence"], about["modality"], about["data"]["name"]) == ("Apache-2.0", "MRI, any contrast", "heads")
    told = about["training"]
    assert told["cases"] == told["validated_on"] == 1
    assert (told["split"], told["epochs"]) == ("by case", 5)
    assert "--set epoch_steps=8" in told["command"]
    assert model.weights.fingerprint is None  # it saw no scan whose appearance could be expected
    assert about["generated"]["ranges"]["rotate"] > 0
    probability = model.predict(np.zeros((1, 3, 32, 32), np.float32))
    assert np.asarray(probability).shape[-3:] == (15, 32, 32)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(training, tmp_path):
    settings, origin, maps = training
    whole = fit(settings, origin, maps, tmp_path / "whole", device="cpu")

    def kill(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings, origin, maps, tmp_path / "run", device="cpu", log=kill)
    again = fit(settings, origin, maps, tmp_path / "run", device="cpu", resume=True)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)


@pytest.mark.slow
def test_a_run_may_start_from_what_another_one_made_and_both_sides_from_a_structure(training, tmp_path):
    settings, origin, maps = training
    settings = replace(settings, recipe=replace(settings.recipe, epochs=1, learning_rate=1e-9))
    fit(settings, origin, maps, tmp_path / "run", device="cpu")
    before = fold(tmp_path / "run").write(tmp_path / "before.safetensors")
    sides = replace(settings, preprocess=make_record(32, 1, True))
    lines = []
    fit(sides, origin, maps, tmp_path / "sides", device="cpu", transfer=Transfer(before), announce=lines.append)
    after = fold(tmp_path / "sides").write(tmp_path / "after.safetensors")
    assert lines[0].startswith("starting from before, its head rearranged for left white matter, right white matter")
    place = {name: number for number, name in enumerate(before.preprocess.labels, 1)}
    rows = [0, *(place[name.removeprefix("left ").removeprefix("right ")] for name in after.preprocess.labels)]
    np.testing.assert_allclose(after.tensors["head.weight"], before.tensors["head.weight"][rows], rtol=0.02, atol=1e-3)
    assert after.provenance["data"]["name"] == "heads; weights before"


def test_the_command_goes_on_from_a_file_with_both_sides(tmp_path, tiny):
    folder = heads.write_folder(tmp_path / "heads")
    short = [word for change in ("epochs=1", "epoch_steps=1", "batch=2", "validate_every=1") for word in ("--set", change)]
    run(folder, "-o", tmp_path / "one", *QUICK, *short)
    run(folder, "-o", tmp_path / "two", *QUICK, *short, "--sides", "--from", tmp_path / "one" / "model.safetensors")
    one, two = (load(tmp_path / name / "model.safetensors").weights for name in ("one", "two"))
    assert two.preprocess == make_record(32, 1, True)
    assert two.provenance["data"]["name"] == "heads; weights model"
    assert "--sides --from model" in two.provenance["training"]["command"]
    run(folder, "-o", tmp_path / "three", *QUICK, *short, "--sides", "--from", tmp_path / "two" / "model.safetensors", "--mix", "0.9")
    three = load(tmp_path / "three" / "model.safetensors").weights
    assert "--from model --mix 0.9" in three.provenance["training"]["command"]
    assert 0 < max(np.abs(three.tensors[name] - tensor).max() for name, tensor in two.tensors.items()) < 0.01  # a tenth of one step
    assert "--sides" not in one.provenance["training"]["command"]


def test_the_command_writes_scans_without_a_tumour(tmp_path):
    folder = heads.write_folder(tmp_path / "heads")
    assert f"{tmp_path / 'none'}: 4 scans." in run(folder, "--negatives", 2, tmp_path / "none", "--device", "cpu")
    found = read(tmp_path / "none")
    assert [*found.pairs] == ["head_0_00", "head_0_01", "head_1_00", "head_1_01"]
    assert not load_case(found, "head_1_01").label.any()


def test_other_label_maps_are_another_run(training, tmp_path):
    settings, origin, maps = training
    settings = replace(settings, recipe=replace(settings.recipe, epochs=1))
    fit(settings, origin, maps, tmp_path / "run", device="cpu")
    with pytest.raises(OutputError, match="label maps"):
        fit(settings, replace(origin, key="other"), maps, tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(OutputError, match="--resume"):
        fit(settings, origin, maps, tmp_path / "run", device="cpu")


def test_an_epoch_without_a_number_of_steps_is_refused(training, tmp_path):
    refused(training, tmp_path / "run", MonetError, "epoch_steps", epoch_steps=0)


def test_an_augmentation_that_would_do_nothing_is_refused(training, tmp_path):
    refused(training, tmp_path / "run", MonetError, "augmentation", augmentation=Augmentation(noise=0.1))


def test_a_training_that_cannot_fit_into_the_memory_is_refused(training, tmp_path, monkeypatch):
    room = training[2].ids.nbytes
    monkeypatch.setattr(limits, "available", lambda: room)
    refused(training, tmp_path / "run", ResourceError, "images of 2 heads, 4 slices of 32x32")


def refused(training, folder, error, words, **changes):
    settings, origin, maps = training
    with pytest.raises(error, match=words):
        fit(replace(settings, recipe=replace(settings.recipe, **changes)), origin, maps, folder, device="cpu")
    assert not folder.exists()


def test_younger_heads_need_room_of_their_own(training, tmp_path, monkeypatch):
    """Once more the label maps, and once more the slices to validate on, which are held twice while they are put together."""
    settings, origin, maps = training
    asked = []

    def demand(size, what):
        asked.append(size)
        raise ResourceError(what)

    monkeypatch.setattr(limits, "demand", demand)
    for young in (0.0, 1.0):
        with pytest.raises(ResourceError):
            fit(settings, replace(origin, ranges=replace(origin.ranges, young=young)), maps, tmp_path / "run", device="cpu")
    slices = 96 * 32 * 32 * (3 * 4 + 1)  # of one head: three float32 images and a label each
    assert asked[1] - asked[0] == maps.ids.nbytes + 2 * slices


def test_one_process_at_a_time_trains_in_a_folder(training, tmp_path):
    settings, origin, maps = training
    with locked(tmp_path / "run"), pytest.raises(OutputError, match="another process"):
        fit(settings, origin, maps, tmp_path / "run", device="cpu")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_heads_of_one_patient_do_not_both_train_and_validate():
    names = ("sub-1_a", "sub-1_b", "sub-2_a", "sub-2_b")
    split, rule = make_split(replace(heads.label_maps(4), names=names))
    assert sorted(map(sorted, split.values())) == [["sub-1_a", "sub-1_b"], ["sub-2_a", "sub-2_b"]]
    assert rule == "by patient: BIDS sub- in the names"
    with pytest.raises(DatasetError, match="two patients"):
        make_split(replace(heads.label_maps(), names=names[:2]))


def test_a_head_with_a_structure_on_one_side_only_neither_trains_nor_validates(training, tmp_path):
    """One of the 20 heads that `brain` was trained on has a hippocampus that is cut off."""
    maps = heads.label_maps(4)
    part, _ = make_split(maps)
    assert not maps.lopsided()
    name = part["train"][0]
    wrong = maps.ids[maps.names.index(name)]
    numbers = NUMBERS[wrong.numpy() // DEPTHS]
    thalamus = np.flatnonzero(numbers == 49)
    for share, found in ((2, {}), (4, {name: "thalamus"})):  # half of it is left, or a quarter
        np.put(numbers, np.setdiff1d(thalamus, thalamus[::share]), 41)
        wrong.copy_(torch.from_numpy(encode(numbers)))
        assert maps.lopsided() == found
    assert make_split(maps)[0] == {"train": part["train"][1:], "val": part["val"]}
    settings, origin, _ = training
    lines = []
    short = replace(settings, recipe=replace(settings.recipe, epochs=1))
    fit(short, origin, maps, tmp_path / "run", device="cpu", announce=lines.append)
    assert lines[0] == f"left out: {name}, in which the thalamus is on one side only, or nearly so"
    assert name not in (tmp_path / "run" / "splits.json").read_text(encoding="utf-8")
    with pytest.raises(DatasetError, match=f"in {name} the thalamus"):
        make_split(maps.choose([name, part["val"][0]]))


def test_what_is_told_of_a_run_before_and_after_it(training, tmp_path):
    settings, origin, maps = training
    lines = []
    short = replace(settings, recipe=replace(settings.recipe, epochs=1, optimiser="nadam"))
    fit(short, replace(origin, licence="ours\n\u00a0only " + 2000 * "x"), maps, tmp_path / "run", device="cpu", announce=lines.append)
    assert lines == ["an epoch is 2 steps of 4 slices (epoch_steps of recipe synth; every slice is a new one)"]
    about = fold(tmp_path / "run").write(tmp_path / "m.safetensors").provenance
    assert about["licence"] == "ours only " + 990 * "x"
    assert about["training"]["settings"]["recipe"]["weight_decay"] == 0  # NAdam has none


@pytest.mark.slow
def test_a_run_is_released_as_any_other_measured_on_scans_that_it_has_never_seen(training, tmp_path):
    settings, origin, maps = training
    fit(replace(settings, recipe=replace(settings.recipe, epochs=1)), origin, maps, tmp_path / "run", device="cpu")
    folder = tmp_path / "scans"
    phantom.write_dataset(folder, 2, shape=(8, 32, 32))
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    about["labels"] = {"background": 0, "thalamus": 1}
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    words = ["export", tmp_path / "run", folder, "-o", tmp_path / "m.safetensors", "--codes", CODES, "--command", "monet-train synth x"]
    done = CliRunner().invoke(app, [*map(str, words), "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = load(tmp_path / "m.safetensors").weights
    (heading,) = found.provenance["metrics"]
    assert heading == about["name"]  # no part of it is a validation part
    assert found.provenance["metrics"][heading]["thalamus"]["cases"] == 2
    assert found.provenance["generated"]["key"] == "key"
    assert found.provenance.codes["hippocampus"]["type"][2] == "Hippocampus"
    card = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert f"    monet-train evaluate m.safetensors {heading}\n" in card
    assert "label maps only, images generated" in card


def test_a_run_of_another_kind_is_not_exported(training, tmp_path):
    settings, origin, maps = training
    short = replace(settings, recipe=replace(settings.recipe, epochs=1))
    fit(short, origin, maps, tmp_path / "run", device="cpu")
    (tmp_path / "run" / "synth.json").write_text('{"data": 3, "licence": ""}', encoding="utf-8")
    with pytest.raises(ModelError, match="not a run of monet-train synth"):
        fold(tmp_path / "run").write(tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_pictures_show_images_and_their_labels(tmp_path, tiny):
    folder = heads.write_folder(tmp_path / "heads")
    run(folder, "--pictures", 3, tmp_path / "page.png", *QUICK)
    page = np.asarray(Image.open(tmp_path / "page.png"))
    assert page.shape == (64, 96, 3)
    assert (page[:32] == page[:32, :, :1]).all()  # grey above
    assert (page[32:] != page[32:, :, :1]).any()  # colours below


@pytest.mark.parametrize("goal", [("--pack",), ("--pictures", "3")])
def test_a_label_map_is_not_replaced_by_a_mistyped_line(tmp_path, goal):
    folder = heads.write_folder(tmp_path / "heads")
    first = next(iter(sorted(folder.glob("*.nii.gz"))))
    before = first.read_bytes()
    with pytest.raises(OutputError, match=r"expected a file that ends in \.(zip|png)"):
        CliRunner().invoke(app, ["synth", str(folder), *goal, str(first)], catch_exceptions=False)
    assert first.read_bytes() == before


@pytest.mark.parametrize("goals", [(), ("--pack", "a.zip", "-o", "run")])
def test_one_thing_at_a_time(goals, tmp_path):
    with pytest.raises(MonetError, match="say one of"):
        CliRunner().invoke(app, ["synth", str(tmp_path), *goals], catch_exceptions=False)


def test_a_share_of_nothing_is_refused(tmp_path):
    with pytest.raises(MonetError, match="--mix: keeps what --from brings; give it too"):
        CliRunner().invoke(app, ["synth", str(tmp_path), "-o", str(tmp_path / "run"), "--mix", "0.5"], catch_exceptions=False)
