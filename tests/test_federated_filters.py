"""What the server believes of a reply and how much it counts: sizes to the byte, limits, order, noise; figures that are none."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

import federation as fed
from federation import NODES, TWO, result, tensors
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from monet_train.federated import rounds, state, wire
from monet_train.federated.compress import layout
from monet_train.federated.local import Grid, run_here
from monet_train.federated.settings import Federation

SHAPES = {"a.weight": (3, 2), "b.bias": (4,)}


def packed(compression="none", down=False):
    expected = layout(SHAPES, compression, down=down)
    arrays = {name: np.arange(1, math.prod(shape) + 1).reshape(shape).astype(dtype) for name, (shape, dtype) in expected.items()}
    return wire.pack(arrays, expected), expected


def with_bytes(record, change):
    """The same record, its one array's bytes changed."""
    ((name, array),) = record.items()
    return RecordDict({"arrays": ArrayRecord({name: Array(array.dtype, array.shape, array.stype, change(array.data))})})


@pytest.mark.parametrize("compression", ["none", "float16", "int8"])
def test_a_reply_cut_off_anywhere_is_refused(compression):
    record, expected = packed(compression)
    whole = next(iter(record.values())).data
    wire.unpack(with_bytes(record, lambda data: data), expected)
    for length in range(len(whole)):
        with pytest.raises(wire.MessageError, match=rf"{length} bytes, the network's {len(whole)}"):
            wire.unpack(with_bytes(record, lambda data, length=length: data[:length]), expected)


@pytest.mark.parametrize("more", [b"\0", b"\0" * 4, b"\0" * 1000])
def test_a_reply_that_goes_on_is_refused(more):
    record, expected = packed()
    with pytest.raises(wire.MessageError, match="bytes"):
        wire.unpack(with_bytes(record, lambda data: data + more), expected)


def test_every_byte_of_the_header_must_be_numpys():
    record, expected = packed()
    data = next(iter(record.values())).data
    for i in range(len(data) - sum(4 * math.prod(shape) for shape in SHAPES.values())):
        with pytest.raises(wire.MessageError, match="bytes"):
            wire.unpack(with_bytes(record, lambda data, i=i: data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]), expected)


def test_arrays_arrive_under_their_own_names_in_their_own_shapes():
    record, expected = packed()
    found = wire.unpack(RecordDict({"arrays": record}), expected)
    assert found["a.weight"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found["b.bias"].tolist() == [1, 2, 3, 4]


def test_the_same_bytes_in_another_order_of_names_are_refused():
    record, expected = packed()
    with pytest.raises(wire.MessageError, match="other names"):
        wire.unpack(RecordDict({"arrays": record}), dict(reversed(expected.items())))


def asked():
    return Message(RecordDict(), dst_node_id=1, message_type="train")


def update(alike, most=100, **changes):
    return wire.read_update(fed.reply(asked(), alike, **changes), layout(fed.tensor_shapes(alike), "none", down=False), most)


def test_an_update_is_what_was_sent_and_its_norm_is_euclids(alike):
    found = update(alike, value=-0.5, examples=7, loss=0.25, name="north")
    assert (found.examples, found.loss, found.site) == (7, 0.25, "north")
    count = sum(tensor.size for tensor in found.change.values())
    assert found.norm == pytest.approx(0.5 * math.sqrt(count))


@pytest.mark.parametrize(("examples", "accepted"), [(1, True), (100, True), (101, False), (0, False), (-1, False), (50.0, False)])
def test_a_site_may_claim_as_many_slices_as_is_said_and_no_more(alike, examples, accepted):
    if accepted:
        assert update(alike, examples=examples).examples == examples
    else:
        with pytest.raises(wire.MessageError, match="slices"):
            update(alike, examples=examples)


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan, 1])
def test_a_loss_that_is_no_finite_number_is_refused(alike, loss):
    with pytest.raises(wire.MessageError, match="loss"):
        update(alike, loss=loss)


@pytest.mark.parametrize(
    ("name", "accepted"), [("N" * 64, True), ("N" * 65, False), ("a\n", False), ("\u202e", False), ("Nørd 医院", True)]
)
def test_a_name_is_at_most_64_printable_characters(alike, name, accepted):
    if accepted:
        assert update(alike, name=name).site == name
    else:
        with pytest.raises(wire.MessageError, match="name"):
            update(alike, name=name)


def scores(**values):
    return wire.read_scores(Message(RecordDict({"metrics": MetricRecord(values)}), reply_to=asked()))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, [0.5, 0.5]])
def test_scores_that_are_no_finite_numbers_are_refused(value):
    assert scores(val_loss=0.5, patients=3) == {"val_loss": 0.5, "patients": 3.0}
    with pytest.raises(wire.MessageError, match="finite"):
        scores(val_loss=0.5, val_dice_1=value)


def test_more_figures_than_any_network_has_are_refused():
    assert len(scores(**{f"m{k}": 0.5 for k in range(300)})) == 300
    with pytest.raises(wire.MessageError, match="too long"):
        scores(**{f"m{k}": 0.5 for k in range(301)})


def test_an_infinite_score_is_told_as_refused_and_the_others_are_kept(tiny, alike, tmp_path):
    def client(message, context):
        if message.metadata.message_type == "train":
            return fed.reply(message, alike, name=f"site {context.node_id}")
        value = math.inf if context.node_id == 1 else 0.5
        return Message(RecordDict({"metrics": MetricRecord({"val_loss": value})}), reply_to=message)

    run_here(NODES[:2], fed.make_config(tmp_path, replace(TWO, rounds=1), tiny), client)
    first, second = result(tmp_path)["scores"]
    assert first == {"node": 1, "name": "site 1", "refused": "a metric is not a finite number"}
    assert second == {"val_loss": 0.5, "node": 2, "name": "site 2"}


