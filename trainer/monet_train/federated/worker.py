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
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output


def serve(address: str) -> None:
    """Answer what a SuperNode receives, one message after the other, until stopped.

    Every message gets a process of its own, whose end gives back all memory, that of a GPU as well.
    """
    processes = multiprocessing.get_context("spawn")
    client = _connect(address)
    while True:
        task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if task.token:
            process = processes.Process(target=answer, args=(address, task.token))
            process.start()
            process.join()
        else:
            time.sleep(1)


def answer(address: str, token: str) -> None:
    """Pull one message, let our ClientApp answer it, push the reply."""
    from .client_app import FAILED, app  # here: who waits for messages needs no PyTorch

    client = _connect(address, token)
    HeartbeatSender(make_task_heartbeat_fn_http(client)).start()
    message, context, _, _ = pull_task_input(client)  # the last is the bundle
    try:
        reply = app(message, context)
    except ValueError:
        reply = Message(Error(FAILED, "this site trains and evaluates, nothing else"), reply_to=message)
    push_message(client, reply, context)
    push_task_output(client, context, SubStatus.COMPLETED, "")


def _connect(address: str, token: str = "") -> RuntimeHttpClient:
    """A client of a SuperNode's Runtime API, on loopback; a token opens what belongs to one message."""
    interceptors: list[ProtobufClientInterceptor] = [RuntimeVersionHttpInterceptor("flwr-clientapp")]
    if token:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    return RuntimeHttpClient.from_server_address(address, True, None, interceptors, retry_invoker=make_simple_http_retry_invoker())


if __name__ == "__main__":
    serve(sys.argv[1])
