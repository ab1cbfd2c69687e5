"""Attacks on the page: who has no token, comes from elsewhere, sends too much or names what is not theirs gets nothing."""

import re
import socket
import time

import pytest

pytest.importorskip("starlette", reason="the extra app is not installed")
import served
from fuzz.build import head, nifti
from processes import HANGS

LIMIT = 1 << 20
PATHS = ["/", "/static/app.js", "/static/niivue.umd.js", "/models", "/cases", "/favicon.ico", "/docs", "//", "/..", "/%2e%2e/"]


@pytest.fixture(scope="module")
def client(tmp_path_factory, weights_file):
    with served.running(tmp_path_factory.mktemp("cases"), [weights_file], LIMIT) as client:
        yield client


def held(client):
    """Files that the server keeps."""
    return [path for path in client.folder.rglob("*") if path.is_file()]


def wait_until(condition):
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_every_path_is_403(client, method, path):
    status, headers, body = client.raw(method, path)
    assert status == 403
    assert body == b"403: open the address that monet-edge app printed."
    assert client.guard.token not in str(headers)


def test_a_wrong_token_is_403(client):
    token = client.guard.token
    for wrong in (token[:-1], token + "x", token.swapcase(), "", "*", "..", f"{token[:-1]}%00", f"x/../{token}", "%C3%A9", "%ff"):
        assert client.raw("GET", f"/{wrong}/models")[0] == 403
    assert client.raw("GET", f"/models?token={token}")[0] == 403
    assert client.raw("GET", f"/models#{token}")[0] == 403
    assert client.raw("GET", "/models", headers={"Referer": f"http://{client.guard.host}/{token}/", "Cookie": token})[0] == 403
    assert client.ask("GET", "models")[0] == 200  # the right one


@pytest.mark.parametrize(
    "host",
    [[], ["evil.example"], ["localhost"], ["127.0.0.1"], ["127.0.0.1:1"], ["evil.example:{port}"], ["localhost:{port}"],
     ["{host}", "evil.example"], ["evil.example", "{host}"], ["{host}.evil.example"], ["127.0.0.1.:{port}"], ["[::1]:{port}"]],
)  # fmt: skip
def test_another_host_is_refused_with_the_token_too(client, host):
    """A page elsewhere whose name was made to lead here (DNS rebinding) says its own name."""
    hosts = [one.format(host=client.guard.host, port=client.port) for one in host]
    status, _ = client.ask("GET", "models", host=hosts)
    assert status == (403 if len(hosts) == 1 else 400 if not hosts or len(hosts) > 1 else None)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://{host}", "null", "file://", "http://127.0.0.1", "http://localhost:{port}", "http://127.0.0.1:1", ""],
)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "models"), ("POST", "cases"), ("DELETE", "cases/x")])
def test_another_origin_is_refused_with_the_token_too(client, origin, method, path):
    before = held(client)
    origin = origin.format(host=client.guard.host, port=client.port)
    assert client.ask(method, path, headers={"Origin": origin})[0] == 403
    assert held(client) == before


def test_the_pages_own_origin_passes(client):
    assert client.ask("GET", "models", headers={"Origin": f"http://{client.guard.host}"})[0] == 200


def test_a_foreign_request_is_refused_before_its_body_is_read(client):
    """Nothing is read for a stranger: the answer comes while the body is still to be sent."""
    with socket.create_connection((served.HOST, client.port), HANGS) as link:
        link.sendall(f"POST /cases HTTP/1.1\r\nHost: {client.guard.host}\r\nContent-Length: 1000000\r\n\r\n".encode())
        assert b"403" in link.recv(100)


def test_the_browsers_key_opens_once(client):
    status, headers, _ = client.raw("GET", f"/{client.guard.key}/")
    assert (status, headers["location"]) == (303, f"/{client.guard.token}/")
    assert client.raw("GET", f"/{client.guard.key}/")[0] == 403


def test_every_answer_says_what_a_browser_may_do_with_it(client):
    for method, path in (("GET", ""), ("GET", "models"), ("GET", "static/nothing"), ("GET", "cases/x"), ("POST", "nothing")):
        _, headers, _ = client.raw(method, f"/{client.guard.token}/{path}")
        policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_page_names_no_other_address(client):
    """What the page itself loads; of the viewer the policy sees to it."""
    for name in ("", "static/app.js", "static/elements.js", "static/found.js", "static/viewer.js", "static/app.css", "static/icon.svg"):
        text = client.ask("GET", name)[1].decode()
        assert re.findall(r"https?://[^\s\"']+", text.replace("http://www.w3.org/2000/svg", "")) == [], name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fevil", "../evil", "%2fetc%2fpasswd", "/etc/passwd", "..", ".", "", "a%00b", "a%2fb", "a%5cb",
     "..%5cevil", "C%3aevil", ".hidden",
     "evil%0a", " evil", "evil ", "%ff" * 3, "e" * 201, "a%3a%3a$DATA", "%e2%80%ae.nii"],
)  # fmt: skip
def test_a_name_that_is_a_path_is_refused(client, name):
    before = sorted(client.folder.parent.rglob("*"))
    case = client.drop()
    status, told = client.raw("POST", f"/{client.guard.token}/{case}/files?name={name.replace(' ', '%20')}", b"x")[::2]
    assert status == 422 or (name == "%ff" * 3 and status == 204)  # bytes that are no UTF-8 become a harmless sign
    client.ask("DELETE", case)
    assert sorted(client.folder.parent.rglob("*")) == before, told