def after_one_round(folder, federation, net, answers, monkeypatch=None, order=None):
    """The network's change after a round in which site k answers ``answers[k]``."""
    if order:
        monkeypatch.setattr(Grid, "send_and_receive", order)

    def client(message, context):
        return fed.scored(message) if message.metadata.message_type == "evaluate" else answers[context.node_id - 1](message)

    run_here(NODES[: federation.sites], fed.make_config(folder, federation, net), client)
    begin = state.start(federation, fed.make_settings(federation, net), folder / "new", resume=False).tensors
    return {name: tensor - begin[name] for name, tensor in tensors(folder).items()}


def test_the_order_in_which_replies_arrive_changes_no_bit(tiny, alike, tmp_path, monkeypatch):
    """0.1, 0.2 and 0.7 in float32 add up to other last bits in another order."""
    answers = [lambda m, v=v, n=n: fed.reply(m, alike, value=v, examples=n) for v, n in ((0.1, 7), (0.2, 11), (0.7, 13))]
    federation, send = Federation(rounds=1, sites=3, minimum=3), Grid.send_and_receive

    def reordered(shift):
        def send_and_receive(self, messages, timeout=None):
            replies = send(self, messages, timeout=timeout)
            return [*replies[shift:], *replies[:shift]][:: -1 if shift == 2 else 1]

        return send_and_receive

    found = [after_one_round(tmp_path / str(k), federation, tiny, answers, monkeypatch, reordered(k)) for k in range(3)]
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("noise", "mean"), [(0.0, (3 * 4.5 + 0.5) / 4), (1e-12, (4.5 + 0.5) / 2)])
def test_slices_weigh_without_noise_and_every_site_the_same_with_it(tiny, alike, tmp_path, noise, mean):
    """How many scans a site has would be told by its weight: the noise covers sites of equal shares only."""
    federation = replace(TWO, rounds=1, noise=noise, clip=1e6)
    answers = [lambda m: fed.reply(m, alike, value=4.5, examples=300), lambda m: fed.reply(m, alike, value=0.5, examples=100)]
    moved = after_one_round(tmp_path, federation, tiny, answers)
    for name, change in moved.items():
        np.testing.assert_allclose(change, mean, atol=2e-3, err_msg=name)


def test_noise_on_the_mean_has_the_multiplier_times_the_clip_over_the_sites(tiny, alike, tmp_path):
    """Updates clipped to a length of 0.001 vanish beside noise of 3 * 0.001 / 2."""
    federation = replace(TWO, rounds=1, noise=3.0, clip=1e-3)
    answers = 2 * [lambda m: fed.reply(m, alike, value=0.5)]
    moved = after_one_round(tmp_path, federation, tiny, answers)
    values = np.concatenate([change.ravel() for name, change in moved.items() if not name.endswith("running_var")])
    assert len(values) > 2000  # so the SD is known to 2 %
    assert values.std() == pytest.approx(3 * 1e-3 / 2, rel=0.1)


def test_a_record_of_a_site_and_of_figures_is_needed(alike):
    expected = layout(fed.tensor_shapes(alike), "none", down=False)
    whole = fed.reply(asked(), alike)
    for left_out, words in (("site", "of the site is missing"), ("metrics", "of metrics is missing"), ("arrays", "one record of arrays")):
        content = RecordDict({name: record for name, record in whole.content.items() if name != left_out})
        with pytest.raises(wire.MessageError, match=words):
            wire.read_update(Message(content, reply_to=asked()), expected, 100)
    more = RecordDict({**whole.content, "more": whole.content["arrays"]})
    with pytest.raises(wire.MessageError, match="found 2"):
        wire.read_update(Message(more, reply_to=asked()), expected, 100)
    wire.read_update(Message(RecordDict({**whole.content, "site": ConfigRecord({"name": "b"})}), reply_to=asked()), expected, 100)


def test_the_first_reply_of_a_site_counts_and_strangers_do_not():
    """Else whoever answers twice would be the last to speak."""
    messages = [SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node)) for node in (1, 2)]
    answers = [SimpleNamespace(metadata=SimpleNamespace(src_node_id=node), turn=turn) for turn, node in enumerate((2, 2, 3, 1, 1))]
    grid = SimpleNamespace(send_and_receive=lambda messages, timeout: answers)
    assert rounds._replies(grid, messages, 1.0) == {1: answers[3], 2: answers[0]}


def test_momentum_takes_its_share_of_the_last_step_and_no_more(tiny, alike, tmp_path):
    run = state.start(TWO, alike, tmp_path, resume=False)
    run.history.append({"kept": True})
    before = dict(run.tensors)
    run.step = {name: np.full_like(tensor, 2.0) for name, tensor in before.items() if ".running_" not in name}
    rounds._move(run, {name: tensor + np.float32(1) for name, tensor in before.items()}, replace(TWO, momentum=0.25))
    for name, tensor in run.tensors.items():
        assert tensor == pytest.approx(before[name] + (1.0 if ".running_" in name else 1.5), abs=1e-5)
    assert all(step == pytest.approx(np.full_like(step, 1.5), abs=1e-5) for step in run.step.values())
