"""What validation says of a network's sureness: how it is measured, when it is told, and that nothing else in a file changes."""

import json
from dataclasses import replace
from math import exp

import heads
import numpy as np
import pytest
import synthetic
from conftest import random_tensors
from records import make_record

from monet_edge import registry, weights
from monet_edge.architectures import monet
from monet_edge.errors import ModelError
from monet_edge.model import Model
from monet_edge.quality import log_odds
from monet_edge.spec import fold_batchnorm
from monet_train.card import quality_table
from monet_train.cli import app
from monet_train.dataset import read
from monet_train.evaluate import evaluate
from monet_train.quality import commands
from monet_train.quality.calibration import Pair, calibrate, hold, pairs_of, tell
from monet_train.quality.renew import renew
from monet_train.scores import compare
from monet_train.synth import train


def drawn(rng, count, label="blob", shift=-1.2, sd=0.4):
    """Pairs whose Dice lies a shift, and so much by chance, from the agreement."""
    agreement = rng.uniform(0.6, 0.98, count)
    odds = np.array([log_odds(one) for one in agreement]) + shift + rng.normal(0, sd, count)
    return [Pair(f"{label}{i}", label, float(one), 1 / (1 + exp(-odd))) for i, (one, odd) in enumerate(zip(agreement, odds, strict=True))]


def test_a_shift_is_found_and_new_scans_lie_in_the_interval(rng):
    known = calibrate([*drawn(rng, 400), *drawn(rng, 400, "other", -0.3, 0.1)])
    assert known["blob"]["shift"] == pytest.approx(-1.2, abs=0.06)
    assert known["other"]["shift"] == pytest.approx(-0.3, abs=0.02)
    assert known["blob"]["spread"] == pytest.approx(1.645 * 0.4, rel=0.1)
    new = hold([*drawn(rng, 400), *drawn(rng, 400, "other", -0.3, 0.1)], known)
    assert new["inside"] == pytest.approx(0.9, abs=0.03)
    assert new["pearson"] > 0.9
    assert new["pairs"] == 800


def test_few_scans_make_a_wide_interval_and_two_make_none(rng):
    inside = [hold(drawn(rng, 50), calibrate(drawn(rng, 4)))["inside"] for _ in range(60)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.05)
    assert calibrate(drawn(rng, 2)) == {}


def test_what_differs_between_structures_only_is_seen_to(rng):
    """Labels of different Dice correlate whatever the network says of single scans."""
    pairs = [Pair(str(i), label, agreement, dice + rng.normal(0, 0.01)) for label, agreement, dice in (("a", 0.9, 0.9), ("b", 0.5, 0.4))
             for i in range(40)]  # fmt: skip
    pairs = [Pair(pair.case, pair.label, pair.agreement + rng.normal(0, 0.01), pair.dice) for pair in pairs]
    found = hold(pairs, calibrate(pairs))
    assert found["pearson"] > 0.95
    assert abs(found["between"]) < 0.4


def test_it_is_told_where_it_holds_and_where_it_does_not_only_that_it_does_not(rng):
    validation, good = drawn(rng, 50), drawn(rng, 30)
    bad = [Pair(pair.case, pair.label, pair.agreement, 1 - pair.dice) for pair in good]
    assert tell(validation, {})["quality"] == tell(validation, {"there": good})["quality"] == calibrate(validation)
    told = tell(validation, {"there": bad})
    assert "quality" not in told
    assert told["quality_measured"]["there"]["pearson"] < 0
    assert [*told["quality_measured"]] == ["validation", "there"]


def test_what_was_not_found_calibrates_nothing():
    some, none = np.ones((1, 4, 4), bool), np.zeros((1, 4, 4), bool)
    found, missed = (compare("a", "blob", some, predicted, None) for predicted in (some, none))
    scores = [replace(found, agreement={"blob": 0.5}), replace(missed, agreement={"blob": 0.4})]
    assert pairs_of(scores) == [Pair("a", "blob", 0.5, 1.0)]


