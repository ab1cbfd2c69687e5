"""The server in one process: no reply can poison the network, sites may come and go, a killed server goes on."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="the extra federated is not installed")

import federation as fed
from federation import NODES, TWO, bad_arrays, result, scored, tensors, train
from flwr.app import Error, Message, MetricRecord, RecordDict

from monet_edge import weights
from monet_edge.errors import MonetError, OutputError
from monet_train import checkpoint
from monet_train.federated import rounds, state, wire
from monet_train.federated.average import average, check_range
from monet_train.federated.local import Grid, run_here
from monet_train.federated.settings import Federation, tensor_shapes

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
    start = state.start(federation, fed.make_settings(federation, tiny), tmp_path / "new", resume=False).tensors
    for name, tensor in tensors(tmp_path).items():
        np.testing.assert_allclose(tensor, start[name] + 0.5, rtol=1e-6)


def test_an_update_that_leads_beyond_float32_is_refused(alike):
    start = {name: np.full(shape, 3e38, np.float32) for name, shape in tensor_shapes(alike).items()}
    with pytest.raises(wire.MessageError, match="range"):
        check_range(start, start)


def test_too_few_replies_keep_the_old_network(tiny, alike, tmp_path):
    def sick_at_first(message, context):
        number = message.content["config"]["server-round"]
        return fed.reply(message, alike, value=np.nan if number == 1 else 0.5)

    found = train(tmp_path, TWO, tiny, sick_at_first, alike)
    assert [row["kept"] for row in found["rounds"]] == [False, True]
    start = state.start(TWO, alike, tmp_path / "new", resume=False).tensors
    name = next(iter(start))
    np.testing.assert_allclose(tensors(tmp_path)[name], start[name] + 0.5, rtol=1e-6)
    assert weights.load(tmp_path / state.MODEL).provenance["rounds"] == 1


def test_a_run_without_one_good_round_fails_and_says_why(tiny, alike, tmp_path):
    with pytest.raises(MonetError, match=r"no round had enough valid replies.*NaN"):
        train(tmp_path, TWO, tiny, lambda message, context: fed.reply(message, alike, value=np.nan), alike)
    assert "NaN" in (tmp_path / state.ERROR).read_text(encoding="utf-8")
    assert not (tmp_path / state.MODEL).exists()


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
    start = state.start(TWO, alike, tmp_path / "new", resume=False).tensors
    name = next(iter(start))
    np.testing.assert_allclose(tensors(tmp_path)[name], start[name] + 3.5, rtol=1e-6)  # (3 * 4.5 + 0.5) / 4


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_the_server_goes_on_along_its_last_step(noise, tiny, alike, tmp_path):
    """Every round's replies move everything by 0.5; momentum leaves out running statistics and the step of the first round."""
    federation = replace(TWO, rounds=4, momentum=0.5, noise=noise, clip=1e3)
    train(tmp_path, federation, tiny, lambda message, context: fed.reply(message, alike), alike)
    begin = state.start(federation, alike, tmp_path / "new", resume=False).tensors
    for name, tensor in tensors(tmp_path).items():
        # 0.5, then 0.5, then 0.5 + 0.25, then 0.5 + 0.375
        np.testing.assert_allclose(tensor, begin[name] + (2.0 if ".running_" in name else 2.625), atol=1e-4)


def test_momentum_never_leads_beyond_float32(tiny, alike, tmp_path):
    run = state.start(TWO, alike, tmp_path, resume=False)
    run.history.append({"kept": True})
    run.step = {name: np.full_like(tensor, 3e38) for name, tensor in run.tensors.items()}
    average = {name: np.full_like(tensor, 3e38) for name, tensor in run.tensors.items()}
    rounds._move(run, average, TWO)
    assert all(np.array_equal(run.tensors[name], average[name]) for name in average)


def test_a_folder_of_another_run_is_told_from_a_federated_one(tiny, alike, tmp_path):
    checkpoint.keep_epoch(tmp_path, 0, {"average.a": torch.zeros(1)}, {"history": []})
    with pytest.raises(OutputError, match="another kind of run"):
        state.start(TWO, alike, tmp_path, resume=True)


def test_a_variance_never_falls_below_zero(tiny, alike, tmp_path):
    train(tmp_path, replace(TWO, rounds=1), tiny, lambda message, context: fed.reply(message, alike, value=-9.0), alike)
    found = tensors(tmp_path)
    assert all(found[name].min() == 0 for name in found if name.endswith("running_var"))


