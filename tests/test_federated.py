"""Federated training in one process: no reply can poison the network, a killed server goes on, nothing but its due travels."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

import federation as fed
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from monet_edge import weights
from monet_edge.errors import ModelError, MonetError, OutputError
from trainer import checkpoint
from trainer.config_text import from_json, to_json
from trainer.federated import client_app, rounds, run, settings, site, wire
from trainer.federated.compress import decode, encode, layout
from trainer.federated.local import Grid, run_here
from trainer.federated.privacy import epsilon
from trainer.federated.settings import Federation, tensor_shapes

TWO = Federation(rounds=2, sites=2, minimum=2, wait=0.2)
NODES = [{"name": "a"}, {"name": "b"}, {"name": "c"}]


@pytest.fixture
def tiny(monkeypatch):
    return fed.tiny_network(monkeypatch)


@pytest.fixture
def alike(tiny):
    """Settings of the tiny network, for whoever has to answer like a site."""
    return fed.make_settings(TWO, tiny)


def result(folder: Path) -> dict:
    return json.loads((folder / rounds.ROUNDS).read_text())


def tensors(folder: Path) -> dict[str, np.ndarray]:
    found = checkpoint.newest(folder)
    assert found is not None
    return {name: tensor.numpy() for name, tensor in found[0].items()}


def scored(message: Message) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"val_loss": 0.5})}), reply_to=message)


def train(folder, federation, net, first_site, alike):
    """A run whose first site answers as told and whose others add 0.5 to everything."""

    def client(message, context):
        if message.metadata.message_type == "evaluate":
            return scored(message)
        return first_site(message, context) if context.node_id == 1 else fed.reply(message, alike)

    nodes = NODES[: federation.sites]
    run_here(nodes, fed.make_config(folder, federation, net), client)
    return result(folder)


def bad_arrays(alike, change):
    expected = layout(tensor_shapes(alike), "none", down=False)
    record = wire.pack({name: np.zeros(shape, np.float32) for name, (shape, _) in expected.items()}, expected)
    (name, array), *_ = record.items()
    return change(name, array.numpy())


FAULTS = {
    "NaN": (lambda m, s: fed.reply(m, s, value=np.nan), "NaN"),
    "infinite": (lambda m, s: fed.reply(m, s, value=np.inf), "NaN or infinite"),
    "NaN examples": (lambda m, s: fed.reply(m, s, examples=math.nan), "slices"),
    "negative examples": (lambda m, s: fed.reply(m, s, examples=-5), "slices"),
    "no examples": (lambda m, s: fed.reply(m, s, examples=0), "slices"),
    "absurd examples": (lambda m, s: fed.reply(m, s, examples=10**12), "slices"),
    "a list of examples": (lambda m, s: fed.reply(m, s, examples=[1, 2]), "slices"),
    "NaN loss": (lambda m, s: fed.reply(m, s, loss=math.nan), "loss"),
    "a name of control characters": (lambda m, s: fed.reply(m, s, name="\x1b[2J"), "name"),
    "one number": (lambda m, s: fed.reply(m, s, arrays=bad_arrays(s, lambda n, a: fed.raw_record({n: a[:1]}))), "bytes"),
    "another shape": (lambda m, s: fed.reply(m, s, arrays=bad_arrays(s, lambda n, a: fed.raw_record({n: a[None]}))), "bytes"),
    "another dtype": (lambda m, s: fed.reply(m, s, arrays=bad_arrays(s, lambda n, a: fed.raw_record({n: a.view("<f4")}))), "bytes"),
    "another network": (lambda m, s: fed.reply(m, replace(s, net="monet")), "other names, shapes"),
    "other names": (lambda m, s: fed.reply(m, s, arrays=bad_arrays(s, lambda n, a: fed.raw_record({"weights": a}))), "other names"),
    "too many arrays": (
        lambda m, s: fed.reply(m, s, arrays=bad_arrays(s, lambda n, a: fed.raw_record({n: a, "more": a}))),
        "other names",
    ),
    "no arrays": (lambda m, s: Message(RecordDict(), reply_to=m), "missing"),
    "an error": (lambda m, s: Message(Error(1, "disk full"), reply_to=m), "disk full"),
    "silence": (lambda m, s: None, "no reply"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_reply_is_left_out_and_the_others_are_averaged(fault, tiny, alike, tmp_path):
    answer, reason = FAULTS[fault]
    federation = Federation(rounds=1, sites=3, minimum=2)
    found = train(tmp_path, federation, tiny, lambda message, context: answer(message, alike), alike)
    row = found["rounds"][0]
    assert row["kept"]
    assert reason in row["sites"][0]["refused"]
    assert not any("refused" in site for site in row["sites"][1:])
    start = rounds._start(federation, fed.make_settings(federation, tiny), tmp_path / "new", resume=False).tensors
    for name, tensor in tensors(tmp_path).items():
        np.testing.assert_allclose(tensor, start[name] + 0.5, rtol=1e-6)


def test_an_update_that_leads_beyond_float32_is_refused(alike):
    start = {name: np.full(shape, 3e38, np.float32) for name, shape in tensor_shapes(alike).items()}
    with pytest.raises(wire.MessageError, match="range"):
        rounds._as_reply(start, wire.Update("a", 1, 0.1, start, 1.0), TWO)


@pytest.mark.parametrize("compression", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_compression_hides_no_value_that_is_not_finite(compression, value):
    expected = layout({"a": (2, 3)}, compression, down=False)
    change = np.ones((2, 3), np.float32)
    change[0, 0] = value
    with pytest.raises(wire.MessageError, match="NaN"):
        wire.unpack(RecordDict({"arrays": wire.pack(encode({"a": change}, expected), expected)}), expected)


@pytest.mark.parametrize("change", [lambda n, a: ArrayRecord(), lambda n, a: fed.raw_record({n: np.zeros(10**6, np.uint8)})])
def test_a_site_refuses_arrays_that_are_not_the_networks(change, alike):
    config = {"settings": to_json(alike), "epochs": 1, "fresh": True, "batch-norm": "averaged", "compression": "none"}
    content = RecordDict({"arrays": bad_arrays(alike, change), "config": ConfigRecord({**config, "server-round": 1})})
    message = Message(content=content, message_type="train", dst_node_id=1)
    answer = client_app.train(message, Context(0, 1, {"prepared": "/nowhere", "memory": "/nowhere", "name": "a"}, RecordDict(), {}))
    assert answer.has_error()
    assert "refuses" in answer.error.reason


def test_what_fails_at_a_site_stays_in_its_own_log(alike, tmp_path):
    start = rounds._start(TWO, alike, tmp_path / "run", resume=False)
    message = Message(content=rounds.round_content(TWO, alike, start, 1), message_type="train", dst_node_id=1)
    node = {"prepared": str(tmp_path / "patient-Smith"), "memory": str(tmp_path / "m"), "name": "a"}
    answer = client_app.train(message, Context(0, 1, node, RecordDict(), {}))
    assert answer.has_error()
    assert "DatasetError" in answer.error.reason
    assert "Smith" not in answer.error.reason


def test_too_few_replies_keep_the_old_network(tiny, alike, tmp_path):
    def sick_at_first(message, context):
        number = message.content["config"]["server-round"]
        return fed.reply(message, alike, value=np.nan if number == 1 else 0.5)

    found = train(tmp_path, TWO, tiny, sick_at_first, alike)
    assert [row["kept"] for row in found["rounds"]] == [False, True]
    start = rounds._start(TWO, alike, tmp_path / "new", resume=False).tensors
    name = next(iter(start))
    np.testing.assert_allclose(tensors(tmp_path)[name], start[name] + 0.5, rtol=1e-6)
    assert weights.load(tmp_path / rounds.MODEL).provenance["rounds"] == 1


def test_a_run_without_one_good_round_fails_and_says_why(tiny, alike, tmp_path):
    with pytest.raises(MonetError, match=r"no round had enough valid replies.*NaN"):
        train(tmp_path, TWO, tiny, lambda message, context: fed.reply(message, alike, value=np.nan), alike)
    assert "NaN" in (tmp_path / rounds.ERROR).read_text()
    assert not (tmp_path / rounds.MODEL).exists()


def test_waiting_for_sites_ends_and_says_for_what(tiny, tmp_path):
    with pytest.raises(MonetError, match=r"waited 0.2 s for 2 sites, 1 are connected"):
        run_here(NODES[:1], fed.make_config(tmp_path, TWO, tiny), lambda message, context: None)


def test_a_site_that_disappears_and_comes_back_takes_part_again(tiny, alike, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(Grid, "get_node_ids", lambda self: [1, 3] if asked.get(1) and not asked.get(2) else [1, 2, 3])

    def client(message, context):
        if message.metadata.message_type == "evaluate":
            return scored(message)
        number = message.content["config"]["server-round"]
        asked.setdefault(number, []).append(context.node_id)
        return None if (number, context.node_id) == (1, 2) else fed.reply(message, alike)

    run_here(NODES, fed.make_config(tmp_path, Federation(rounds=3, sites=3, minimum=2), tiny), client)
    assert asked == {1: [1, 2, 3], 2: [1, 3], 3: [1, 2, 3]}
    assert [row["kept"] for row in result(tmp_path)["rounds"]] == [True, True, True]


def test_a_second_reply_of_the_same_site_does_not_count(tiny, alike, tmp_path, monkeypatch):
    def twice(self, messages, timeout):
        return [fed.reply(messages[0], alike), fed.reply(messages[0], alike)]

    monkeypatch.setattr(Grid, "send_and_receive", twice)
    with pytest.raises(MonetError, match="no round had enough"):
        run_here(NODES[:2], fed.make_config(tmp_path, TWO, tiny))


def test_replies_weigh_as_many_slices_as_they_have(tiny, alike, tmp_path):
    train(tmp_path, replace(TWO, rounds=1), tiny, lambda message, context: fed.reply(message, alike, value=4.5, examples=300), alike)
    start = rounds._start(TWO, alike, tmp_path / "new", resume=False).tensors
    name = next(iter(start))
    np.testing.assert_allclose(tensors(tmp_path)[name], start[name] + 3.5, rtol=1e-6)  # (3 * 4.5 + 0.5) / 4


def test_a_variance_never_falls_below_zero(tiny, alike, tmp_path):
    train(tmp_path, replace(TWO, rounds=1), tiny, lambda message, context: fed.reply(message, alike, value=-9.0), alike)
    found = tensors(tmp_path)
    assert all(found[name].min() == 0 for name in found if name.endswith("running_var"))


def test_settings_survive_the_way_through_flower(tiny, alike, tmp_path):
    config = settings.to_run_config(TWO, alike, "out", False)
    assert settings.from_run_config(config) == (TWO, alike, "out", False)
    with pytest.raises(MonetError, match="lacks rounds"):
        settings.from_run_config({key: value for key, value in config.items() if key != "rounds"})
    with pytest.raises(MonetError, match="rounds"):
        settings.from_run_config({**config, "rounds": "many"})


@pytest.mark.parametrize("text", ["", "[]", "{}", "x" * 20_000, '{"net": 3}', "[" * 5000])
def test_settings_of_another_machine_are_not_believed(text):
    with pytest.raises(ModelError):
        from_json(text)


@pytest.mark.parametrize("values", [{"rounds": 0}, {"minimum": 3}, {"compression": "zip"}, {"noise": -1.0}, {"delta": 1.0}])
def test_a_federation_that_cannot_be_is_refused(values):
    with pytest.raises(MonetError):
        Federation(**values)


def test_a_plateau_is_nothing_that_sites_could_wait_for(alike):
    with pytest.raises(MonetError, match="plateau"):
        settings.for_sites(replace(alike, recipe=replace(alike.recipe, schedule="plateau")), TWO)


@pytest.mark.parametrize(("compression", "share", "error"), [("none", 1.0, 0.0), ("float16", 0.5, 5e-4), ("int8", 0.25, 4e-3)])
def test_compression_takes_its_share_of_the_bytes(compression, share, error, rng):
    change = {"a.weight": rng.normal(0, 1, (64, 32, 3, 3)).astype(np.float32), "b.bias": np.zeros(7, np.float32)}
    expected = layout({name: tensor.shape for name, tensor in change.items()}, compression, down=False)
    sent = wire.pack(encode(change, expected), expected)
    assert sent.count_bytes() == pytest.approx(share * sum(tensor.nbytes for tensor in change.values()), rel=0.01)
    found = wire.unpack(RecordDict({"arrays": sent}), expected)
    for name, tensor in change.items():
        assert np.abs(found[name] - tensor).max() <= error * np.abs(change["a.weight"]).max()


def test_fed_back_errors_do_not_add_up(rng):
    """Ten roundings to 8 bits with error feedback lose no more than one; without, they may lose ten times as much."""
    total, residual, sent = np.zeros(1000), np.zeros(1000, np.float32), np.zeros(1000)
    for _ in range(10):
        change = rng.normal(0, 1, 1000).astype(np.float32)
        total += change
        arrays = encode({"x": change + residual}, layout({"x": (1000,)}, "int8", down=False))
        received = decode(arrays)["x"]
        residual = change + residual - received
        sent += received
    assert np.abs(sent - total).max() <= arrays["scales"][0]


# Google's dp-accounting 0.6.0, PLDAccountant, delta 1e-5 (an upper bound, so ours may lie 0.1 % below)
@pytest.mark.parametrize(
    ("noise", "releases", "ref"), [(1, 1, 4.37718), (1, 30, 37.6225), (0.1, 30, 1733.598), (5, 30, 4.86608), (20, 30, 1.02383)]
)
def test_epsilon_is_what_dp_accounting_finds(noise, releases, ref):
    assert epsilon(noise, releases, 1e-5) == pytest.approx(ref, rel=1e-3)


def test_noise_clips_every_update_and_is_accounted_for(tiny, alike, tmp_path):
    federation = Federation(rounds=2, sites=2, noise=1e-6, clip=1.0)
    found = train(tmp_path, federation, tiny, lambda message, context: fed.reply(message, alike), alike)
    start = rounds._start(federation, alike, tmp_path / "new", resume=False).tensors
    moved = math.sqrt(sum(float(np.square(tensor - start[name]).sum()) for name, tensor in tensors(tmp_path).items()))
    assert moved == pytest.approx(2.0, rel=1e-3)  # two rounds, both sites the same way
    assert found["rounds"][1]["epsilon"] > found["rounds"][0]["epsilon"]


def test_noise_needs_every_site(tiny, alike, tmp_path):
    federation = Federation(rounds=1, sites=2, minimum=1, noise=1.0)
    with pytest.raises(MonetError, match="no round had enough"):
        train(tmp_path, federation, tiny, lambda message, context: None, alike)


def test_nothing_but_loopback_goes_without_tls():
    node = {"name": "a", "prepared": "/p", "memory": "/m"}
    tls = run.Tls(Path("c.pem"), Path("k.pem"), Path("ca.pem"))
    for host in ("0.0.0.0", "::", "hospital.example", "10.0.0.1", "localhost.example"):
        with pytest.raises(MonetError, match="other machines"):
            run.superlink_command(host, 8000, None)
        with pytest.raises(MonetError, match="another machine"):
            run.supernode_command(f"{host}:8000", node, 9000, tls.authority, None)
        assert "--enable-supernode-auth" in run.superlink_command(host, 8000, tls)
        assert "--insecure" not in run.superlink_command(host, 8000, tls)
        assert "--auth-supernode-private-key" in run.supernode_command(f"{host}:8000", node, 9000, tls.authority, tls.key)
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert "--insecure" in run.superlink_command(host, 8000, None)
        assert "--insecure" in run.supernode_command(f"{host}:8000", node, 9000, None, None)


def test_telemetry_is_off_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    assert run.environment(tmp_path)["FLWR_TELEMETRY_ENABLED"] == "0"
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert run.environment(tmp_path)["FLWR_TELEMETRY_ENABLED"] == "1"
    assert "--disable-runtime-dependency-installation" in run.superlink_command("127.0.0.1", 8000, None)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return fed.make_sites(tmp_path_factory.mktemp("sites"))


def test_one_site_alone_is_a_pooled_training(sites, tiny, tmp_path):
    """One site, one round: what `fit` would do in its first epoch, bit for bit."""
    federation = Federation(rounds=1, epochs=2, sites=1, minimum=1)
    run_here(sites[:1], fed.make_config(tmp_path / "run", federation, tiny), client_app.app)
    from trainer.dataset import split
    from trainer.prepare import open_prepared
    from trainer.train import fit

    prepared = open_prepared(Path(sites[0]["prepared"]))
    ref = fit(fed.make_settings(federation, tiny), prepared, split(list(prepared.keys))[0], tmp_path / "pooled", device="cpu")
    found = tensors(tmp_path / "run")
    for name, tensor in ref.state_dict().items():
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-6)  # an update is a difference: rounded once


def test_fedbn_keeps_a_sites_own_batchnorm(sites, tiny, tmp_path):
    nodes = [{**site, "memory": str(tmp_path / site["name"])} for site in sites]
    federation = Federation(rounds=2, sites=2, batch_norm="local", compression="int8")
    run_here(nodes, fed.make_config(tmp_path / "run", federation, tiny))
    north, south = (checkpoint.load(tmp_path / site["name"])[0] for site in sites)
    own = [name for name in north if name.startswith("own.")]
    assert len(own) == 4 * sum(name.endswith(".bn.weight") for name in own) > 0
    assert not any(np.array_equal(north[name], south[name]) for name in own if name.endswith("running_mean"))
    assert not [name for name in own if "num_batches_tracked" in name]
    average = tensors(tmp_path / "run")
    for name in own:
        np.testing.assert_allclose(average[name.removeprefix("own.")], (north[name] + south[name]) / 2, atol=0.05)
    provenance = weights.load(tmp_path / "run" / rounds.MODEL).provenance
    assert [site["name"] for site in provenance["sites"]] == ["north", "south"]
    assert "FedBN" in provenance["note"]
    assert all("val_dice_1" in scores for scores in result(tmp_path / "run")["scores"])


def test_fedbn_starts_every_round_but_the_first_from_the_sites_own(sites, tiny, tmp_path, monkeypatch):
    begun = []
    real = site.Site.train
    monkeypatch.setattr(site.Site, "train", lambda self, start, *rest: begun.append(start) or real(self, start, *rest))
    nodes = [{**node, "memory": str(tmp_path / node["name"])} for node in sites]
    run_here(nodes, fed.make_config(tmp_path / "run", Federation(rounds=2, sites=2, batch_norm="local"), tiny))
    norms = [name for name in begun[0] if name.endswith("running_mean")]
    assert all(np.array_equal(begun[0][name], begun[1][name]) for name in norms)
    assert not any(np.array_equal(begun[2][name], begun[3][name]) for name in norms)
    assert all(np.array_equal(begun[2][name], begun[3][name]) for name in begun[0] if ".bn." not in name)


def test_a_site_remembers_nothing_of_another_training(tmp_path):
    memory = site.Memory(tmp_path / "m", "these", {"a.bn.bias": np.ones(2, np.float32)}, {"a.weight": np.ones(3, np.float32)})
    memory.write()
    found = site.Memory.read(tmp_path / "m", "these", fresh=False)
    assert found.own.keys() == {"a.bn.bias"}
    assert found.residual.keys() == {"a.weight"}
    for settings_json, fresh in (("these", True), ("others", False)):
        found = site.Memory.read(tmp_path / "m", settings_json, fresh)
        assert not found.own
        assert not found.residual


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
import federation as fed
from monet_edge.architectures import ARCHITECTURES, monet
from trainer.federated.client_app import app
from trainer.federated.local import run_here

ARCHITECTURES["tiny"] = lambda channels=1, classes=1: monet(channels, classes, filters=4, depth=1)

def client(message, context):
    if message.content["config"]["server-round"] == 3 and context.node_id == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return app(message, context)

run_here({nodes!r}, {config!r}, client)
"""


def test_a_server_killed_in_a_round_goes_on_from_the_last_one(sites, tiny, tmp_path):
    federation = Federation(rounds=4, sites=2)
    run_here(sites, fed.make_config(tmp_path / "whole", federation, tiny))
    config = fed.make_config(tmp_path / "killed", federation, tiny)
    script = KILLED.format(tests=str(Path(__file__).parent), nodes=sites, config=config)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert done.returncode == -9
    assert len(result(tmp_path / "killed")["rounds"]) == 2
    with pytest.raises(OutputError, match="--resume"):
        run_here(sites, config)
    with pytest.raises(OutputError, match="other settings"):
        run_here(sites, fed.make_config(tmp_path / "killed", replace(federation, epochs=2), tiny, resume=True))
    run_here(sites, fed.make_config(tmp_path / "killed", federation, tiny, resume=True))
    ref, comp = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert all(np.array_equal(ref[name], comp[name]) for name in ref)
