"""The learning rate from step to step, the running average of the weights and the optimiser's decay, against NumPy."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from synthetic import RECORD, settings

from monet_train import checkpoint
from monet_train.config import DEPTHS, PAPER, STRONG, Augmentation
from monet_train.data import Slices, build
from monet_train.network import BatchNorm
from monet_train.schedule import one_cycle
from monet_train.state import _restore, make_optimiser, new_state, start_at_prior, write
from monet_train.step import TrainStep, _follow


def test_one_cycle_climbs_from_a_25th_to_its_peak_after_a_fifth():
    assert one_cycle(0.0) == 1 / 25
    assert one_cycle(0.1) == pytest.approx((1 / 25 + 1) / 2)  # half-way up: half of the rise
    assert one_cycle(0.2) == pytest.approx(1)
    assert one_cycle(0.05) == pytest.approx(1 / 25 + 24 / 25 * math.sin(math.pi / 8) ** 2)
    rates = [one_cycle(i / 1000) for i in range(1001)]
    assert np.argmax(rates) == 200
    assert max(rates) == 1
    assert (np.diff(rates[:201]) > 0).all()


def test_one_cycle_falls_along_a_cosine_to_nothing():
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert one_cycle(0.2 + 0.8 * share) == pytest.approx(math.cos(math.pi / 2 * share) ** 2, abs=1e-12)
    assert (np.diff([one_cycle(0.2 + 0.8 * i / 1000) for i in range(1001)]) < 0).all()


def step_on(recipe, count=10):
    """A TrainStep over so many slices of nothing, of which cases, depths and strips play no part."""
    empty, number, cases = torch.zeros(count, 16, 16), torch.arange(count), torch.zeros(count, dtype=torch.int64)
    training = Slices(empty[:, None], empty.byte(), empty.byte(), number[:, None], cases, torch.zeros(1, 1, DEPTHS, 2), ("a",))
    found = replace(settings(), recipe=recipe, net="tiny", preprocess=replace(RECORD, size=16))
    return TrainStep(found, new_state(found, torch.device("cpu")), training, 1, False)


def taken(step, epochs, monkeypatch):
    """The rate and the number of every step of some epochs, none of which trains."""
    steps = []
    monkeypatch.setattr(step, "step", lambda index, number: steps.append((step.state.learning_rate, number)) or torch.zeros(()))
    for epoch in epochs:
        step.epoch(epoch, 0, 1)
    return steps


def test_the_rate_changes_from_step_to_step_within_an_epoch(tiny, monkeypatch):
    """Ten slices in batches of four are three steps an epoch, twelve in four epochs."""
    recipe = replace(STRONG, epochs=4, batch=4, learning_rate=0.5)
    steps = taken(step_on(recipe), range(4), monkeypatch)
    assert [number for _, number in steps] == list(range(12))
    assert [rate for rate, _ in steps] == pytest.approx([0.5 * one_cycle(i / 12) for i in range(12)])


def test_an_epoch_has_the_rates_of_its_number_whatever_came_before(tiny, monkeypatch):
    recipe = replace(STRONG, epochs=4, batch=4)
    whole = taken(step_on(recipe), range(4), monkeypatch)
    assert taken(step_on(recipe), [2], monkeypatch) == whole[6:9]


def test_the_plateaus_rate_is_left_alone_within_an_epoch(tiny, monkeypatch):
    step = step_on(replace(PAPER, batch=4))
    step.state.learning_rate = 0.125
    assert {rate for rate, _ in taken(step, [3], monkeypatch)} == {0.125}


def test_the_optimiser_steps_at_the_rate_of_the_state(tiny):
    step = step_on(replace(STRONG, batch=4, augmentation=Augmentation()))
    step.state.network.train()
    step.state.learning_rate = 0.0625
    step.step(torch.arange(4), 0)
    assert [group["lr"] for group in step.state.optimiser.param_groups] == [0.0625]


def order_of(count, batch, epoch, monkeypatch, seed=0, rank=0, world=1):
    """The slices of every step of an epoch (steps, batch)."""
    step, taken = step_on(replace(STRONG, batch=batch), count), []
    step.settings = replace(step.settings, seed=seed)
    monkeypatch.setattr(step, "step", lambda index, number: taken.append(index) or torch.zeros(()))
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    step.epoch(epoch, rank, world)
    return torch.stack(taken).numpy()


def test_every_slice_comes_once_an_epoch_in_an_order_of_its_own(tiny, monkeypatch):
    order = order_of(12, 4, 0, monkeypatch)
    assert order.shape == (3, 4)
    assert sorted(order.ravel()) == list(range(12))
    assert not np.array_equal(order, order_of(12, 4, 1, monkeypatch))
    assert not np.array_equal(order, order_of(12, 4, 0, monkeypatch, seed=1))
    assert np.array_equal(order, order_of(12, 4, 0, monkeypatch))


def test_the_last_batch_is_filled_by_the_epochs_first_slices(tiny, monkeypatch):
    flat = order_of(10, 4, 0, monkeypatch).ravel()
    assert sorted(flat[:10]) == list(range(10))
    assert flat[10:].tolist() == flat[:2].tolist()


def test_processes_share_the_slices_among_them(tiny, monkeypatch):
    orders = [order_of(12, 3, 0, monkeypatch, rank=rank, world=2) for rank in (0, 1)]
    assert sorted(np.ravel(orders)) == list(range(12))


def test_a_data_set_smaller_than_a_batch_is_one_batch(tiny, monkeypatch):
    assert sorted(order_of(3, 32, 0, monkeypatch)[0]) == [0, 1, 2]


def test_the_average_moves_towards_the_network_by_what_does_not_decay():
    average, network = (torch.nn.BatchNorm1d(3, dtype=torch.float64) for _ in range(2))
    average.num_batches_tracked = network.num_batches_tracked = None
    for module, value in ((average, 1.0), (network, 11.0)):
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    _follow(average, network, 0.9)
    for tensor in average.state_dict().values():  # running statistics included
        assert tensor.tolist() == pytest.approx([2.0] * 3)  # 0.9 * 1 + 0.1 * 11
    assert all((tensor == 11).all() for tensor in network.state_dict().values())


@pytest.mark.parametrize(("number", "decay"), [(0, 0.1), (8, 0.5), (90, 0.91), (10**6, 0.98)])
def test_a_young_average_follows_faster(tiny, number, decay):
    """(1 + n) / (10 + n) after n steps, until that passes the recipe's decay."""
    step = step_on(replace(STRONG, ema_decay=0.98, batch=4, augmentation=Augmentation()))
    step.state.network.train()
    before = {name: tensor.double().numpy().copy() for name, tensor in step.state.average.state_dict().items()}
    for tensor in step.state.network.parameters():
        tensor.data += 1.0  # far from the average
    step.step(torch.arange(4), number)
    for name, tensor in step.state.network.state_dict().items():
        ref = decay * before[name] + (1 - decay) * tensor.double().numpy()
        np.testing.assert_allclose(step.state.average.state_dict()[name], ref, atol=1e-5)


