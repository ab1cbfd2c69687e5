"""The very ServerApp and ClientApp in one process, without a network: for tests of faults, and experiments on one GPU.

`Grid` has the two methods of a Flower Grid that our ServerApp calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr import serverapp
from flwr.app import Context, Message, RecordDict

from .client_app import app as client_app
from .flower import take_identity
from .server_app import app as server_app

Client = Callable[[Message, Context], Message | None]


class Grid:
    """Sites in this process; every message is answered before the next one is sent.

    Parameters
    ----------
    nodes : sequence of dict
        Every site's node configuration, as a SuperNode gets it.
    client : callable
        Answers a message; None stands for no answer in time.
    """

    def __init__(self, nodes: Sequence[dict[str, Any]], client: Client = client_app) -> None:
        self.client = client
        self.contexts = {node: Context(0, node, config, RecordDict(), {}) for node, config in enumerate(nodes, start=1)}

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = (self.client(message, self.contexts[message.metadata.dst_node_id]) for message in messages)
        return [reply for reply in replies if reply is not None]


def run_here(nodes: Sequence[dict[str, Any]], run_config: dict[str, Any], client: Client = client_app) -> None:
    """Run a whole federated training in this process; the arguments are those of `Grid` and of `settings.to_run_config`."""
    take_identity()
    server_app(cast(serverapp.Grid, Grid(nodes, client)), Context(0, 0, {}, RecordDict(), run_config))
