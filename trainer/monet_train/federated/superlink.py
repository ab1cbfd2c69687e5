"""Flower's SuperLink, open to other machines at one of its APIs only: Fleet, which knows every site by its key.

    python -m monet_train.federated.superlink OPTIONS-OF-FLOWER-SUPERLINK

Flower 1.41 serves Fleet, Control and Runtime on one port and has no option to part them or, outside its enterprise edition, to
ask for a password. Whoever reaches Control may start a program of his own at the server and register sites; whoever reaches
Runtime may take the place of our ServerApp.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .flower import serve_superlink


def fleet_only(app: ASGIApp) -> ASGIApp:
    """An application that answers 403 to other machines, except below ``/v1/fleet/``."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith("/v1/fleet/") or is_from_here(scope):
            await app(scope, receive, send)
        else:
            await Response(status_code=403)(scope, receive, send)

    return guarded


def is_from_here(scope: Scope) -> bool:
    """Whether a request comes from this machine: from the very address that it was sent to, which no other machine has."""
    client, server = scope.get("client"), scope.get("server")
    return bool(client and server and client[0] == server[0])


if __name__ == "__main__":
    serve_superlink(fleet_only)
