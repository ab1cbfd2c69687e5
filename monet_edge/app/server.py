"""Serve the page on 127.0.0.1 until Ctrl-C, which leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MonetError
from ..registry import shipped
from ..weights import load

if TYPE_CHECKING:
    import uvicorn

    from .guard import Guard

HOST = "127.0.0.1"


def serve(
    *, port: int = 0, browser: bool = True, models: Iterable[str] = (), threads: int | None = None, started: Callable[[str], None] = print
) -> None:
    """Serve the page until the process is told to end.

    Parameters
    ----------
    port : int
        0 takes one that is free.
    browser : bool
        Open the page in the browser.
    models : iterable of str
        Files of weights that can be chosen besides the shipped models.
    threads : int, optional
        Of the engine.
    started : callable
        Called with the page's address once it can be opened.

    Raises
    ------
    MonetError
        If the extra is not installed, the port is taken, or a model is not intact.
    """
    try:
        import uvicorn  # noqa: F401 (said here that it is missing)

        from .cases import Cases, private_folder
        from .guard import Guard
        from .routes import Page
        from .worker import Worker
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("uvicorn", "starlette"):
            raise
        raise MonetError(f"{name} is not installed", "The page needs it: pip install 'monet-edge[app]'") from None
    chosen = {weights.name: weights for weights in map(load, (*shipped().values(), *map(Path, models)))}
    with bound(port) as listening, private_folder() as folder, Worker(threads) as worker, suppress(KeyboardInterrupt):
        _end_as_by_ctrl_c()
        host = f"{HOST}:{listening.getsockname()[1]}"
        guard = Guard(Page(Cases(folder), worker, chosen).application(), host)
        started(f"http://{host}/{guard.token}/")
        if browser:  # in a thread of its own: starting one may take seconds
            threading.Thread(target=webbrowser.open, args=(f"http://{host}/{guard.key}/",), daemon=True).start()
        make(guard).run(sockets=[listening])


def make(guard: Guard) -> uvicorn.Server:
    """The server as it is run: silent, HTTP/1.1 by h11's strict parser, no WebSockets, deaf to the headers of proxies."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            guard,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )


def bound(port: int) -> socket.socket:
    """A socket that listens: whoever comes before the server runs waits."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise MonetError(f"port {port} of {HOST} cannot be used: {error.strerror}", "Choose another {port}, or none.") from None
    listening.listen(128)
    return listening


def _end_as_by_ctrl_c() -> None:
    """A closed terminal and `kill` remove the scans, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # by way of SIGTERM, which uvicorn catches: an exception anywhere in its loop might be lost
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