def test_without_an_average_the_network_itself_is_shown(tiny):
    step = step_on(replace(PAPER, batch=4, augmentation=Augmentation()))
    before = [tensor.clone() for tensor in step.state.average.state_dict().values()]
    step.state.network.train()
    step.step(torch.arange(4), 0)
    assert all(torch.equal(old, new) for old, new in zip(before, step.state.average.state_dict().values(), strict=True))
    assert step.state.validated(PAPER) is step.state.network
    assert step.state.validated(STRONG) is step.state.average


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5])
def test_decay_shrinks_every_weight_by_its_share_of_the_rate(rng, decay):
    """AdamW in NumPy, three steps: the decay acts on the weights themselves, not through the gradient's moments."""
    rate, module = 0.1, torch.nn.Linear(3, 2, dtype=torch.float64)
    optimiser = make_optimiser(replace(STRONG, learning_rate=rate, weight_decay=decay), module)
    refs = [parameter.detach().numpy().copy() for parameter in module.parameters()]
    moments = [(np.zeros_like(ref), np.zeros_like(ref)) for ref in refs]
    for step in range(1, 4):
        for k, parameter in enumerate(module.parameters()):
            gradient = rng.normal(size=refs[k].shape)
            parameter.grad = torch.from_numpy(gradient)
            first, second = moments[k] = 0.9 * moments[k][0] + 0.1 * gradient, 0.999 * moments[k][1] + 0.001 * gradient**2
            refs[k] = refs[k] * (1 - rate * decay)
            refs[k] -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        optimiser.step()
    for ref, parameter in zip(refs, module.parameters(), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), ref, rtol=1e-6)


def test_all_that_changes_in_a_training_goes_into_its_checkpoint_and_back(tiny, tmp_path):
    """What is told apart here and was not kept would begin anew when a run goes on: the wait for a better loss, the rate."""
    found = replace(settings(), net="tiny", preprocess=replace(RECORD, size=16))
    before, after = (new_state(found, torch.device("cpu")) for _ in range(2))
    numbers = [field.name for field in fields(before) if field.name not in ("network", "average", "best", "optimiser", "history")]
    for value, name in enumerate(numbers, 2):
        setattr(before, name, value)
    before.history.append({"epoch": 0, "train_loss": 0.5})
    for value, network in enumerate((before.network, before.average, before.best)):
        for tensor in network.state_dict().values():
            tensor.fill_(value)
    write(before, tmp_path)
    _restore(after, *checkpoint.newest(tmp_path))
    assert {name: getattr(after, name) for name in numbers} == {name: value for value, name in enumerate(numbers, 2)}
    assert after.history == before.history
    for value, network in enumerate((after.network, after.average, after.best)):
        assert all((tensor == value).all() for tensor in network.state_dict().values())


def test_every_batchnorm_follows_at_the_recipes_momentum(tiny):
    state = new_state(replace(settings(momentum=0.125), net="tiny"), torch.device("cpu"))
    for network in (state.network, state.average, state.best):
        assert {module.momentum for module in network.modules() if isinstance(module, BatchNorm)} == {0.125}


def test_the_paper_decays_nothing():
    optimiser = make_optimiser(PAPER, torch.nn.Linear(1, 1))
    assert optimiser.defaults["weight_decay"] == 0


@pytest.mark.parametrize("labels", [("a",), ("a", "b")])
def test_an_untrained_network_answers_with_the_classes_frequencies(small, tiny, labels):
    record = replace(RECORD, size=16, labels=labels)
    found = replace(settings(), net="tiny", preprocess=record)
    training, state = build(small[1], ["case_000"], record, False, "cpu", False), new_state(found, torch.device("cpu"))
    start_at_prior(state, training)
    share = np.bincount(training.labels.numpy().ravel(), minlength=len(labels) + 1) / training.labels.numel()
    share = np.maximum(share, 1e-4)  # a label that is nowhere is rare, not impossible
    ref = np.log(share[1] / (1 - share[1])) if len(labels) == 1 else np.log(share)
    for network in (state.network, state.average, state.best):
        head = network.get_submodule("head")
        bias = head.bn.bias if hasattr(head, "bn") else head.bias
        np.testing.assert_allclose(bias.detach().numpy(), np.atleast_1d(ref), rtol=1e-5)
