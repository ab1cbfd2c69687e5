"""The federated benchmark: every training once, whatever interrupts it; its page says what is not there."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="the extra federated is not installed")

from benchmarks import federated, federated_page, paired
from monet_edge import phantom
from trainer.dataset import read
from trainer.prepare import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two phantoms a site under names of its institution, prepared; the second one validates."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"TCGA_{site}_{i}" for site in federated_page.SITES for i in range(2)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for seed, name in enumerate(names):
        image, mask = phantom.make(seed, (4, 32, 32))
        phantom.save(image, folder / "imagesTr" / f"{name}.nii.gz")
        phantom.save(mask, folder / "labelsTr" / f"{name}.nii.gz")
    labels = {"background": 0, "tumour": 1}
    (folder / "dataset.json").write_text(json.dumps({"name": "flair", "labels": labels, "file_ending": ".nii.gz"}))
    prepare(read(folder), folder / "prepared")
    split = {"train": [name for name in names if name.endswith("0")], "val": [name for name in names if name.endswith("1")]}
    (folder / "splits.json").write_text(json.dumps([split]))
    return folder


def call(data, output, *more):
    words = ["run", str(data / "prepared"), "--splits", str(data / "splits.json"), "-o", str(output), "--rounds", "1", "--size", "32"]
    return CliRunner().invoke(federated.app, [*words, "--set", "batch=4", "--device", "cpu", *more])


def test_no_training_is_done_twice_and_none_is_begun_late(data, tmp_path):
    output = tmp_path / "f.json"
    assert call(data, output, "--only", "fedavgm,fedbn,noise-0.1", "--minutes", "0").exit_code == 0
    assert not output.exists()
    assert "fedavgm: Dice" in call(data, output, "--only", "fedavgm").output
    result = call(data, output, "--only", "noise-0.1,fedavgm,fedbn")
    assert result.exit_code == 0, result.output
    assert "fedavgm: Dice" not in result.output
    found = json.loads(output.read_text())
    assert list(found["runs"]) == ["fedavgm", "fedbn", "noise-0.1"]
    assert len(found["runs"]["fedbn"]["own"]) == len(found["runs"]["fedavgm"]["dice"]) == 3
    norms = [site["norm"] for site in found["runs"]["fedavgm"]["rounds"][0]["sites"]]
    assert found["runs"]["noise-0.1"]["federation"]["clip"] == pytest.approx(np.median(norms))
    assert call(data, output, "--only", "fedavgm", "--epochs", "2").exit_code != 0


def test_bytes_are_counted_for_every_network(data, tmp_path):
    assert call(data, tmp_path / "f.json", "--only", "traffic,fedavgm,int8").exit_code == 0
    found = json.loads((tmp_path / "f.json").read_text())
    monet = found["traffic"]["monet"]
    for name, compression in (("fedavgm", "none"), ("int8", "int8")):  # the table says what the very apps exchanged
        for site in found["runs"][name]["rounds"][0]["sites"]:
            assert abs(site["sent"] - monet[compression]["down"]) < 16  # settings are written with their digits
            assert site["received"] == monet[compression]["up"]
    assert 4 * 403_556 < monet["none"]["up"] < 4 * 403_556 + 2000
    assert 2 * 403_556 < monet["float16"]["down"] < 2 * 403_556 + 2000
    assert 403_556 < monet["int8"]["up"] < 403_556 + 2000
    assert "| MoNet | float16 | " in federated_page.page(found)
    assert federated_page.page(found).count(f"| {federated_page.MISSING} |") > 8


def recorded(**dice):
    runs = {name: {"dice": dict(zip("abc", values, strict=True))} for name, values in dice.items()}
    return {"rounds": 30, "epochs": 1, "settings": "x", "runs": runs}


def test_the_page_pairs_patients():
    page = federated_page.page(recorded(pooled=(0.5, 0.6, 0.7), fedavgm=(0.6, 0.7, 0.8), float16=(0.6, 0.7, 0.7), CS=(0.1, 0.2, 0.3)))
    assert "| pooled | 0.600 |  |" in page
    assert "| FedAvgM | 0.700 | +0.100 (+0.100 to +0.100) |" in page
    assert "float16 minus float32 traffic: -0.0333 (" in page
    assert "Mean of the single sites' models: 0.200." in page
    assert f"| HT alone | {federated_page.MISSING} | {federated_page.MISSING} |" in page


def test_trainings_with_other_settings_are_not_mixed():
    first, second = recorded(pooled=(1, 1, 1)), recorded(fedavgm=(0, 0, 0))
    assert federated.merge({**first, "traffic": {"monet": {}}}, second)["runs"].keys() == {"pooled", "fedavgm"}
    other = federated.merge({**first, "traffic": {"monet": {}}}, {**second, "rounds": 20})
    assert other["runs"].keys() == {"fedavgm"}
    assert other["traffic"] == {"monet": {}}


def test_an_interval_holds_the_mean_and_grows_with_the_spread():
    mean, low, high = paired.interval([0.1, 0.1, 0.1])
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    rng = np.random.default_rng(1)
    mean, low, high = paired.interval(rng.normal(0.1, 1, 400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_the_committed_page_is_what_the_record_gives():
    assert federated.PAGE.read_text() == federated_page.page(json.loads(federated.RESULTS.read_text()))
