"""All of Flower that it does not publish, in one file: an upgrade is tried against this one.

Public, and imported elsewhere: ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp`` and the commands ``flwr`` and
``flower-supernode``. What stands here may move in any version, hence the upper bound in `pyproject.toml`;
``tests/test_federated_flower.py`` names what an installed version lacks. Imports are inside the functions: a site's worker loads
nothing of a server. Starlette and uvicorn are what Flower serves with, and come with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def take_identity() -> None:
    """Let this process create messages, which Flower allows to the tasks that it started itself: for apps run in one process."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 0


def serve_superlink(wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """`flower-superlink` with something around its application: that command takes the same options and has no such place."""
    import uvicorn
    from flwr.supercore.http_logging import get_uvicorn_log_config  # its log's format
    from flwr.supercore.logger import console_handler  # its log's level
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config  # its options, start and end
    from flwr.superlink.main import create_app  # its application

    config = _parse_superlink_lifespan_config()
    uvicorn.run(
        wrap(create_app(config, SuperLinkLifespan)),
        host=config.host,
        port=config.port,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        proxy_headers=False,  # where a request comes from is never taken from the request
        log_config=get_uvicorn_log_config(console_handler.level),
    )


def connect(address: str, token: str = "") -> Any:
    """A client of a SuperNode's Runtime API, without TLS; a token opens what belongs to one message."""
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor  # what every request carries
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor  # the type of both
    from flwr.supercore.retry import make_simple_http_retry_invoker  # asks again while a SuperNode is busy
    from flwr.supercore.runtime import RuntimeHttpClient  # the API itself

    interceptors: list[ProtobufClientInterceptor] = [RuntimeVersionHttpInterceptor("flwr-clientapp")]
    if token:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    return RuntimeHttpClient.from_server_address(address, True, None, interceptors, retry_invoker=make_simple_http_retry_invoker())


def next_token(client: Any) -> str:
    """The token of a message that waits for an answer; empty: there is none."""
    from flwr.proto.runtime_pb2 import AcquireTaskRequest  # the question
    from flwr.supercore.constant import TaskType  # of messages for a ClientApp

    return str(client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])).token)


def pull(client: Any) -> tuple[Message, Context]:
    """The message of a token, without the app bundle that comes with it; the SuperNode hears from now on that somebody works on it."""
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http  # without it the message is given to another
    from flwr.supernode.runtime.run_clientapp import pull_task_input  # as Flower's own executor pulls

    HeartbeatSender(make_task_heartbeat_fn_http(client)).start()
    message, context, _, _ = pull_task_input(client)
    return message, context


def push(client: Any, reply: Message, context: Context) -> None:
    """Send the reply and close the task."""
    from flwr.common.constant import SubStatus  # how a task ended
    from flwr.supernode.runtime.run_clientapp import push_message, push_task_output  # as Flower's own executor pushes

    push_message(client, reply, context)
    push_task_output(client, context, SubStatus.COMPLETED, "")