@pytest.mark.parametrize(
    "path",
    ["static/../guard.py", "static/..%2fguard.py", "static/%2e%2e/guard.py", "static/guard.py", "static//etc/passwd", "..", "static/"],
)
def test_no_file_but_the_pages_own_is_served(client, path):
    status, _, body = client.raw("GET", f"/{client.guard.token}/{path}")
    assert status in (403, 404)
    assert b"import" not in body


def test_no_result_but_those_that_are_made_is_served(client):
    case = client.drop(("scan.nii", nifti(head((32, 32, 4)))))
    client.ask("POST", f"{case}/header")
    assert client.segment(case, "tiny")["state"] == "done"
    for name in ("..%2ffiles%2fscan.nii", "../files/scan.nii", "mask", "mask.nii.gz.part", "surface-0.mz3", "surface-2.mz3", "x"):
        assert client.ask("GET", f"{case}/results/{name}")[0] == 404
    client.ask("DELETE", case)


def test_ten_gigabytes_that_are_announced_are_refused_at_once(client):
    case = client.drop()
    with socket.create_connection((served.HOST, client.port), HANGS) as link:
        request = f"POST /{client.guard.token}/{case}/files?name=a.nii HTTP/1.1\r\nHost: {client.guard.host}\r\n"
        request += f"Content-Length: {10 << 30}\r\n\r\n"
        link.sendall(request.encode())
        answer = b"".join(iter(lambda: link.recv(4000), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"are too much" in answer
    assert held(client) == []
    client.ask("DELETE", case)


def test_ten_gigabytes_that_are_not_announced_are_refused_when_they_are_too_many(client):
    sent = 0

    def stream():
        nonlocal sent
        while sent < 10 << 30:
            sent += 1 << 16
            yield bytes(1 << 16)

    case = client.drop()
    status, told = client.ask("POST", f"{case}/files?name=a.nii", stream())
    assert status == 413
    assert "too much" in told["error"]
    assert sent < 64 << 20  # what the system's buffers take
    assert held(client) == []
    client.ask("POST", f"{case}/files?name=b.nii", bytes(LIMIT))  # nothing is counted of what was refused
    assert [path.stat().st_size for path in held(client)] == [LIMIT]
    client.ask("DELETE", case)
    assert held(client) == []


def test_the_files_of_all_pages_together_are_bounded(client):
    first, second = client.drop(("a.nii", bytes(LIMIT // 2))), client.drop()
    assert client.ask("POST", f"{second}/files?name=b.nii", bytes(LIMIT // 2 + 1))[0] == 413
    client.ask("DELETE", first)
    assert client.ask("POST", f"{second}/files?name=b.nii", bytes(LIMIT // 2 + 1))[0] == 204
    client.ask("DELETE", second)


def test_a_full_disk_is_refused_before_it_is_full(client, monkeypatch):
    import shutil

    real = shutil.disk_usage(client.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    case = client.drop()
    assert client.ask("POST", f"{case}/files?name=a.nii", b"abc")[0] == 413
    client.ask("DELETE", case)


def test_an_upload_that_breaks_off_leaves_nothing(client):
    case = client.drop()
    with socket.create_connection((served.HOST, client.port), HANGS) as link:
        request = (
            f"POST /{client.guard.token}/{case}/files?name=a.nii HTTP/1.1\r\nHost: {client.guard.host}\r\nContent-Length: 100000\r\n\r\nabc"
        )
        link.sendall(request.encode())
        wait_until(lambda: held(client))
    wait_until(lambda: not held(client))
    client.ask("DELETE", case)


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 4000, b'{"threshold": NaN}', b'{"threshold": 1e999}']
)
def test_what_is_no_request_is_one_line(client, body):
    case = client.drop()
    for path in ("work", "threshold"):
        status, told = client.ask("POST", f"{case}/{path}", body)
        assert status in (404, 422)
        assert "Traceback" not in told["error"]
    client.ask("DELETE", case)


def test_a_request_that_is_no_file_is_small(client):
    case = client.drop()
    assert client.ask("POST", f"{case}/work", b" " * (1 << 13))[0] == 413
    client.ask("DELETE", case)


def test_a_name_in_html_is_text_wherever_it_is_told(client):
    """Names come back as JSON, which no browser takes for a page."""
    evil = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E.nii"
    case = client.drop()
    status, headers, _ = client.raw("POST", f"/{client.guard.token}/{case}/files?name={evil}", b"x")
    assert status == 422  # "<" is no letter of a file's name on every system
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    client.ask("DELETE", case)


def test_it_listens_on_this_computer_alone(client):
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in addresses | {"127.0.0.2"}:
        with pytest.raises(OSError):  # noqa: PT011 (refused, or no route)
            socket.create_connection((address, client.port), 2).close()
