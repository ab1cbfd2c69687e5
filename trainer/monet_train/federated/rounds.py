"""The server's side of a federated training: ask the sites, believe no reply, average the good ones, keep every round.

Flower's strategies choose the sites and average; Flower's own loop is not used, since it averages whatever comes back, waits
for sites for ever and cannot go on from a round.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.differential_privacy import get_norm

from monet_edge.errors import MonetError

from ..config import Settings
from ..config_text import to_json
from . import wire
from .compress import Tensors, encode, layout
from .privacy import epsilon, make_strategy
from .settings import Federation, tensor_shapes
from .state import Run, start, write


class Sites(Protocol):
    """What is needed of a Flower Grid."""

    def get_node_ids(self) -> Iterable[int]: ...
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]: ...


@dataclass(frozen=True)
class _Connected:
    """The sites of one round, in place of a Grid: Flower's own wait for more, which has no end, never begins."""

    nodes: list[int]

    def get_node_ids(self) -> list[int]:
        return self.nodes


def federate(grid: Sites, federation: Federation, settings: Settings, folder: Path, resume: bool) -> Run:
    """Train with all sites; the folder gets a checkpoint and `rounds.json` every round.

    Parameters
    ----------
    grid : Grid
    federation : Federation
    settings : Settings
        As `settings.for_sites` makes them.
    folder : Path
    resume : bool
        Go on from the newest checkpoint.

    Raises
    ------
    OutputError
        If the folder holds a run already, or one with other settings.
    MonetError
        If too few sites connect in time, or no round at all had enough valid replies.
    """
    run = start(federation, settings, folder, resume)
    strategy = make_strategy(federation)
    nodes: list[int] = []
    while len(run.history) < federation.rounds:
        everybody = federation.noise or not nodes  # noise is measured for all of them
        nodes = wait_for_sites(grid, federation.sites if everybody else federation.minimum, federation.wait)
        _round(grid, strategy, federation, settings, run, nodes[: federation.sites] if federation.noise else nodes)
        write(run, federation, settings, folder)
        getLogger("flwr").info("monet-train: %s", _summary(run.history[-1], len(run.history), federation.rounds))
    if not run.last_kept:
        raise MonetError(f"no round had enough valid replies; the last: {_summary(run.history[-1], federation.rounds, federation.rounds)}")
    nodes = nodes or wait_for_sites(grid, federation.minimum, federation.wait)
    run.scores = _evaluate(grid, federation, settings, run, nodes)
    write(run, federation, settings, folder)
    return run


def wait_for_sites(grid: Sites, needed: int, limit: float) -> list[int]:
    """Node ids of all connected sites as soon as there are enough.

    Raises
    ------
    MonetError
        If there are not after ``limit`` seconds.
    """
    started = told = time.monotonic()
    while len(found := sorted(grid.get_node_ids())) < needed:
        now = time.monotonic()
        if now - started > limit:
            raise MonetError(f"waited {limit:g} s for {needed} sites, {len(found)} are connected: start the others, or ask for fewer")
        if now - told > 10:
            told = now
            getLogger("flwr").info(
                "monet-train: waiting for %d sites, %d are connected (%.0f s left)", needed, len(found), limit - now + started
            )
        time.sleep(min(1.0, limit / 10))
    return found


def round_content(federation: Federation, settings: Settings, run: Run, number: int) -> RecordDict:
    """What every site gets: the network and how to train it."""
    expected = layout(tensor_shapes(settings), federation.compression, down=True)
    config: dict[str, Any] = {
        "run": run.id,
        "settings": to_json(settings),
        "epochs": federation.epochs,
        "kept-round": run.last_kept,
        "batch-norm": federation.batch_norm,
        "compression": federation.compression,
        "server-round": number,
    }
    return RecordDict({"arrays": wire.pack(encode(run.tensors, expected), expected), "config": ConfigRecord(config)})


