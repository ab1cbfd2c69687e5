"""Flower's processes, started, watched and stopped: SuperLink (server), SuperNodes and workers (sites), and `flwr run`.

Without TLS nothing but loopback is allowed. No telemetry, no look for updates, nothing installed while running.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monet_edge import system
from monet_edge.errors import MonetError

from .state import ERROR, MODEL, ROUNDS

Environment = Mapping[str, str]  # of Flower's processes, see `environment`

LINK = "monet"  # what the SuperLink is called in Flower's configuration
OURS = (sys.executable, "-P", "-m")  # our own modules, not what lies in the folder where somebody happens to be


@dataclass(frozen=True)
class Tls:
    """What a server needs for anything but loopback: its certificate, its key, and who signed it (all PEM)."""

    certificate: Path
    key: Path
    authority: Path


def is_loopback(host: str) -> bool:
    """Whether a host name or address never leaves this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of host:port, without the brackets of an IPv6 address."""
    return address.rpartition(":")[0].strip("[]")


def superlink_command(host: str, port: int, tls: Tls | None) -> list[str]:
    """How to start the server's SuperLink, see `superlink`; with TLS, only sites whose keys were registered may join.

    It keeps nothing on disk: after a crash our own checkpoints go on, not a half-finished run of Flower's.

    Raises
    ------
    MonetError
        If it would listen beyond loopback without TLS.
    """
    if tls is None and not is_loopback(host):
        raise MonetError(f"{host} can be reached from other machines: give --certificate, --key and --authority, or use 127.0.0.1")
    command = [*OURS, "monet_train.federated.superlink", "--host", host, "--port", str(port), "--disable-runtime-dependency-installation"]
    if tls is None:
        return [*command, "--insecure"]
    command += ["--ssl-certfile", str(tls.certificate), "--ssl-keyfile", str(tls.key), "--ssl-ca-certfile", str(tls.authority)]
    return [*command, "--enable-supernode-auth"]


def supernode_command(address: str, node: dict[str, str], port: int, authority: Path | None, key: Path | None) -> list[str]:
    """How to start a site's SuperNode; it waits for a worker that answers its messages, and starts nothing itself.

    Parameters
    ----------
    address : str
        The SuperLink's, host:port.
    node : dict
        See `client_app`.
    port : int
        A free one, on loopback, for the worker.
    authority : Path, optional
        Certificate of whoever signed the server's.
    key : Path, optional
        The site's private key; the server must have registered its public one.

    Raises
    ------
    MonetError
        If it would speak to another machine without both.
    """
    command = ["flower-supernode", "--superlink", address, "--host", "127.0.0.1", "--port", str(port), "--isolation", "process"]
    command += ["--node-config", " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in node.items())]
    if authority is not None and key is not None:
        return [*command, "--root-certificates", str(authority), "--auth-supernode-private-key", str(key)]
    if not is_loopback(host_of(address)):
        raise MonetError(f"{address} is another machine: give --authority (who signed its certificate) and --key (this site's own)")
    return [*command, "--insecure"]


def worker_command(port: int) -> list[str]:
    """How to start what answers the messages of the SuperNode at a port."""
    return [*OURS, "monet_train.federated.worker", f"127.0.0.1:{port}"]


def environment(home: Path, server: str | None) -> Environment:
    """Ours, with Flower's settings; telemetry stays as the user set it, and off otherwise.

    Parameters
    ----------
    home : Path
        Flower's folder, which also gets the processes' output.
    server : str, optional
        The host of a server on this machine, reached without a proxy like loopback; none: the server is another machine, which is
        reached as the user's proxies and exceptions say.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # children are started by name
    ours = {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(home), "PATH": path}
    theirs = {name: value for name, value in os.environ.items() if server is None or not _is_unusable_proxy(name, value)}
    return {"FLWR_TELEMETRY_ENABLED": "0", **theirs, **ours, **_without_proxy(theirs, server)}


def _without_proxy(variables: Environment, server: str | None) -> dict[str, str]:
    """The user's exceptions from proxies with this machine added, in the lower case that HTTP clients and gRPC prefer and in upper case."""
    exceptions = variables.get("no_proxy", variables.get("NO_PROXY", ""))
    found = {"no_proxy": exceptions, "NO_PROXY": exceptions}
    if "no_grpc_proxy" in variables:  # gRPC reads it in place of no_proxy
        found["no_grpc_proxy"] = variables["no_grpc_proxy"]
    hosts = ["localhost", "127.0.0.1", "::1", *([server] if server else [])]
    # a star alone means every host; beside others it means nothing to some programs
    return {name: value if value.strip() == "*" else ",".join(filter(None, [value, *hosts])) for name, value in found.items()}


def _is_unusable_proxy(name: str, value: str) -> bool:
    """Whether a variable names a proxy, such as SOCKS, at which Flower's HTTP client ends as it starts, whatever the exceptions are."""
    return name.lower() in ("http_proxy", "https_proxy", "all_proxy") and "://" in value and not value.lower().startswith("http")


