"""The federated benchmark: every training once, whatever interrupts it; its page says what is not there."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from records import make_record
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="the extra federated is not installed")

from benchmarks import federated, federated_page, paired
from monet_edge import phantom
from monet_train.config import STRONG, Settings
from monet_train.config_text import to_json
from monet_train.dataset import read
from monet_train.federated.settings import Federation
from monet_train.prepare import prepare


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
    (folder / "dataset.json").write_text(json.dumps({"name": "flair", "labels": labels, "file_ending": ".nii.gz"}), encoding="utf-8")
    prepare(read(folder), folder / "prepared")
    split = {"train": [name for name in names if name.endswith("0")], "val": [name for name in names if name.endswith("1")]}
    (folder / "splits.json").write_text(json.dumps([split]), encoding="utf-8")
    return folder


def call(data, output, *more):
    words = ["run", str(data / "prepared"), "--splits", str(data / "splits.json"), "-o", str(output), "--rounds", "1", "--size", "32"]
    return CliRunner().invoke(federated.app, [*words, "--set", "batch=4", "--device", "cpu", *more])


@pytest.mark.slow
def test_no_training_is_done_twice_and_none_is_begun_late(data, tmp_path):
    output = tmp_path / "f.json"
    assert call(data, output, "--only", "fedavgm,fedavg,noise-0.1", "--minutes", "0").exit_code == 0
    assert not output.exists()
    assert "fedavgm: Dice" in call(data, output, "--only", "fedavgm").output
    result = call(data, output, "--only", "noise-0.1,fedavgm,fedavg")
    assert result.exit_code == 0, result.output
    assert "fedavgm: Dice" not in result.output
    found = json.loads(output.read_text(encoding="utf-8"))
    assert list(found["runs"]) == ["fedavgm", "fedavg", "noise-0.1"]
    assert len(found["runs"]["fedavgm"]["dice"]) == 3
    norms = [site["norm"] for site in found["runs"]["fedavgm"]["rounds"][0]["sites"]]
    assert found["runs"]["noise-0.1"]["federation"]["clip"] == pytest.approx(np.median(norms))
    assert call(data, output, "--only", "fedavgm", "--epochs", "2").exit_code != 0


@pytest.mark.slow
def test_bytes_are_counted_for_every_network(data, tmp_path):
    assert call(data, tmp_path / "f.json", "--only", "traffic,fedavgm,int8").exit_code == 0
    found = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    monet = found["traffic"]["monet"]
    for name, compression in (("fedavgm", "none"), ("int8", "int8")):  # the table says what the very apps exchanged
        for site in found["runs"][name]["rounds"][0]["sites"]:
            assert abs(site["sent"] - monet[compression]["down"]) < 16  # settings are written with their digits
            assert site["received"] == monet[compression]["up"]
    assert 4 * 403_556 < monet["none"]["up"] < 4 * 403_556 + 2000
    assert 2 * 403_556 < monet["float16"]["down"] < 2 * 403_556 + 2000
    assert 403_556 < monet["int8"]["up"] < 403_556 + 2000
    merged = federated.merge({}, found)
    assert merged["traffic"] == {"machine": found["machines"]["traffic"], "bytes": found["traffic"]}
    assert "| MoNet | float16 | " in federated_page.page(merged)


MACHINE = {"cpu": "x", "cores": 1, "load": 0, "system": "x", "date": "x", "revision": "x", "versions": {}}
PATIENTS = ("TCGA_CS_1", "TCGA_DU_1", "TCGA_HT_1")
EQUAL, BETTER, WORSE = (0.5, 0.6, 0.7), (0.6, 0.7, 0.8), (0.4, 0.5, 0.6)


def part(rounds, recipe=30, **dice):
    """A file of `run`: trainings of one length with the Dice of three patients."""
    runs = {name.replace("_", "-"): {"dice": dict(zip(PATIENTS, values, strict=True))} for name, values in dice.items()}
    settings = Settings(dataset="d", net="monet", preprocess=make_record("a"), recipe=replace(STRONG, epochs=recipe))
    return {"rounds": rounds, "epochs": 1, "settings": to_json(settings), "runs": runs, "machines": dict.fromkeys(runs, MACHINE)}


def page_of(*parts):
    found = {}
    for one in parts:
        found = federated.merge(found, one)
    return federated_page.page(found)


def test_the_page_pairs_patients_with_the_pooled_training_of_the_same_length():
    float16, alone = (0.6, 0.7, 0.7), (0.1, 0.2, 0.3)
    long = part(30, pooled=EQUAL, fedavgm=BETTER, fedbn=EQUAL, float16=float16, CS=alone, DU=alone, HT=EQUAL)
    long["runs"]["fedbn"]["own"] = long["runs"]["fedavgm"]["dice"]
    page = page_of(long, part(9, pooled=BETTER, fedavgm=EQUAL, CS=alone))
    assert "| training | 9 rounds | 30 rounds |" in page
    assert "| pooled | 0.700 | 0.600 |" in page
    assert "| FedAvgM | 0.600 | 0.700 |" in page
    assert "| FedAvgM | -0.100 (-0.100 to -0.100) | +0.100 (+0.100 to +0.100) |" in page
    own = "| FedBN, each site's patients with its own BatchNorm |"
    assert f"{own}  | 0.700 |" in page
    assert f"{own}  | +0.100 (+0.100 to +0.100) |" in page
    assert "FedBN" not in page_of(part(9, pooled=BETTER, fedavgm=EQUAL))  # it can no longer be recorded
    assert "float16 minus float32 traffic at 30 rounds: -0.0333 (" in page
    assert "single sites' models at 30 rounds: 0.333; FedAvgM minus that, paired: +0.367 (+0.367 to +0.367)." in page
    assert "single sites' models at 9 rounds" not in page  # two of the three are missing there
    whose = page.split("patients are from, at 30 rounds:")[1].split("##")[0]
    assert "| training | CS (1 patients) | DU (1 patients) | HT (1 patients) |" in whose
    assert "| FedBN (averaged statistics) | 0.500 | 0.600 | 0.700 |" in whose
    assert f"{own} 0.600 | 0.700 | 0.800 |" in whose
    assert "int8" not in whose  # not recorded


def test_the_page_says_what_is_not_recorded():
    page = page_of(part(9, pooled=EQUAL, fedavgm=WORSE), part(30, fedavgm=WORSE, CS=WORSE))
    assert page.count(f"| FedAvg | {federated_page.MISSING} |  |") == 2
    assert "| CS alone |  | 0.500 |" in page
    assert f"| CS alone | {federated_page.MISSING} |  |" in page  # nothing there to subtract
    assert "An empty cell: not recorded at that length." in page


def test_the_verdict_begins_with_the_recipes_own_length():
    parts = [part(9, pooled=EQUAL, fedavgm=WORSE), part(30, pooled=EQUAL, fedavgm=BETTER), part(60, fedavgm=WORSE)]
    told = "at 30 rounds, the recipe's own length, 0.100 above (+0.100 to +0.100); at 9 rounds 0.100 below (-0.100 to -0.100)."
    assert f": {told}\n" in page_of(*parts)  # at 60 there is nothing to subtract
    assert f"intervals: {federated_page.MISSING}." in page_of(parts[-1])


def test_noise_stands_beside_the_dice_without_it_of_the_same_length():
    noisy = part(9, fedavgm=EQUAL, noise_1=WORSE)
    noisy["runs"]["noise-1"] |= {"federation": {"noise": 1.0, "delta": 1e-5}, "rounds": [{"epsilon": 3.0}]}
    page = page_of(noisy, part(30, fedavgm=BETTER))
    assert "| 1 | 9 rounds | 3 | 1e-05 | 0.500 | 0.600 |" in page
    assert f"| 0.1 | {federated_page.MISSING} |" in page
    assert "With 3 sites, 0.500 is the best Dice below that." in page


def test_lengths_are_kept_apart_and_the_newer_training_counts():
    first = {**part(9, pooled=EQUAL, CS=EQUAL), "traffic": {"monet": {}}}
    first["machines"]["traffic"] = MACHINE
    found = federated.merge(federated.merge({}, first), part(9, CS=WORSE, DU=EQUAL))
    found = federated.merge(found, part(30, CS=BETTER))
    assert {length: list(runs) for length, runs in found["experiments"].items()} == {"9x1": ["pooled", "CS", "DU"], "30x1": ["CS"]}
    assert [found["experiments"][length]["CS"]["dice"]["TCGA_CS_1"] for length in ("9x1", "30x1")] == [0.4, 0.6]
    assert found["traffic"] == {"machine": MACHINE, "bytes": {"monet": {}}}
    only_traffic = {**first, "runs": {}, "rounds": 60}
    assert federated.merge(found, only_traffic) == found  # no empty column for it
    assert f"## Dice\n\n{federated_page.MISSING}\n" in federated_page.page(federated.merge({}, only_traffic))


def test_trainings_with_other_settings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(federated, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(federated, "PAGE", tmp_path / "page.md")
    for name, one in {"a": part(9, pooled=EQUAL), "b": part(30, pooled=EQUAL), "c": part(30, recipe=8, CS=EQUAL)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(one), encoding="utf-8")
    assert CliRunner().invoke(federated.app, ["page", str(tmp_path / "a.json"), str(tmp_path / "b.json")]).exit_code == 0
    recorded = federated.RESULTS.read_text(encoding="utf-8")
    result = CliRunner().invoke(federated.app, ["page", str(tmp_path / "c.json")])
    assert result.exit_code == 2
    assert "other settings than" in result.output
    assert federated.RESULTS.read_text(encoding="utf-8") == recorded
    assert "| pooled | 0.600 | 0.600 |" in federated.PAGE.read_text(encoding="utf-8")


def test_an_interval_holds_the_mean_and_grows_with_the_spread():
    mean, low, high = paired.interval([0.1, 0.1, 0.1])
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    rng = np.random.default_rng(1)
    mean, low, high = paired.interval(rng.normal(0.1, 1, 400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_the_committed_page_is_what_the_record_gives():
    assert federated.PAGE.read_text(encoding="utf-8") == federated_page.page(json.loads(federated.RESULTS.read_text(encoding="utf-8")))


def test_the_manual_tells_the_recorded_figures():
    found = json.loads(federated.RESULTS.read_text(encoding="utf-8"))
    manual = " ".join((federated.HERE.parent / "docs" / "federated.md").read_text(encoding="utf-8").split())
    megabytes = Federation.rounds * sum(found["traffic"]["bytes"]["monet"]["none"].values()) / 1e6
    assert f"{Federation.rounds} rounds of MoNet are {megabytes:.0f} MB a site" in manual
    for length, name in product(("30x1", "60x1", "100x1"), ("pooled", "fedavgm")):
        assert f"{np.mean(list(found['experiments'][length][name]['dice'].values())):.3f}" in manual