def _round(grid: Sites, strategy: Strategy, federation: Federation, settings: Settings, run: Run, nodes: list[int]) -> None:
    """Ask the sites, check their replies, and take a new network from them if there are enough."""
    started, number = time.perf_counter(), len(run.history) + 1
    content = round_content(federation, settings, run, number)
    configured = strategy.configure_train(number, _record(run.tensors), ConfigRecord(), cast(Grid, _Connected(nodes)))
    messages = sorted(configured, key=lambda message: message.metadata.dst_node_id)
    sites: dict[int, dict[str, Any]] = {}
    for message in messages:
        message.content = content
        node = message.metadata.dst_node_id
        sites[node] = {"node": node, "sent": wire.size(message), "received": 0, "refused": "no reply in time"}
    expected = layout(tensor_shapes(settings), federation.compression, down=False)
    silent, accepted = dict(sites), []
    for reply in list(grid.send_and_receive(messages, timeout=federation.timeout)):
        about = silent.pop(reply.metadata.src_node_id, None)
        if about is None:  # of nobody who was asked, or a second one
            continue
        about["received"] = wire.size(reply)
        try:
            update = wire.read_update(reply, expected, federation.most_examples)
            reply.content = _as_reply(run.tensors, update, federation)
            accepted.append(reply)
            about |= {"name": update.site, "examples": update.examples, "loss": update.loss, "norm": update.norm}
            about["source"] = asdict(update.source)
            del about["refused"]
        except wire.MessageError as error:
            about["refused"] = str(error)
    kept = len(accepted) >= (federation.sites if federation.noise else federation.minimum)
    accepted.sort(key=lambda reply: reply.metadata.src_node_id)  # sums depend on their order
    if kept:
        _move(run, _aggregate(strategy, number, accepted), federation)
    row = {"kept": kept, "seconds": time.perf_counter() - started, "sites": list(sites.values())}
    run.history.append(row)
    if federation.noise:
        row["epsilon"] = epsilon(federation.noise, sum(past["kept"] for past in run.history), federation.delta)


def _as_reply(tensors: Tensors, update: wire.Update, federation: Federation) -> RecordDict:
    """An update as the reply that Flower's strategies average: a whole network, and nothing else of what came."""
    with np.errstate(over="ignore"):
        trained = {name: tensor + update.change[name] for name, tensor in tensors.items()}
    if not all(np.isfinite(tensor).all() for tensor in trained.values()):
        raise wire.MessageError("its update leads beyond the range of float32")
    if federation.noise and not get_norm([trained[name] - tensor for name, tensor in tensors.items()]):
        raise wire.MessageError("its update is zero, or lost in rounding")  # Flower would divide by this very norm
    # with noise, every site counts the same: its share must be known beforehand
    return RecordDict({"arrays": _record(trained), "metrics": MetricRecord({"num-examples": 1 if federation.noise else update.examples})})


def _record(tensors: Tensors) -> ArrayRecord:
    """Tensors as Flower's strategies want them; such records stay in this process."""
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()})


def _aggregate(strategy: Strategy, number: int, replies: Sequence[Message]) -> Tensors:
    arrays, _ = strategy.aggregate_train(number, replies)
    assert arrays is not None
    tensors = {name: array.numpy() for name, array in arrays.items()}
    # rounding or noise may have taken a variance below 0, of which the network would take the root
    return {name: np.maximum(tensor, 0) if name.endswith(".running_var") else tensor for name, tensor in tensors.items()}


def _move(run: Run, average: Tensors, federation: Federation) -> None:
    """To the average, and on by a share of the last step (FedAvgM; Hsu et al. 2019, "Measuring the effects of non-identical data").

    Not Flower's own FedAvgM, which forgets its last step when the server is killed, and would add it before the noise. Only what was
    trained goes on: neither running statistics, nor the start at the classes' frequencies, a leap of the first round, nor a BatchNorm
    that sites keep to themselves, of which the server has the average.
    """
    still = ".bn." if federation.batch_norm == "local" else ".running_"
    share = np.float32(federation.momentum)
    with np.errstate(over="ignore"):
        moved = {name: tensor + share * run.step[name] if name in run.step else tensor for name, tensor in average.items()}
        if not all(np.isfinite(tensor).all() for tensor in moved.values()):
            moved = average
        run.step = {name: moved[name] - tensor for name, tensor in run.tensors.items() if still not in name} if run.last_kept else {}
    run.tensors = moved


def _evaluate(grid: Sites, federation: Federation, settings: Settings, run: Run, nodes: list[int]) -> list[dict[str, Any]]:
    content = round_content(federation, settings, run, len(run.history))
    names = {site["node"]: site.get("name", "") for row in run.history for site in row["sites"]}
    messages = [Message(content=content, message_type=MessageType.EVALUATE, dst_node_id=node) for node in nodes]
    silent = {node: {"node": node, "name": names.get(node, "")} for node in nodes}
    scores = []
    for reply in list(grid.send_and_receive(messages, timeout=federation.timeout)):
        about = silent.pop(reply.metadata.src_node_id, None)
        if about is None:  # of nobody who was asked, or a second one
            continue
        try:
            scores.append({**wire.read_scores(reply), **about})
        except wire.MessageError as error:
            scores.append({**about, "refused": str(error)})
    return scores


def _summary(row: dict[str, Any], number: int, rounds: int) -> str:
    sites = [f"{site.get('name', site['node'])}: " + (site.get("refused") or f"loss {site['loss']:.4f}") for site in row["sites"]]
    return f"round {number}/{rounds} {'gave a new network' if row['kept'] else 'KEPT THE OLD NETWORK'}; {'; '.join(sites)}"
