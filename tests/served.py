"""The page's server in a thread of this process, and a plain client of HTTP that sends whatever it is told to."""

import http.client
import json
import threading
import time
from contextlib import contextmanager

from processes import HANGS

from monet_edge import weights
from monet_edge.app.cases import LIMIT, Cases
from monet_edge.app.guard import Guard
from monet_edge.app.routes import Page
from monet_edge.app.server import HOST, bound, make
from monet_edge.app.worker import Worker


class Client:
    """Speaks to a server on 127.0.0.1, with the token unless told otherwise."""

    def __init__(self, guard, folder, cases):
        self.guard, self.folder, self.cases = guard, folder, cases
        self.port = int(guard.host.split(":")[1])

    def raw(self, method, path, body=None, headers=None, host=None):
        """Status, headers and body of the answer to a request for exactly this path."""
        link = http.client.HTTPConnection(HOST, self.port, timeout=HANGS)
        try:
            link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for value in [self.guard.host] if host is None else host:
                link.putheader("Host", value)
            chunked = body is not None and not isinstance(body, bytes)
            sent = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body or b""))}
            for name, value in (sent | (headers or {})).items():
                link.putheader(name, value)
            link.endheaders()
            try:
                for part in body if chunked else [body] if body else []:
                    link.send(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                if chunked:
                    link.send(b"0\r\n\r\n")
            except OSError:
                pass  # refused before all was sent: the answer is there
            answer = link.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            link.close()

    def ask(self, method, path, body=None, **more):
        """Status and what was answered, of JSON or bytes."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        status, headers, answer = self.raw(method, f"/{self.guard.token}/{path}", data, **more)
        return status, json.loads(answer) if headers.get("content-type", "").startswith("application/json") else answer

    def drop(self, *files):
        """A new case of (name, bytes) each; its address."""
        case = f"cases/{self.ask('POST', 'cases')[1]['case']}"
        for name, data in files:
            assert self.ask("POST", f"{case}/files?name={name}", data) == (204, b"")
        return case

    def segment(self, case, model, volume=0):
        """Segment it, and wait."""
        assert self.ask("POST", f"{case}/work", {"model": model, "volume": volume})[0] == 202
        return self.wait(case)

    def wait(self, case, states=("done", "failed", "ready")):
        while (now := self.ask("GET", case)[1])["state"] not in states:
            time.sleep(0.02)
        return now


@contextmanager
def running(folder, models=(), limit=LIMIT):
    """A server whose cases lie in ``folder``, and its client."""
    with bound(0) as listening, Worker(1) as worker:
        cases = Cases(folder, limit)
        chosen = {one.name: one for one in map(weights.load, models)}
        guard = Guard(Page(cases, worker, chosen).application(), f"{HOST}:{listening.getsockname()[1]}")
        server = make(guard)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(guard, folder, cases)
        finally:
            server.should_exit = True
            thread.join(HANGS)
