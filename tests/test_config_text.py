"""Settings as text: a change of one says what is wrong with it, and a text of another machine is not believed."""

import json
from dataclasses import asdict

import pytest
from synthetic import settings

from monet_edge.errors import ModelError, MonetError
from monet_train.config import STRONG
from monet_train.config_text import from_json, override, read_settings, to_json


def test_a_setting_can_be_changed_and_a_wrong_one_says_so():
    assert override(STRONG, ["epochs=7", "augmentation.flip=0"]).augmentation.flip == 0.0
    for change, words in (("epoch=7", "no such setting"), ("epochs=many", "expected a value"), ("epochs=1.5", "expected a value")):
        with pytest.raises(MonetError, match=words):
            override(STRONG, [change])


@pytest.mark.parametrize("text", ["", "[]", "{}", "x" * 20_000, '{"net": 3}', "[" * 5000])
def test_settings_of_another_machine_are_not_believed(text):
    with pytest.raises(ModelError):
        from_json(text)


def test_settings_come_back_from_a_run_folder_as_they_were(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(asdict(settings()), indent=1))
    assert read_settings(tmp_path) == read_settings(tmp_path / "config.json") == from_json(to_json(settings())) == settings()


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("seed",), "0", "seed: expected a value such as 0"),
        (("net",), "resnet", "unknown network"),
        (("recipe", "learning_rate"), None, "learning_rate: expected"),
        (("recipe", "speed"), 1, "no such setting"),
        (("recipe", "augmentation"), ["rotate"], "expected settings by name, found"),
        (("recipe", "augmentation"), {"rotate": 1.0}, "there is no"),
        (("preprocess", "size"), -1, "size"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, where, value, words):
    data = asdict(settings())
    *groups, key = where
    record = data
    for group in groups:
        record = record[group]
    record[key] = value
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match=rf"config\.json: .*{words}"):
        read_settings(tmp_path)
