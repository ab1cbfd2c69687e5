"""The server's side of a federated training: ask the sites, check every reply, average the valid ones, write every round.

Flower carries the messages. Its own loop is not used, since it averages whatever comes back, waits for sites for ever and
cannot go on from a round.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from monet_edge.errors import MonetError

from ..config import Settings
from ..config_text import to_json
from . import wire
from .average import average, check_range
from .compress import Tensors, encode, layout
from .privacy import epsilon
from .settings import Federation, tensor_shapes
from .state import Run, start, write


class Sites(Protocol):
    """What is needed of a Flower Grid."""

    def get_node_ids(self) -> Iterable[int]: ...
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]: ...


def federate(grid: Sites, federation: Federation, settings: Settings, folder: Path, resume: bool) -> Run:
    """Train with all sites; the folder gets a checkpoint and `rounds.json` every round.

    Parameters
    ----------
    grid : Sites
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
    nodes: list[int] = []
    while len(run.history) < federation.rounds:
        nodes = wait_for_sites(grid, federation.minimum if nodes else federation.sites, federation.wait)
        # epsilon holds for a number of sites that was known beforehand
        _round(grid, federation, settings, run, nodes[: federation.sites] if federation.noise else nodes)
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
    started = logged = time.monotonic()
    while len(found := sorted(grid.get_node_ids())) < needed:
        now = time.monotonic()
        if now - started > limit:
            raise MonetError(f"waited {limit:g} s for {needed} sites, {len(found)} are connected: start the others, or ask for fewer")
        if now - logged > 10:
            logged = now
            getLogger("flwr").info(
                "monet-train: waiting for %d sites, %d are connected (%.0f s left)", needed, len(found), limit - now + started
            )
        time.sleep(min(1.0, limit / 10))
    return found


def round_content(federation: Federation, settings: Settings, run: Run, number: int) -> RecordDict:
    """The content of the message to every site: the network and how to train it."""
    expected = layout(tensor_shapes(settings), federation.compression, down=True)
    config: dict[str, Any] = {
        "run": run.id,
        "settings": to_json(settings),
        "epochs": federation.epochs,
        "kept-round": run.last_kept,
        "compression": federation.compression,
        "server-round": number,
    }
    return RecordDict({"arrays": wire.pack(encode(run.tensors, expected), expected), "config": ConfigRecord(config)})


def _round(grid: Sites, federation: Federation, settings: Settings, run: Run, nodes: list[int]) -> None:
    """Ask the sites, check their replies, and take a new network from them if there are enough."""
    started, number = time.perf_counter(), len(run.history) + 1
    messages = _messages(round_content(federation, settings, run, number), MessageType.TRAIN, nodes)
    expected = layout(tensor_shapes(settings), federation.compression, down=False)
    replies = _replies(grid, messages, federation.timeout)
    sites, updates = [], []
    for message in messages:
        node = message.metadata.dst_node_id
        site: dict[str, Any] = {"node": node, "sent": wire.size(message), "received": 0}
        sites.append(site)
        if node not in replies:
            site["refused"] = "no reply in time"
            continue
        site["received"] = wire.size(replies[node])
        try:
            update = wire.read_update(replies[node], expected, federation.most_examples)
            check_range(run.tensors, update.change)
        except wire.MessageError as error:
            site["refused"] = str(error)
            continue
        updates.append(update)
        site |= {"name": update.site, "examples": update.examples, "loss": update.loss, "norm": update.norm}
        site["source"] = asdict(update.source)
    kept = len(updates) >= federation.minimum
    if kept:
        _move(run, average(run.tensors, updates, federation), federation)
    run.history.append({"kept": kept, "seconds": time.perf_counter() - started, "sites": sites})
    if federation.noise:
        run.history[-1]["epsilon"] = epsilon(federation.noise, sum(row["kept"] for row in run.history), federation.delta)


def _messages(content: RecordDict, kind: str, nodes: Iterable[int]) -> list[Message]:
    return [Message(content=content, message_type=kind, dst_node_id=node) for node in nodes]


def _replies(grid: Sites, messages: Sequence[Message], limit: float) -> dict[int, Message]:
    """The first reply of every site that was asked and answered in time, by its node id."""
    asked = {message.metadata.dst_node_id for message in messages}
    replies: dict[int, Message] = {}
    for reply in grid.send_and_receive(messages, timeout=limit):
        if reply.metadata.src_node_id in asked:
            replies.setdefault(reply.metadata.src_node_id, reply)
    return replies


def _move(run: Run, averaged: Tensors, federation: Federation) -> None:
    """Take the sites' average and add a share of the last step (FedAvgM; Hsu et al. 2019, "Measuring the effects of non-identical data").

    Flower's own FedAvgM forgets its last step when the server is killed, and adds it before the noise. Momentum applies to trained
    weights only. Excluded: running statistics, and the step of round 1, in which sites set the last layer to the classes' frequencies.
    """
    share = np.float32(federation.momentum)
    with np.errstate(over="ignore"):
        moved = {name: tensor + share * run.step[name] if name in run.step else tensor for name, tensor in averaged.items()}
        if not all(np.isfinite(tensor).all() for tensor in moved.values()):
            moved = averaged
        steps = {name: moved[name] - tensor for name, tensor in run.tensors.items() if ".running_" not in name}
    run.tensors, run.step = moved, steps if run.last_kept else {}


def _evaluate(grid: Sites, federation: Federation, settings: Settings, run: Run, nodes: list[int]) -> list[dict[str, Any]]:
    """The scores of the network on the validation patients of every site that answers."""
    content = round_content(federation, settings, run, len(run.history))
    names = {site["node"]: site.get("name", "") for row in run.history for site in row["sites"]}
    scores: list[dict[str, Any]] = []
    for node, reply in sorted(_replies(grid, _messages(content, MessageType.EVALUATE, nodes), federation.timeout).items()):
        site = {"node": node, "name": names.get(node, "")}
        try:
            scores.append({**wire.read_scores(reply), **site})
        except wire.MessageError as error:
            scores.append({**site, "refused": str(error)})
    return scores


def _summary(row: dict[str, Any], number: int, rounds: int) -> str:
    sites = [f"{site.get('name', site['node'])}: " + (site.get("refused") or f"loss {site['loss']:.4f}") for site in row["sites"]]
    return f"round {number}/{rounds} {'gave a new network' if row['kept'] else 'KEPT THE OLD NETWORK'}; {'; '.join(sites)}"