def test_either_side_is_held_against_the_dice_of_both():
    some = np.ones((1, 4, 4), bool)
    both = replace(compare("a", "ear", some, some, None), agreement={"left ear": 0.5, "right ear": 0.6})
    assert pairs_of([both]) == [Pair("a", "left ear", 0.5, 1.0), Pair("a", "right ear", 0.6, 1.0)]


def test_a_file_is_renewed_in_nothing_but_its_calibration(tmp_path, rng):
    path, spec = tmp_path / "tiny.safetensors", fold_batchnorm(monet(filters=4, depth=1))
    weights.save(path, spec, random_tensors(spec), make_record("blob"), {"licence": "Apache-2.0"})
    before = weights.load(path)
    card = f"# tiny\n\nsha256 `{before.sha256}`.\n\nLowest Dice: 0.1.\n\nResearch use only, not a medical device.\n"
    path.with_suffix(".md").write_text(card)
    validation = drawn(rng, 20)
    after = renew(path, validation, {"there": drawn(rng, 20)})
    text, again = path.with_suffix(".md").read_text(), renew(path, validation, {})
    assert after.provenance.quality == again.provenance.quality == calibrate(validation)
    assert {key: value for key, value in after.provenance.items() if not key.startswith("quality")} == before.provenance
    assert all(np.array_equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    assert after.sha256 in text
    assert "\n".join(quality_table(after.provenance["quality_measured"])) in text
    rewritten = path.with_suffix(".md").read_text()
    assert rewritten.count("## Expected Dice") == 1
    assert "| there |" in text
    assert "| there |" not in rewritten
    start, line = rewritten.index("## Expected Dice"), rewritten.index("Research use only")
    assert rewritten[:start] + rewritten[line:] == card.replace(before.sha256, again.sha256)
    with pytest.raises(ModelError, match="too few scans"):
        renew(path, validation[:3], {})
    assert weights.load(path).sha256 == again.sha256


def write_weights(path, spec, record, provenance, validation, training=()):
    weights.save(path, fold_batchnorm(spec), random_tensors(fold_batchnorm(spec)), record, provenance)
    path.with_suffix(".splits.json").write_text(json.dumps([{"train": [*training], "val": validation}]))


def test_the_command_calibrates_on_the_validation_part_of_scans(tmp_path, capsys):
    dataset = read(synthetic.write_dataset(tmp_path / "data", 5))
    path, names = tmp_path / "tiny.safetensors", list(dataset.pairs)[:4]
    write_weights(path, monet(filters=4, depth=1), make_record("lesion"), {}, names)
    command(["calibrate", str(path), str(dataset.folder)])
    (known,) = weights.load(path).provenance.quality.values()
    scores = list(evaluate(Model(weights.load(path), 1), dataset, names))
    assert known == calibrate(pairs_of(scores))["lesion"]
    assert known["cases"] == len(names)
    assert "validation: 4 pairs, Pearson" in capsys.readouterr().out


def test_a_model_of_generated_images_is_calibrated_on_generated_heads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "HEADS", 4)
    path, record = tmp_path / "tiny.safetensors", train.make_record(64, 1, False)
    write_weights(path, monet(3, record.outputs, filters=4, depth=1), record, {"generated": {}}, ["head_1"], ["head_0"])
    maps = heads.write_folder(tmp_path / "maps")
    command(["calibrate", str(path), str(maps)])
    first = weights.load(path)
    assert first.provenance.quality
    assert first.provenance["quality_measured"]["validation"]["pairs"] >= 4
    cortex = np.isin(heads.head(0), (3, 42)).sum() / 1000
    assert first.provenance.anatomy["cortex"] == [pytest.approx(cortex, abs=1e-3)] * 2
    command(["calibrate", str(path), str(maps), "--quiet"])  # heads by seed, and nothing of the calibration before counts
    assert weights.load(path).sha256 == first.sha256


def command(words):
    app(words, standalone_mode=False)


@pytest.mark.parametrize("name", registry.shipped())
def test_every_shipped_label_has_its_calibration_unless_the_card_says_why_not(name):
    found = weights.load(name)
    assert (
        set(found.provenance.quality) == set(found.preprocess.labels)
        or "It does not hold elsewhere" in registry.find(name).with_suffix(".md").read_text()
    )
