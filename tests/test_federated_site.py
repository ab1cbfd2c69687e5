"""A site in one process: it refuses what is not its network's, keeps its own to itself, and trains as `fit` does."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

import federation as fed
from federation import TWO, bad_arrays, result, tensors
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from monet_edge import weights
from monet_train import checkpoint
from monet_train.config_text import to_json
from monet_train.federated import client_app, flower, rounds, server_app, site, state, wire, worker
from monet_train.federated.local import run_here
from monet_train.federated.settings import Federation
from monet_train.prepare import open_prepared
from monet_train.splits import split
from monet_train.train import fit


@pytest.mark.parametrize("change", [lambda n, a: ArrayRecord(), lambda n, a: fed.raw_record({n: np.zeros(10**6, np.uint8)})])
def test_a_site_refuses_arrays_that_are_not_the_networks(change, alike):
    config = {"run": "1", "settings": to_json(alike), "epochs": 1, "kept-round": 0, "compression": "none"}
    content = RecordDict({"arrays": bad_arrays(alike, change), "config": ConfigRecord({**config, "server-round": 1})})
    message = Message(content=content, message_type="train", dst_node_id=1)
    answer = client_app.train(message, Context(0, 1, {"prepared": "/nowhere", "memory": "/nowhere", "name": "a"}, RecordDict(), {}))
    assert answer.has_error()
    assert "refuses" in answer.error.reason


def test_what_fails_at_a_site_stays_in_its_own_log(alike, tmp_path):
    start = state.start(TWO, alike, tmp_path / "run", resume=False)
    message = Message(content=rounds.round_content(TWO, alike, start, 1), message_type="train", dst_node_id=1)
    node = {"prepared": str(tmp_path / "patient-Smith"), "memory": str(tmp_path / "m"), "name": "a"}
    answer = client_app.train(message, Context(0, 1, node, RecordDict(), {}))
    assert answer.has_error()
    assert "DatasetError" in answer.error.reason
    assert "Smith" not in answer.error.reason


@pytest.mark.parametrize(("rounds", "epochs"), [(1, 2), (2, 1)])
def test_one_site_alone_is_a_pooled_training(sites, tiny, tmp_path, rounds, epochs):
    """What `fit` would do in its first epochs, its optimiser's moments included, but for the rounding of updates, which are differences."""
    federation = Federation(rounds=rounds, epochs=epochs, sites=1, minimum=1, momentum=0)
    run_here(sites[:1], fed.make_config(tmp_path / "run", federation, tiny), client_app.app)
    prepared = open_prepared(Path(sites[0]["prepared"]))
    ref = fit(fed.make_settings(federation, tiny), prepared, split(list(prepared.keys))[0], tmp_path / "pooled", device="cpu")
    found = tensors(tmp_path / "run")
    for name, tensor in ref.state_dict().items():
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-6)


def test_sites_train_compressed_and_score_the_network_they_made(sites, tiny, tmp_path):
    nodes = [{**site, "memory": str(tmp_path / site["name"])} for site in sites]
    federation = Federation(rounds=2, sites=2, compression="int8")
    run_here(nodes, fed.make_config(tmp_path / "run", federation, tiny))
    north, south = (checkpoint.load(tmp_path / site["name"] / "memory-1.safetensors")[0] for site in sites)
    assert {name.partition(".")[0] for name in (*north, *south)} == {"moments", "residual"}
    provenance = weights.load(tmp_path / "run" / state.MODEL).provenance
    assert [site["name"] for site in provenance["sites"]] == ["north", "south"]
    about = json.loads((Path(sites[0]["prepared"]) / "prepared.json").read_text("utf-8"))
    assert provenance["sites"][0]["data"] == {key: about[key] for key in ("name", "reference", "licence")} | {
        "modality": ", ".join(filter(None, about["modalities"]))
    }
    assert provenance["licence"] == provenance["data"]["licence"] == about["licence"] != ""
    assert provenance["data"]["name"] == about["name"] != ""
    assert all("val_dice_1" in scores for scores in result(tmp_path / "run")["scores"])


def test_the_exported_file_says_what_every_site_trained_on(alike):
    told = {"north": {"name": "a", "reference": "", "licence": "CC BY 4.0", "modality": "FLAIR"}}
    told["south"] = {"name": "b", "reference": "", "licence": "CC0", "modality": "FLAIR"}
    rows = [{"node": i, "name": name, "examples": 9, "loss": 0.1, "source": source} for i, (name, source) in enumerate(told.items())]
    run = state.Run("id", {}, {}, [{"kept": True, "seconds": 1.0, "sites": rows}], [])
    record = server_app.provenance(TWO, alike, run)
    assert (record["modality"], record["licence"], record["data"]["name"]) == ("FLAIR", "CC BY 4.0; CC0", "a; b")
    assert [site["data"] for site in record["sites"]] == list(told.values())
    del rows[1]["source"]  # a round kept by an earlier version
    assert server_app.provenance(TWO, alike, run)["licence"] == "CC BY 4.0; not stated"


