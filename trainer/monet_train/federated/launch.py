"""Whole federated trainings with Flower's processes: all on this machine, the server's part, or one site's part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from monet_edge.errors import MonetError, OutputError

from ..config import Settings
from ..device import choose_device
from ..prepare import Prepared
from . import run
from .settings import Federation, for_sites, to_run_config
from .state import MODEL, ROUNDS
from .wire import MAX_NAME

Progress = Callable[[int], None]


def train_here(
    sites: Mapping[str, Prepared],
    settings: Settings,
    federation: Federation,
    output: Path,
    *,
    resume: bool,
    device: str,
    progress: Progress,
) -> Path:
    """Server and sites on this machine, each in processes of its own, on loopback.

    Parameters
    ----------
    sites : mapping of str to Prepared
        By name.
    settings : Settings
        As for a pooled training.
    federation : Federation
    output : Path
        The run folder.
    resume : bool
        Go on from its last round.
    device : str
        Empty: a GPU if there is one.
    progress : callable
        Called with the number of finished rounds.

    Returns
    -------
    Path
        The exported weights file.

    Raises
    ------
    MonetError
        If there is no such device, or the training fails; all processes are gone then, too.
    """
    choose_device(device)
    home = output.resolve() / "flower"
    port = run.free_port()
    commands = [run.superlink_command("127.0.0.1", port, None)]
    for name, prepared in sites.items():
        node = node_config(name, prepared.folder, home / f"{name}-memory", device)
        commands += _site(f"127.0.0.1:{port}", node, None, None)
    return _train(commands, f"127.0.0.1:{port}", None, (), settings, federation, output, resume, progress)


def serve(
    settings: Settings,
    federation: Federation,
    output: Path,
    *,
    host: str,
    port: int,
    tls: run.Tls | None,
    keys: Sequence[Path],
    resume: bool,
    progress: Progress,
) -> Path:
    """The server's part: listen, let in the sites whose public keys are given, train, and end.

    Parameters are those of `train_here`, and
    host, port
        Where to listen.
    tls : Tls, optional
        Needed for anything but loopback.
    keys : sequence of Path
        The sites' public keys (OpenSSH, elliptic curve), one a site.

    Raises
    ------
    MonetError
        If a safeguard is missing, or the training fails.
    """
    if tls is not None and len(keys) < federation.sites:
        raise MonetError(f"{federation.sites} sites need as many public keys, found {len(keys)}: give --site-key for each")
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    command = run.superlink_command(host, port, tls)
    return _train([command], f"{here}:{port}", tls.authority if tls else None, keys, settings, federation, output, resume, progress)


def join(
    prepared: Prepared, name: str, address: str, folder: Path, *, authority: Path | None, key: Path | None, device: str, wait: float
) -> None:
    """A site's part: answer the server until stopped (Ctrl-C).

    A SuperNode ends when the server does not answer or does not know its key. It is then started again: a site may be started
    before the server, and goes on when the server is started anew.

    Raises
    ------
    MonetError
        If the server is another machine and the certificate or the key is missing, or there was no connection for ``wait``
        seconds.
    """
    choose_device(device)
    home = folder.resolve()
    node = node_config(name, prepared.folder, home / "memory", device)
    commands = _site(address, node, authority, key)
    host = run.host_of(address)
    variables = run.environment(home, host if run.is_loopback(host) else None)
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        started = time.monotonic()
        with run.daemons(commands, variables) as processes:
            while all(process.poll() is None for process in processes):
                time.sleep(0.5)
        if time.monotonic() - started > 60:  # it takes a SuperNode some 10 s to give up
            deadline = time.monotonic() + wait
        time.sleep(5)
    raise MonetError(
        f"no connection to {address} for {wait:g} s: does the server run, and know this site's key? {home / '0.log'} says more"
    )


def node_config(name: str, prepared: Path, memory: Path, device: str) -> dict[str, str]:
    """A site's node configuration, which `client_app` reads.

    Raises
    ------
    MonetError
        If the server would refuse the name in every round, or Flower cannot pass a name or folder on.
    """
    if not 0 < len(name) <= MAX_NAME:
        raise MonetError(f"a site's name has 1 to {MAX_NAME} characters, found {len(name)}: {name[:MAX_NAME]}")
    node = {"name": name, "prepared": str(prepared.resolve()), "memory": str(memory), "device": device}
    for value in node.values():
        if not value.isprintable() or '"' in value:
            raise MonetError(f"{value!r}: Flower takes no name or folder with a double quote or a control character; choose another")
    return node


def _site(address: str, node: dict[str, str], authority: Path | None, key: Path | None) -> list[list[str]]:
    """A site's two processes: the SuperNode that speaks to the server, and the worker that sees the scans."""
    port = run.free_port()
    return [run.supernode_command(address, node, port, authority, key), run.worker_command(port)]


def _train(
    commands: Sequence[Sequence[str]],
    address: str,
    authority: Path | None,
    keys: Sequence[Path],
    settings: Settings,
    federation: Federation,
    output: Path,
    resume: bool,
    progress: Progress,
) -> Path:
    output = output.resolve()
    home = output / "flower"
    if (output / ROUNDS).exists() and not resume:
        raise OutputError(f"{output} holds a run already. Say --resume to go on with it, or choose another --output.")
    variables = run.environment(home, run.host_of(address))
    config = to_run_config(federation, for_sites(settings, federation), str(output), resume)
    run.write_connection(home, address, authority)
    run.write_app(home / "app", config)
    with run.daemons(commands, variables) as processes:
        for key in keys:
            run.flwr(variables, "supernode", "register", str(key.resolve()), run.LINK)
        account = run.follow(variables, run.submit(variables, home / "app"), output, processes, progress)
    (output / "flower.json").write_text(json.dumps(account, indent=1), encoding="utf-8")
    return output / MODEL
