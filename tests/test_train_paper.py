"""The paper's recipe by its numbers: when the rate falls and a training stops, how far slices move, where dropout is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import settings

from monet_train.augment import augment
from monet_train.config import DEPTHS, PAPER, STRONG, Augmentation, training_spec
from monet_train.config_text import from_json, renamed, to_json
from monet_train.network import BatchNorm
from monet_train.schedule import after_epoch, finished, one_cycle
from monet_train.state import State, new_state
from monet_train.step import TrainStep, _order, describe_epoch
from monet_train.train import training_slices

RECORDED = Path(__file__).parents[1] / "benchmarks" / "results" / "training-h200.json"
NETS = ("monet", "unet-16", "unet-64", "attention-unet")


def follow(losses, recipe=PAPER):
    """The rates of a training with these validation losses (None: not validated), until it stops, and its state."""
    network, average, best = (torch.nn.Linear(1, 1) for _ in range(3))
    state, rates = State(network, average, best, torch.optim.SGD(network.parameters()), [], recipe.learning_rate), []
    for epoch, loss in enumerate(losses):
        if finished(recipe, state):
            break
        rates.append(state.learning_rate)
        network.weight.data.fill_(epoch)
        after_epoch(recipe, state, {"epoch": epoch} if loss is None else {"epoch": epoch, "val_loss": loss})
    return rates, state


@pytest.mark.parametrize(
    ("losses", "cuts"),
    [
        ([1.0, 0.9, 0.9], 0),
        ([1.0, 0.9, 0.9, 0.9], 1),  # after the second bad one, not the third
        ([1.0, 0.9, 0.9, 0.9, 0.9], 1),  # counted anew after a cut
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.9], 2),
        ([1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.7], 0),  # a good one resets
        ([1.0, 0.99995, 0.99991], 1),  # better, but by less than 1e-4
        ([1.0, 0.99995, 0.99988], 0),  # by more in all
        ([1.0, 1.2, 1.1], 1),  # held against the best, not the last
        ([1.0, None, None, 0.9, None, 0.9, None], 0),  # an epoch without validation counts for nothing
    ],
)
def test_the_rate_falls_after_the_second_validation_that_is_not_better_by_1e_4(losses, cuts):
    _, state = follow(losses)
    assert state.learning_rate == pytest.approx(5e-4 / 10**cuts)


def test_only_the_plateau_lowers_the_rate():
    _, state = follow([1.0] * 5, replace(PAPER, schedule="one-cycle"))
    assert state.learning_rate == PAPER.learning_rate


@pytest.mark.parametrize(
    ("losses", "epochs"),
    [
        ([1.0] * 50, 21),  # the first one is the best, twenty wait for a better one
        ([*[1.0] * 20, 0.999999, *[1.0] * 50], 41),  # better by anything is better
        ([float(i) for i in range(0, -30, -1)], 30),
    ],
)
def test_a_training_stops_twenty_validations_after_its_best(losses, epochs):
    rates, state = follow(losses)
    assert len(rates) == epochs
    assert state.best.weight.item() == int(np.argmin(losses[:epochs]))


def test_a_training_stops_at_its_last_epoch_and_patience_0_waits_for_it():
    assert len(follow([1.0] * 50, replace(PAPER, epochs=7))[0]) == 7
    assert len(follow([1.0] * 50, replace(PAPER, patience=0))[0]) == 50


def test_patience_counts_validations():
    losses = [None, 1.0] * 40
    assert len(follow(losses)[0]) == 42


@pytest.mark.parametrize("net", ["monet", "unet-16"])
def test_the_recorded_trainings_followed_this_rule(net):
    found = json.loads(RECORDED.read_text())["paper_recipe_on_brain_flair"][net]
    rates, state = follow([row["val_loss"] for row in found["epochs"]])
    assert rates == pytest.approx([renamed(row)["learning_rate"] for row in found["epochs"]])
    assert state.best.weight.item() == found["best_epoch"]
    assert finished(PAPER, state) == found["state"].startswith("converged")


def moved(monkeypatch, image, drawn, **changes):
    """A slice (S, S) and its label, moved by the augmentation when every random number is ``drawn``."""
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, float(drawn)))
    images = torch.from_numpy(image)[None, None]
    label = (images > 0.5).float()
    images, label = augment(images, label, label[:, 0], torch.zeros(1, 1, DEPTHS, 2), Augmentation(**changes), [(0.0, 1.0)])
    return images[0, 0].numpy(), label[0, 0].numpy()


def assert_moved(found, image):
    np.testing.assert_allclose(found[0], image, atol=1e-5)
    clear = abs(image - 0.5) > 1e-4
    np.testing.assert_array_equal(found[1][clear], (image > 0.5)[clear])


@pytest.fixture
def image(rng):
    return rng.random((16, 16), np.float32)


def test_half_of_every_range_moves_nothing(monkeypatch, image):
    assert_moved(moved(monkeypatch, image, 0.5, rotate=90, zoom=0.25, shift=0.25), image)


def test_slices_shift_by_a_share_of_their_sides_either_way(monkeypatch, image):
    there, back = np.zeros_like(image), np.zeros_like(image)
    there[:-4, :-4], back[4:, 4:] = image[4:, 4:], image[:-4, :-4]
    assert_moved(moved(monkeypatch, image, 1, shift=0.25), there)
    assert_moved(moved(monkeypatch, image, 0, shift=0.25), back)


def test_slices_turn_by_degrees_either_way(monkeypatch, image):
    assert_moved(moved(monkeypatch, image, 1, rotate=90), np.rot90(image, 1))
    assert_moved(moved(monkeypatch, image, 0, rotate=90), np.rot90(image, -1))


def test_slices_grow_and_shrink_by_the_same_share(monkeypatch):
    ramp = (np.arange(16, dtype=np.float32) - 7.5) / 16
    both = 0.5 + 0.5 * ramp + 0.25 * ramp[:, None]  # a plane: interpolation is exact
    centre = np.s_[4:12, 4:12]
    for drawn, zoom in ((1, 1.25), (0, 0.75)):
        found, _ = moved(monkeypatch, both, drawn, zoom=0.25)
        np.testing.assert_allclose(found[centre], (0.5 + (both - 0.5) / zoom)[centre], atol=1e-5)


def test_a_flip_is_left_for_right(monkeypatch, image):
    assert_moved(moved(monkeypatch, image, 0, flip=1.0), np.fliplr(image))


def test_the_papers_constants():
    assert PAPER.augmentation == Augmentation(rotate=10, zoom=0.25, shift=0.2)
    assert (PAPER.optimiser, PAPER.learning_rate, PAPER.weight_decay, PAPER.batch) == ("nadam", 5e-4, 0, 32)
    assert PAPER.epoch_steps == 264  # 8,448 slices, 32 a step
    assert (PAPER.schedule, PAPER.patience, PAPER.validate_every, PAPER.keep) == ("plateau", 20, 1, "best")
    assert (PAPER.cross_entropy, PAPER.ema_decay, PAPER.prior, PAPER.dropout, PAPER.momentum) == (0, 0, False, 1, 0.01)


@pytest.mark.parametrize(("count", "batch", "world", "steps"), [(10, 4, 1, 7), (10, 4, 2, 3), (3, 4, 1, 5), (64, 4, 1, 2)])
def test_long_epochs_take_every_slice_once_a_round_wherever_they_begin(count, batch, world, steps):
    recipe = replace(PAPER, batch=batch, epoch_steps=steps)
    epochs = [_order(count, recipe, world, 3, epoch) for epoch in range(12)]
    assert {epoch.shape for epoch in epochs} == {(world, steps, min(batch, count))}
    stream = np.concatenate([epoch.swapaxes(0, 1).ravel() for epoch in epochs])  # step by step, all processes of a step together
    rounds = stream[: len(stream) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(rounds, axis=1), np.tile(np.arange(count), (len(rounds), 1)))
    if len(rounds) > 1:
        assert any((rounds[0] != other).any() for other in rounds[1:])
    np.testing.assert_array_equal(_order(count, recipe, world, 3, 7), epochs[7])  # of the number alone: a resumed run takes the same
    assert (_order(count, recipe, world, 4, 7) != epochs[7]).any()


def test_an_epoch_of_0_steps_is_once_over_all_slices():
    (order,) = _order(10, replace(STRONG, batch=4, epoch_steps=0), 1, 3, 0)
    assert order.shape == (3, 4)
    np.testing.assert_array_equal(np.sort(order.ravel()[:10]), np.arange(10))
    np.testing.assert_array_equal(order.ravel()[10:], order.ravel()[:2])


def test_a_step_is_counted_and_the_rate_follows_the_length_of_an_epoch(small):
    recipe = replace(STRONG, batch=4, epochs=2, epoch_steps=5)
    given = replace(settings(), recipe=recipe)
    training = training_slices(given, small[1], ["case_000"], torch.device("cpu"))
    step = TrainStep(given, new_state(given, torch.device("cpu")), training, 1, False)
    seen = []
    step.step = lambda index, number: seen.append((number, step.state.learning_rate)) or torch.zeros(())
    for epoch in range(2):
        step.epoch(epoch, 0, 1)
    assert [number for number, _ in seen] == list(range(10))
    assert [rate for _, rate in seen] == pytest.approx([recipe.learning_rate * one_cycle(i / 10) for i in range(10)])


def test_how_long_an_epoch_is_and_why_is_one_line():
    paper = describe_epoch(299, PAPER)
    assert paper == "an epoch is 264 steps of 32 slices (epoch_steps of recipe paper; once over all 299 is 10)"
    assert describe_epoch(2283, STRONG, 2) == "an epoch is 36 steps of 64 slices (once over all 2,283)"
    hole = describe_epoch(299, replace(PAPER, epoch_steps=0))
    assert hole.startswith("an epoch is 10 steps of 32 slices (once over all 299; fewer than 230")
    assert "--set epoch_steps" in hole


def test_settings_from_before_epochs_had_a_length_still_mean_once_over_all_slices():
    written = json.loads(to_json(settings()))
    del written["recipe"]["epoch_steps"]
    assert from_json(json.dumps(written)) == settings()


def paper(net, recipe=PAPER):
    return replace(settings(), net=net, recipe=recipe)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("recipe", "factor"), [(PAPER, 1), (STRONG, 0.25)], ids=["paper", "strong"])
def test_dropout_is_where_the_paper_has_it(net, recipe, factor):
    found = {op.name: op["dropout"] for op in training_spec(paper(net, recipe)).ops if "dropout" in op.attrs}
    if net == "monet":
        blocks = {f"{part}.f{i}" for part in ("enc0", "enc1", "mid", "dec1", "dec0") for i in (1, 2, 3)}
        assert found == pytest.approx(dict.fromkeys(blocks, 0.2 * factor))
    else:
        blocks = {f"{part}.conv1.norm" for part in ("enc0", "enc1", "enc2", "enc3", "mid")}
        assert found == pytest.approx(dict.fromkeys(blocks, 0.3 * factor))


@pytest.mark.parametrize("net", NETS)
def test_batch_norm_of_a_network_is_kerass(net):
    found = [op["bn"] for op in training_spec(paper(net)).ops if "bn" in op.attrs]
    assert found == [{"eps": 1e-3, "momentum": 0.01}] * (30 if net == "monet" else 18)  # PyTorch's momentum is one minus Keras's


@pytest.mark.parametrize("net", ["monet", "unet-16"])
def test_batch_norm_and_optimiser_of_a_training_are_kerass(net):
    state = new_state(paper(net), torch.device("cpu"))
    norms = [module for module in state.network.modules() if isinstance(module, BatchNorm)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert isinstance(state.optimiser, torch.optim.NAdam)
    assert state.optimiser.defaults["lr"] == 5e-4
