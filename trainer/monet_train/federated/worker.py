"""What answers the messages of a site: monet-edge's own ClientApp, whatever program the server sends along.

    python -m monet_train.federated.worker 127.0.0.1:9100

Flower's executor (`flower-superexec`, `flwr-clientapp`) unpacks the app bundle that comes with a run and imports what it names:
whoever may start a run could read a site's scans. This one, put together from Flower's own parts, leaves the bundle alone.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

from flwr.app import Error, Message

from . import flower


def serve(address: str) -> None:
    """Answer what a SuperNode receives, one message after the other, until stopped.

    Every message gets a process of its own, whose end gives back all memory, that of a GPU as well.
    """
    processes = multiprocessing.get_context("spawn")
    client = flower.connect(address)
    while True:
        if token := flower.next_token(client):
            process = processes.Process(target=answer, args=(address, token))
            process.start()
            process.join()
        else:
            time.sleep(1)


def answer(address: str, token: str) -> None:
    """Pull one message, let our ClientApp answer it, push the reply."""
    from .client_app import FAILED, app  # here: the process that waits for messages needs no PyTorch

    client = flower.connect(address, token)
    message, context = flower.pull(client)
    try:
        reply = app(message, context)
    except ValueError:
        reply = Message(Error(FAILED, "this site trains and evaluates, nothing else"), reply_to=message)
    flower.push(client, reply, context)


if __name__ == "__main__":
    serve(sys.argv[1])