@contextmanager
def daemons(commands: Sequence[Sequence[str]], variables: Environment) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that run while the block does; their output goes to `0.log`, `1.log`, ... in Flower's folder.

    They are stopped in the opposite order: sites first, so that they say goodbye to a server that still listens.

    Raises
    ------
    MonetError
        If processes of an earlier start still work there, because whoever started them was killed.
    """
    home = Path(variables["FLWR_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    with (home / "lock").open("a+", encoding="utf-8") as lock:
        if not system.try_lock(lock):
            lock.seek(0)
            raise MonetError(f"processes of an earlier start still work in {home}. Stop them first: kill {lock.read()}") from None
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: stop them first
        try:
            for number, command in enumerate(commands):
                with (home / f"{number}.log").open("ab") as log:
                    # the lock lives as long as anyone who inherited it
                    running.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log, **system.apart(lock)))
            lock.truncate(0)
            print(*(process.pid for process in running), end="", file=lock, flush=True)
            yield running
        finally:
            for process in reversed(running):
                _stop(process)
            signal.signal(signal.SIGTERM, before)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end; what is left of it and its children after 20 s is killed."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    system.kill_group(process.pid)
    process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_connection(home: Path, address: str, authority: Path | None) -> None:
    """Tell Flower's command line where the SuperLink is."""
    safety = "insecure = true" if authority is None else f"root-certificates = {_toml(str(authority))}"
    lines = ["[superlink]", f'default = "{LINK}"', f"[superlink.{LINK}]", f'address = "{address}"', safety, ""]
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text("\n".join(lines), encoding="utf-8")


def _toml(value: str | int | float | bool) -> str:
    """A scalar as TOML, in which a character beyond 16 bits has another escape than in JSON."""
    return json.dumps(value, ensure_ascii=False)


def write_app(folder: Path, run_config: dict[str, Any]) -> None:
    """The Flower app: only a description, the code is installed at server and sites (their own version of it runs)."""
    lines = [
        "[project]",
        'name = "monet-federated"',
        'version = "1.0.0"',
        'description = "Federated training for monet-edge. Research use only, not a medical device."',
        'license = "Apache-2.0"',
        "dependencies = []",
        "[tool.flwr.app]",
        'publisher = "monet-edge"',
        "[tool.flwr.app.components]",
        'serverapp = "monet_train.federated.server_app:app"',
        'clientapp = "monet_train.federated.client_app:app"',
        "[tool.flwr.app.config]",
        *(f"{name} = {_toml(value)}" for name, value in run_config.items()),
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")


def flwr(variables: Environment, *arguments: str, patience: float = 60.0) -> dict[str, Any]:
    """Call Flower's command line, which answers in JSON, until it does: a SuperLink takes some seconds to listen.

    Raises
    ------
    MonetError
        With what it says, if it still fails after ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        command = ["flwr", *arguments, "--format", "json"]
        done = subprocess.run(command, env=variables, capture_output=True, encoding="utf-8", errors="replace", check=False)
        with suppress(ValueError):
            answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
            if answer.get("success"):
                return answer
        if time.monotonic() > deadline:
            raise MonetError(f"flwr {arguments[0]} failed: {(done.stdout + done.stderr).strip()[-500:]}")
        time.sleep(1)


def submit(variables: Environment, app: Path) -> str:
    """Start the run on the SuperLink; returns its id."""
    return str(flwr(variables, "run", str(app), LINK)["run-id"])


def follow(
    variables: Environment, run_id: str, output: Path, processes: Sequence[subprocess.Popen[bytes]], progress: Callable[[int], None]
) -> dict[str, Any]:
    """Wait for the end of a run; ``progress`` is called with the number of finished rounds. Returns Flower's account of it.

    Raises
    ------
    MonetError
        If the run failed, or the server's process ended.
    """
    asked, log = -math.inf, Path(variables["FLWR_HOME"]) / "0.log"
    while True:
        with suppress(OSError, ValueError):
            progress(len(json.loads((output / ROUNDS).read_text(encoding="utf-8"))["rounds"]))
        if processes and processes[0].poll() is not None:
            raise MonetError(f"the server's process ended with status {processes[0].returncode}; see {log}, then go on with --resume")
        ended = (output / ERROR).exists() or (output / MODEL).exists()
        if time.monotonic() - asked > (2 if ended else 20):  # every question is a process that imports all of Flower
            account = dict(flwr(variables, "list", LINK, "--run-id", run_id)["runs"][0])
            asked, status = time.monotonic(), str(account["status"])
            if status == "finished:completed":
                return account
            if status.startswith("finished"):
                error = output / ERROR
                reason = error.read_text(encoding="utf-8").strip() if error.exists() else f"see {log}"
                raise MonetError(f"the federated training failed ({status}): {reason}")
        time.sleep(0.5)
