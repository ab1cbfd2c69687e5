"""Training: losses by their formulas, runs that are killed and go on, two processes with one network; its numbers: test_train_paper."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from synthetic import settings

from monet_edge.errors import DatasetError, ModelError, OutputError
from monet_train import checkpoint, checks, train
from monet_train.config import PAPER, STRONG
from monet_train.losses import dice_loss, loss
from monet_train.schedule import one_cycle
from monet_train.state import new_state, start, write
from monet_train.train import fit


def test_losses_against_plain_formulas():
    rng = np.random.default_rng(0)
    p, t = rng.random((2, 1, 5, 5)), rng.integers(0, 2, (2, 1, 5, 5)).astype(float)
    ref = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert float(dice_loss(torch.tensor(p), torch.tensor(t))) == pytest.approx(ref)
    assert float(loss(torch.tensor(p), torch.tensor(t), 0.5)) == pytest.approx(ref + 0.5 * entropy)


def test_one_cycle_goes_up_and_comes_down():
    rates = [one_cycle(i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(small, tmp_path):
    part = {"train": ["case_000"], "val": ["case_001"]}
    quick = replace(settings(), recipe=replace(settings().recipe, epochs=1))
    fit(quick, small[1], part, tmp_path / "run", device="cpu")
    assert {"config.json", "splits.json", "metrics.csv", "curves.png", "final.safetensors"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    with pytest.raises(OutputError, match="--resume"):
        fit(quick, small[1], part, tmp_path / "run", device="cpu")
    with pytest.raises(OutputError, match="other settings"):
        fit(replace(quick, seed=1), small[1], part, tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(OutputError, match=r"other settings \(see its splits"):
        fit(quick, small[1], {"train": ["case_001"], "val": ["case_000"]}, tmp_path / "run", device="cpu", resume=True)


def test_a_case_whose_files_are_copies_of_anothers_is_not_in_both_parts(small):
    keys = small[1].keys
    copied = replace(small[1], keys={**keys, "case_002": keys["case_000"]})
    checks.check_split({"train": ["case_000", "case_002"], "val": ["case_001"]}, copied)
    with pytest.raises(DatasetError, match="validates on case_002, whose files are copies of case_000's, which trains"):
        checks.check_split({"train": ["case_000"], "val": ["case_001", "case_002"]}, copied)


def test_a_case_that_a_split_names_twice_would_count_twice(small):
    with pytest.raises(DatasetError, match="the split has case_001 twice in train"):
        checks.check_split({"train": ["case_000", "case_001", "case_001"], "val": ["case_002"]}, small[1])


@pytest.mark.parametrize("part", [{"train": ["case_000"], "val": ["case_000"]}, {"train": ["x"], "val": ["case_000"]}])
def test_a_split_that_leaks_or_names_strangers_is_refused(small, tmp_path, part):
    with pytest.raises(DatasetError, match="split"):
        fit(settings(), small[1], part, tmp_path / "run", device="cpu")


def test_the_checkpoint_before_a_torn_one_is_used(tmp_path):
    for epoch in range(4):
        checkpoint.keep_epoch(tmp_path, epoch, {"x": torch.full((3,), float(epoch))}, {"epoch": epoch})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00002.safetensors", "epoch-00003.safetensors"]
    (tmp_path / "epoch-00003.safetensors").write_bytes((tmp_path / "epoch-00003.safetensors").read_bytes()[:-5])
    tensors, state = checkpoint.newest(tmp_path)
    assert (float(tensors["x"][0]), state["epoch"]) == (2.0, 2)
    with pytest.raises(ModelError, match="not an intact"):
        checkpoint.load(tmp_path / "epoch-00003.safetensors")


def _command(prepared, run, splits, *options):
    base = ["fit", str(prepared), "-o", str(run), "--splits", str(splits), "--size", "16", "--device", "cpu", "--deterministic"]
    return [*base, "--set", "epochs=5", "--set", "batch=4", *options]


MORTAL = """
import os, signal
from monet_train import checkpoint, step
from monet_train.cli import main

def die_at(owner, name, call, after):
    function, calls = getattr(owner, name), iter(range(1000))

    def mortal(*given):
        last = next(calls) == call
        if last and after:
            function(*given)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given)

    setattr(owner, name, mortal)