def test_noise_clips_every_update_and_is_accounted_for(tiny, alike, tmp_path):
    federation = Federation(rounds=2, sites=2, noise=1e-6, clip=1.0, momentum=0)
    found = train(tmp_path, federation, tiny, lambda message, context: fed.reply(message, alike), alike)
    start = state.start(federation, alike, tmp_path / "new", resume=False).tensors
    moved = math.sqrt(sum(float(np.square(tensor - start[name]).sum()) for name, tensor in tensors(tmp_path).items()))
    assert moved == pytest.approx(2.0, rel=1e-3)  # two rounds, both sites the same way
    assert found["rounds"][1]["epsilon"] > found["rounds"][0]["epsilon"]


def test_noise_shortens_updates_and_has_the_spread_that_epsilon_is_computed_for():
    """Two sites, one too long by far and one of nothing: each weighs half, and the noise on the sum has the SD noise * clip."""
    tensors = {"a.weight": np.zeros(100_000, np.float32), "bn.running_var": np.zeros(1000, np.float32)}
    long = {name: np.full_like(tensor, 5) for name, tensor in tensors.items()}
    norm = 5 * math.sqrt(101_000)
    updates = [wire.Update("a", 1, 0.1, long, norm), wire.Update("b", 10**4, 0.1, tensors, 0.0)]
    found = [average(tensors, updates, Federation(noise=3.0, clip=2.0)) for _ in range(2)]
    assert found[0]["a.weight"].std() == pytest.approx(3.0 * 2.0 / 2, rel=0.01)
    assert not np.array_equal(found[0]["a.weight"], found[1]["a.weight"])  # no seed is known
    assert found[0]["bn.running_var"].min() == 0
    plain = average(tensors, updates, Federation(clip=2.0))["a.weight"]  # by slices, and of any length
    np.testing.assert_allclose(plain, 5 / (1 + 10**4), rtol=1e-6)
    quiet = average(tensors, updates, Federation(noise=1e-12, clip=2.0))
    assert math.sqrt(sum(float(np.square(tensor).sum()) for tensor in quiet.values())) == pytest.approx(2.0 / 2, rel=1e-3)


def test_a_site_that_learnt_nothing_does_not_end_a_run_with_noise(tiny, alike, tmp_path):
    def idle(message, context):
        return fed.reply(message, alike, value=0.0)

    found = train(tmp_path, Federation(rounds=1, sites=2, noise=1e-6), tiny, idle, alike)
    assert [row["kept"] for row in found["rounds"]] == [True]


def test_scores_count_once_and_cannot_name_another_site(tiny, alike, tmp_path, monkeypatch):
    once = Grid.send_and_receive
    monkeypatch.setattr(Grid, "send_and_receive", lambda self, messages, timeout: 2 * once(self, messages))

    def client(message, context):
        if message.metadata.message_type == "train":
            return fed.reply(message, alike, name=f"site {context.node_id}")
        return Message(RecordDict({"metrics": MetricRecord({"val_loss": 0.5, "node": 7, "name": 8})}), reply_to=message)

    run_here(NODES[:2], fed.make_config(tmp_path, replace(TWO, rounds=1), tiny), client)
    assert result(tmp_path)["scores"] == [{"val_loss": 0.5, "node": node, "name": f"site {node}"} for node in (1, 2)]


def test_noise_needs_every_site(tiny, alike, tmp_path):
    with pytest.raises(MonetError, match="minimum must be 2"):
        Federation(sites=2, minimum=1, noise=1.0)
    federation = Federation(rounds=1, sites=2, noise=1.0)
    with pytest.raises(MonetError, match="no round had enough"):
        train(tmp_path, federation, tiny, lambda message, context: None, alike)  # of two sites one answers


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from conftest import tiny_monet
from monet_edge.architectures import ARCHITECTURES
from monet_train.federated.client_app import app
from monet_train.federated.local import run_here

ARCHITECTURES["tiny"] = tiny_monet

def client(message, context):
    if message.content["config"]["server-round"] == 3 and context.node_id == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return app(message, context)

run_here({nodes!r}, {config!r}, client)
"""


@pytest.mark.slow
def test_a_server_killed_in_a_round_goes_on_from_the_last_one(sites, tiny, tmp_path):
    federation = Federation(rounds=4, sites=2)
    run_here(sites, fed.make_config(tmp_path / "whole", federation, tiny))
    config = fed.make_config(tmp_path / "killed", federation, tiny)
    script = KILLED.format(tests=str(Path(__file__).parent), nodes=sites, config=config)
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}  # as here: sums of two threads have other last bits
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], env=environment, check=False)
    assert done.returncode == -9
    assert len(result(tmp_path / "killed")["rounds"]) == 2
    with pytest.raises(OutputError, match="--resume"):
        run_here(sites, config)
    with pytest.raises(OutputError, match="other settings"):
        run_here(sites, fed.make_config(tmp_path / "killed", replace(federation, epochs=2), tiny, resume=True))
    run_here(sites, fed.make_config(tmp_path / "killed", federation, tiny, resume=True))
    ref, comp = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert all(np.array_equal(ref[name], comp[name]) for name in ref)