@pytest.mark.parametrize("words", [5, "two\nlines", "x" * 1001])
def test_what_a_site_says_of_its_data_is_checked(words):
    with pytest.raises(wire.MessageError, match="must say what its data are: the data's licence"):
        wire.read_source(ConfigRecord({"name": "a", "licence": words}))


def test_a_site_remembers_the_last_round_that_counted_but_nothing_of_another_run(tmp_path):
    parts = ("moments", "residual")

    def read(run, last):
        memory = site.Memory.read(tmp_path, run, last)
        return [sorted(getattr(memory, part)) for part in parts]

    def round_(number, last):
        memory = site.Memory.read(tmp_path, "this", last)
        for part in parts:
            setattr(memory, part, {f"of.{number}": np.ones(2, np.float32)})
        memory.write(number)

    nothing = [[], []]
    assert read("this", 9) == nothing
    round_(1, last=0)
    round_(2, last=1)
    round_(4, last=3)  # it was away in round 3
    assert read("this", 4) == [["of.4"]] * 2
    assert read("this", 3) == [["of.2"]] * 2  # round 4 is asked for again, since the server was killed in it
    round_(5, last=2)  # nobody's round 4 counted
    assert read("this", 5) == [["of.5"]] * 2
    assert read("this", 4) == [["of.2"]] * 2
    assert read("this", 0) == nothing  # the network is untrained
    assert read("another", 5) == nothing
    checkpoint.save(tmp_path / "memory-0.safetensors", {}, {"another": "thing"})
    checkpoint.save(tmp_path / "memory-1.safetensors", {}, {"another": "thing"})
    assert read("this", 9) == nothing


def test_a_site_goes_on_from_the_last_round_that_counted(sites, tiny, tmp_path, monkeypatch):
    """A third site is away in round 2, which then counts for nobody."""
    steps = []  # that the optimiser had taken at the end of every site's round
    real = site.Site.train

    def train(*given):
        trained = real(*given)
        steps.append(int(trained[1]["0.step"]))
        return trained

    def client(message, context):
        away = context.node_id == 3 and message.metadata.message_type == "train" and message.content["config"]["server-round"] == 2
        return None if away else client_app.app(message, context)

    monkeypatch.setattr(site.Site, "train", train)
    nodes = [{**sites[0], "memory": str(tmp_path / str(number)), "name": str(number)} for number in range(3)]
    run_here(nodes, fed.make_config(tmp_path / "run", Federation(rounds=3, sites=3, minimum=3), tiny), client)
    assert [row["kept"] for row in result(tmp_path / "run")["rounds"]] == [True, False, True]
    assert steps == [steps[0]] * 3 + [2 * steps[0]] * 5  # round 1, round 2 without the third site, round 3: the second time again


@pytest.mark.slow
def test_what_a_site_kept_of_an_earlier_run_changes_nothing_in_the_next(sites, tiny, tmp_path):
    """Two runs with the same folders for the sites' memory: the second is what it is without the first."""
    federation = Federation(rounds=2, sites=2)
    nodes = [{**node, "memory": str(tmp_path / node["name"])} for node in sites]
    run_here(nodes, fed.make_config(tmp_path / "first", replace(federation, compression="int8"), tiny))
    assert all(Path(node["memory"]).exists() for node in nodes)
    run_here(nodes, fed.make_config(tmp_path / "next", federation, tiny))
    run_here(sites, fed.make_config(tmp_path / "alone", federation, tiny))
    ref, comp = tensors(tmp_path / "alone"), tensors(tmp_path / "next")
    assert all(np.array_equal(ref[name], comp[name]) for name in ref)


def test_a_worker_refuses_a_kind_of_message_it_does_not_know(alike, monkeypatch):
    message, sent = Message(content=RecordDict(), message_type="query", dst_node_id=1), []
    monkeypatch.setattr(flower, "pull", lambda client: (message, Context(0, 1, {}, RecordDict(), {})))
    monkeypatch.setattr(flower, "push", lambda client, reply, context: sent.append(reply))
    worker.answer("127.0.0.1:1", "token")
    assert "nothing else" in sent[0].error.reason