die_at({moment})
main()
"""
MOMENTS = {
    "within an epoch": "step.TrainStep, 'step', 3, False",
    "before a checkpoint": "checkpoint, 'save', 1, False",
    "after a checkpoint and before the table": "checkpoint, 'save', 1, True",
}


@pytest.mark.slow
# 8 slices, 4 a batch: with 7 steps an epoch begins and ends in the middle of a round over the slices
@pytest.mark.parametrize("recipe", [("strong",), ("paper", "--set", "epoch_steps=7")], ids=["strong", "paper, long epochs"])
def test_kill_and_resume_gives_the_same_bits(small, tmp_path, recipe):
    """`kill -9` at every kind of moment, one after the other in one run."""
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["case_000"], "val": ["case_001"]}]))

    def run(name, script):
        command = [sys.executable, "-c", script, *_command(small[1].folder, tmp_path / name, splits, "--recipe", *recipe, "--resume")]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[1], env=one_thread).returncode

    undisturbed = "from monet_train.cli import main; main()"
    assert run("whole", undisturbed) == 0
    for moment in MOMENTS.values():
        assert run("torn", MORTAL.format(moment=moment)) == -signal.SIGKILL
    assert run("torn", undisturbed) == 0
    for name in ("final.safetensors", "splits.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "torn" / name).read_bytes()


@pytest.mark.parametrize("recipe", [PAPER, STRONG], ids=["paper", "strong"])
def test_what_is_restored_lies_in_memory_as_its_parameter_does(tmp_path, recipe):
    """CUDA's fused AdamW refuses anything else."""
    place, part = torch.device("cpu"), {"train": ["a"], "val": ["b"]}
    given = replace(settings(), recipe=recipe)
    state = new_state(given, place)
    state.network(torch.rand(2, 1, 16, 16)).sum().backward()
    state.optimiser.step()
    state.history.append({"epoch": 0})
    write(state, tmp_path)
    again = start(given, part, tmp_path, place, resume=True)
    several = 0
    for before, parameter in zip(state.network.parameters(), again.network.parameters(), strict=True):
        ref, comp = state.optimiser.state[before], again.optimiser.state[parameter]
        assert ref.keys() == comp.keys()
        for key, value in comp.items():
            assert torch.equal(value, ref[key])
            assert value.stride() == ref[key].stride()
            several += not value.is_contiguous()
    assert several > 20  # channels last


def test_nadams_own_number_stays_on_the_cpu():
    """A parameter on the meta device stands for one on a GPU: NAdam reads mu_product in every step, and would wait for a GPU."""
    parameter = torch.nn.Parameter(torch.empty(3, device="meta"))
    optimiser = torch.optim.NAdam([parameter])
    moments = {"0.exp_avg": torch.ones(3), "0.exp_avg_sq": torch.ones(3)}
    checkpoint.restore_optimiser(optimiser, {"0.step": torch.tensor(4.0), "0.mu_product": torch.tensor(0.9), **moments})
    places = {key: value.device.type for key, value in optimiser.state[parameter].items()}
    assert places == {"step": "cpu", "mu_product": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


@pytest.mark.parametrize(("device", "gpus", "backend"), [("cpu", 2, "gloo"), ("", 2, "nccl"), ("cuda", 2, "nccl"), ("", 0, "gloo")])
def test_processes_speak_as_their_device_can(monkeypatch, device, gpus, backend):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(dist, "init_process_group", asked.append)
    for name in ("get_rank", "get_world_size", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda: 0)
    with train._process_group(device):
        assert asked == [backend]


TELLING = """
import hashlib
import monet_train.train
from monet_train.cli import main

def telling(*given, fit=monet_train.train.fit, **more):
    network = fit(*given, **more)
    print("weights", hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())).hexdigest())
    return network

monet_train.train.fit = telling
main()
"""


@pytest.mark.slow
def test_two_processes_train_one_network(small, tmp_path):
    """DistributedDataParallel over gloo: both end with the same weights, and the run folder is written once."""
    splits, script, root = tmp_path / "splits.json", tmp_path / "telling.py", Path(__file__).parents[1]
    splits.write_text(json.dumps([{"train": ["case_000", "case_002"], "val": ["case_001"]}]))
    script.write_text(TELLING)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command = [*torchrun, *_command(small[1].folder, tmp_path / "run", splits, "--set", "epochs=2")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, env=environment)
    first, second = re.findall(r"weights (\w{64})", done.stdout)
    assert first == second
    assert done.stdout.count("train_loss") == 2
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
