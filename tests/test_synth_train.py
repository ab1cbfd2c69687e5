"""A training on generated images, from a folder of label maps to a file that the runtime loads."""

from dataclasses import replace

import heads
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monet_edge import load
from monet_edge.errors import MonetError, OutputError
from monet_train.cli import app
from monet_train.synth.train import RECIPE, Source, fit, make_record, make_settings

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
    return settings, Source("heads", "none", "key", heads.STILL), heads.label_maps()


def test_from_label_maps_to_a_file_that_the_runtime_loads(tmp_path, tiny):
    folder = heads.write_folder(tmp_path / "heads")
    packed = tmp_path / "heads.zip"
    assert "2 label maps" in run(folder, "--pack", packed)
    steps = [word for change in ("epochs=5", "epoch_steps=8", "batch=4", "average=0.8", "validate_every=5") for word in ("--set", change)]
    run(packed, "-o", tmp_path / "run", *QUICK, *steps)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("train_loss")]) for row in rows[1:]]
    assert len(losses) == 5
    assert losses[-1] < 0.95 * losses[0]
    model = load(tmp_path / "run" / "model.safetensors")
    assert model.weights.preprocess == make_record(32, 1, False)
    about = model.weights.provenance
    assert (about["licence"], about["modality"], about["data"]["name"]) == ("Apache-2.0", "MRI, any contrast", "heads")
    assert about["training"]["cases"] == about["training"]["validated_on"] == 1
    assert about["generated"]["ranges"]["rotate"] > 0
    probability = model.predict(np.zeros((1, 3, 32, 32), np.float32))
    assert np.asarray(probability).shape[-3:] == (15, 32, 32)


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(training, tmp_path):
    settings, source, maps = training
    whole = fit(settings, source, maps, tmp_path / "whole", device="cpu")

    def kill(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings, source, maps, tmp_path / "run", device="cpu", log=kill)
    again = fit(settings, source, maps, tmp_path / "run", device="cpu", resume=True)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)


def test_other_label_maps_are_another_run(training, tmp_path):
    settings, source, maps = training
    settings = replace(settings, recipe=replace(settings.recipe, epochs=1))
    fit(settings, source, maps, tmp_path / "run", device="cpu")
    with pytest.raises(OutputError, match="label maps"):
        fit(settings, replace(source, key="other"), maps, tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(OutputError, match="--resume"):
        fit(settings, source, maps, tmp_path / "run", device="cpu")


def test_an_epoch_without_a_number_of_steps_is_refused(training, tmp_path):
    settings, source, maps = training
    with pytest.raises(MonetError, match="epoch_steps"):
        fit(replace(settings, recipe=replace(settings.recipe, epoch_steps=0)), source, maps, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_pictures_show_images_and_their_labels(tmp_path, tiny):
    folder = heads.write_folder(tmp_path / "heads")
    run(folder, "--pictures", 3, tmp_path / "page.png", *QUICK)
    page = np.asarray(Image.open(tmp_path / "page.png"))
    assert page.shape == (64, 96, 3)
    assert (page[:32] == page[:32, :, :1]).all()  # grey above
    assert (page[32:] != page[32:, :, :1]).any()  # colours below


@pytest.mark.parametrize("goals", [(), ("--pack", "a.zip", "-o", "run")])
def test_one_thing_at_a_time(goals, tmp_path):
    with pytest.raises(MonetError, match="say one of"):
        CliRunner().invoke(app, ["synth", str(tmp_path), *goals], catch_exceptions=False)
