"""What a site does with every message: check it, train or evaluate, answer. Only arrays and a few figures leave.

A SuperNode's `--node-config` has `prepared` (the folder of its scans), `memory` (a folder of its own), `name`, and where needed
`splits` and `device`.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from ..config_text import from_json
from . import wire
from .compress import Tensors, decode, encode, layout
from .settings import tensor_shapes
from .site import Memory, Site, open_site

FAILED = 100  # the code of our own errors; Flower's are below

app = ClientApp()


def _answer(work: Callable[[Message, Context], RecordDict], message: Message, context: Context) -> Message:
    """Errors become replies without their text, which may name patients or folders: that stays in the site's own log."""
    try:
        return Message(work(message, context), reply_to=message)
    except wire.MessageError as error:
        return Message(Error(FAILED, f"this site refuses the message: {error}"), reply_to=message)
    except Exception as error:
        getLogger("flwr").exception("this site failed")
        return Message(Error(FAILED, f"this site failed ({type(error).__name__}); its own log says why"), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the network that came for a round."""
    return _answer(_train, message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the network that came on this site's validation patients."""
    return _answer(_evaluate, message, context)


def _train(message: Message, context: Context) -> RecordDict:
    config, received, site = _open(message, context)
    number, epochs, last = config["server-round"], config["epochs"], config["kept-round"]
    memory = Memory.read(Path(str(context.node_config["memory"])), config["run"], last)
    trained, memory.moments, loss = site.train(received, range((number - 1) * epochs, number * epochs), last == 0, memory.moments)
    change = {name: trained[name] - tensor for name, tensor in received.items()}
    if config["compression"] == "int8":
        change = {name: value + memory.residual.get(name, np.float32(0)) for name, value in change.items()}
    sent = layout({name: value.shape for name, value in change.items()}, config["compression"], down=False)
    arrays = encode(change, sent)
    if config["compression"] == "int8":
        memory.residual = {name: change[name] - value for name, value in decode(arrays).items()}
    memory.write(number)
    about = wire.pack_site(str(context.node_config["name"]), site.source)
    metrics = MetricRecord({"num-examples": len(site.step.training.images), "loss": float(loss)})
    return RecordDict({"arrays": wire.pack(arrays, sent), "metrics": metrics, "site": about})


def _evaluate(message: Message, context: Context) -> RecordDict:
    _, received, site = _open(message, context)
    return RecordDict({"metrics": MetricRecord({"patients": len(site.validation.names), **site.evaluate(received)})})


def _open(message: Message, context: Context) -> tuple[dict[str, Any], Tensors, Site]:
    """Check a message and open what it needs: its configuration, the network's tensors and the site."""
    config = message.content.get("config")
    kinds: dict[str, Any] = {"run": str, "settings": str, "epochs": int, "kept-round": int}
    kinds |= {"compression": str, "server-round": int}
    if not isinstance(config, ConfigRecord) or any(type(config.get(key)) is not kind for key, kind in kinds.items()):
        raise wire.MessageError(f"its configuration must hold {', '.join(kinds)}")
    task: dict[str, Any] = dict(config)
    text = task["settings"]
    expected = layout(tensor_shapes(from_json(text)), task["compression"], down=True)
    received = wire.unpack(message.content, expected)
    node = context.node_config
    site = open_site(text, str(node["prepared"]), str(node.get("splits", "")), str(node.get("device", "")))
    return task, received, site
