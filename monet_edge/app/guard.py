"""Who may talk to the server: the page that was opened by the address we gave, on this computer, and nobody else."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REFUSAL = "403: open the address that monet-edge app printed."
# Scripts and styles are files of ours; pictures and addresses of data: and blob: are made by the viewer itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",  # an uploaded file is never taken for a script or a page
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # scans stay out of the browser's cache
}


class Guard:
    """The app behind a secret: every path begins with the token, every request names our own host and no foreign origin.

    The token keeps out other programs and other users of this computer. `Host` keeps out a page elsewhere whose name was made to
    lead to 127.0.0.1 (DNS rebinding), `Origin` a page elsewhere that sends requests here.

    Parameters
    ----------
    app : ASGI application
    host : str
        "127.0.0.1:PORT".

    Attributes
    ----------
    token : str
        Opens everything.
    key : str
        Opens the page once, by leading to the token: a browser is started with an address that other users of this
        computer can read in the list of processes.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host
        self.token, self.key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._unused = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer 403 before a byte of its body is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._answer(scope)(scope, receive, guarded)

    def _answer(self, scope: Scope) -> ASGIApp:
        first = scope["path"].split("/")[1].encode() if scope["path"].startswith("/") else b""
        if self._is_foreign(Headers(scope=scope)):
            return PlainTextResponse(REFUSAL, 403)
        if secrets.compare_digest(first, self.token.encode()):
            scope["root_path"] = f"/{self.token}"
            return self.app
        if self._unused and secrets.compare_digest(first, self.key.encode()):
            self._unused = False
            return RedirectResponse(f"/{self.token}/", 303)
        return PlainTextResponse(REFUSAL, 403)

    def _is_foreign(self, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        return headers.getlist("host") != [self.host] or any(origin != f"http://{self.host}" for origin in origins)
