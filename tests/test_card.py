"""The shipped models' cards are what the generator writes from the files themselves; only the notes are by hand."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from monet_edge import registry, weights
from monet_train.card import card, measuring
from monet_train.config import STRONG
from monet_train.config_text import override
from monet_train.splits import read_splits
from monet_train.synth.train import RECIPE


@pytest.mark.parametrize("name", registry.shipped())
def test_a_shipped_card_is_what_its_file_gives(name):
    path = registry.find(name)
    found, text = weights.load(name), path.with_suffix(".md").read_text()
    notes = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ") and not line.startswith("- **")]
    measured = found.provenance["metrics"]
    as_one = any(label not in found.preprocess.labels for row in measured.values() for label in row)
    commands = [measuring(path, head.removesuffix(", validation"), head.endswith(", validation"), (0,), as_one) for head in measured]
    assert card(found, measured, notes, commands) == text


@pytest.mark.parametrize("name", registry.shipped())
def test_its_splits_hold_the_patients_that_were_measured(name):
    (part,) = read_splits(registry.find(name).with_suffix(".splits.json"))  # one: evaluate asks for no --fold
    provenance = weights.load(name).provenance
    heading, row = next(iter(provenance["metrics"].items()))
    if "generated" in provenance:  # of label maps: no scan of the data that measures was there to train on, or to split
        assert not any(case["case"] in part["train"] + part["val"] for label in row.values() for case in label["worst"])
        return
    assert heading == f"{name}, validation"
    for label in row.values():
        assert label["cases"] == len(part["val"])
        assert {case["case"] for case in label["worst"]} <= {*part["val"]}


def test_a_command_has_what_it_takes():
    path = Path("out", "my model.safetensors")
    assert measuring(path, "data", False, (2,)) == "monet-train evaluate 'my model.safetensors' data --volume 2"
    assert measuring(path, "data", True).endswith("--splits 'my model.splits.json'")


@pytest.mark.parametrize("name", registry.shipped())
def test_the_cards_command_can_be_typed_again(name):
    """Its settings were called otherwise when the weights were made."""
    command = shlex.split(registry.find(name).with_suffix(".md").read_text().partition("      monet-train ")[2].partition("\n")[0])
    recipe = override({"fit": STRONG, "synth": RECIPE}[command[0]], [word for before, word in pairwise(command) if before == "--set"])
    assert recipe.epochs == weights.load(name).provenance["training"]["epochs"]
