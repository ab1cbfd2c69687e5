"""Federated training with Flower's real processes: SuperLink, SuperNodes, workers and what they start. None may be left afterwards."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

import federation as fed
import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from monet_edge import phantom, weights
from monet_train.config_text import to_json
from monet_train.federated import launch, run
from monet_train.federated.settings import Federation
from monet_train.federated.state import MODEL, ROUNDS
from monet_train.prepare import open_prepared

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")


def start(*words, **options):
    """A command of monet-train, in the background, with one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "monet_train.cli", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def processes_of(folder: Path) -> dict[int, str]:
    """Processes that were started with Flower's home in this folder, by /proc."""
    found = {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and f"FLWR_HOME={folder}".encode() in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # gone meanwhile, or another user's
    return found


@pytest.fixture
def folder(tmp_path):
    """A folder whose processes must all be gone at the end of the test."""
    yield tmp_path
    try:
        while processes_of(tmp_path):  # for ever is until pytest's timeout
            time.sleep(0.2)
    finally:
        for number in processes_of(tmp_path):
            os.kill(number, 9)


@linux
def test_two_sites_two_rounds(folder, monkeypatch):
    """The usual case by the command; what Flower counted at its sockets agrees with what we count. A proxy that fails is never asked."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, f"http://127.0.0.1:{run.free_port()}")  # nobody listens there
    datasets = [folder / "north", folder / "south"]
    for seed, dataset in enumerate(datasets):
        phantom.write_dataset(dataset, 3, seed, fed.SHAPE)
    process = start(
        "federated", *datasets, "-o", folder / "run", "--size", 32, "--set", "federated.rounds=2", "--set", "batch=8", "--device", "cpu"
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "round 2/2" in output
    model = weights.load(folder / "run" / MODEL)
    assert [(site["name"], site["rounds"]) for site in model.provenance["sites"]] == [("north", 2), ("south", 2)]
    found = json.loads((folder / "run" / ROUNDS).read_text(encoding="utf-8"))
    assert [row["kept"] for row in found["rounds"]] == [True, True]
    sites = [site for row in found["rounds"] for site in row["sites"]]
    network = 4 * 403_556  # bytes of MoNet's parameters and statistics, float32
    assert all(network <= site[way] <= 1.01 * network for site in sites for way in ("sent", "received"))
    traffic = json.loads((folder / "run" / "flower.json").read_text(encoding="utf-8"))["network-traffic"]
    assert traffic["inbound-bytes"] >= sum(site["received"] for site in sites)


FOREIGN = """
from pathlib import Path
from monet_train.federated import client_app
Path({trace!r}).touch()
app = client_app.app
"""


@linux
def test_a_site_runs_no_program_that_comes_with_a_run(folder, monkeypatch):
    """The bundle names a ClientApp of its own and holds it, as whoever operates the server can make it."""
    trace = folder / "trace"

    def write_app(home, config, write=run.write_app):
        write(home, config)
        (home / "foreign.py").write_text(FOREIGN.format(trace=str(trace)), encoding="utf-8")
        page = home / "pyproject.toml"
        text = page.read_text(encoding="utf-8").replace("monet_train.federated.client_app:app", "foreign:app")
        page.write_text(text, encoding="utf-8")

    monkeypatch.setattr(run, "write_app", write_app)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    [node] = fed.make_sites(folder / "sites", ["north"])
    federation = Federation(rounds=1, sites=1, minimum=1, timeout=300)
    settings = fed.make_settings(federation, "monet")
    sites = {"north": open_prepared(Path(node["prepared"]))}
    launch.train_here(sites, settings, federation, folder / "run", resume=False, device="cpu", progress=lambda _: None)
    assert "foreign:app" in (folder / "run" / "flower" / "app" / "pyproject.toml").read_text(encoding="utf-8")
    assert not trace.exists()


def write_certificate(folder: Path, name: str) -> run.Tls:
    """What the documentation says, for sites that call the server by a name (`DNS:...` or `IP:...`)."""
    [command] = re.findall(r"^    openssl .*\\\n.*$", (ROOT / "docs" / "federated.md").read_text(encoding="utf-8"), re.MULTILINE)
    command = command.replace("DNS:server.example", name)
    subprocess.run(textwrap.dedent(command), shell=True, cwd=folder, check=True, capture_output=True)
    return run.Tls(folder / "server.pem", folder / "server.key", folder / "server.pem")


def write_site_key(folder: Path, name: str) -> Path:
    """A key pair as `ssh-keygen -t ecdsa` makes it: NAME and NAME.pub."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    (folder / name).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / name


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None
        time.sleep(0.3)


def status(address: str, path: str, tls: run.Tls) -> int:
    """What the server answers to somebody who has its certificate and no key."""
    context = ssl.create_default_context(cafile=tls.authority)
    return httpx.post(f"https://{address}{path}", headers={"content-type": "application/protobuf"}, verify=context).status_code


@linux
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_with_known_sites_only_and_a_server_killed_in_the_second_round(folder):
    """Encrypted and authenticated: a site whose key nobody registered stays out; the server comes back and goes on.

    Sites call 127.0.0.2, which they do from 127.0.0.1: from another machine, as far as the server can see.
    """
    tls, port = write_certificate(folder, "IP:127.0.0.2"), run.free_port()
    settings = folder / "config.json"
    settings.write_text(to_json(fed.make_settings(Federation(), "monet")), encoding="utf-8")
    names = ("north", "south", "stranger")
    keys = {name: write_site_key(folder, name) for name in names}
    nodes = fed.make_sites(folder / "sites")
    server = [
        "federated-server",
        settings,
        "-o",
        folder / "run",
        "--sites",
        2,
        "--set",
        "federated.rounds=2",
        "--set",
        "federated.timeout=200",
    ]
    server += ["--host", "0.0.0.0", "--port", port, "--certificate", tls.certificate, "--key", tls.key, "--authority", tls.authority]
    server += [word for name in ("north", "south") for word in ("--site-key", f"{keys[name]}.pub")]
    first = start(*server)
    sites = {}
    try:
        for name, node in zip(names, [*nodes, nodes[0]], strict=True):
            words = [f"127.0.0.2:{port}", node["prepared"], "-o", folder / f"home-{name}", "--name", name, "--device", "cpu"]
            sites[name] = start("federated-site", *words, "--authority", tls.authority, "--key", keys[name])
        rounds = folder / "run" / ROUNDS
        wait_for(rounds.exists, first)
        control = [f"/v1/control/{name}" for name in ("list-runs", "start-run", "register-node")]
        assert {status(f"127.0.0.2:{port}", path, tls) for path in (*control, "/v1/runtime/acquire-task", "/docs")} == {403}
        assert status(f"127.0.0.1:{port}", control[0], tls) == 200
        first.kill()
        first.wait()
        for number, command in processes_of(folder / "run" / "flower").items():
            print("killing", command)
            os.kill(number, 9)
        second = start(*server, "--resume")
        output, _ = second.communicate()
        assert second.returncode == 0, output
        found = json.loads(rounds.read_text(encoding="utf-8"))
        assert [row["kept"] for row in found["rounds"]] == [True, True]
        assert {site["name"] for row in found["rounds"] for site in row["sites"]} == {"north", "south"}
        assert weights.load(folder / "run" / MODEL).provenance["rounds"] == 2
        assert "Failed to activate SuperNode" in (folder / "home-stranger" / "0.log").read_text(encoding="utf-8")
    finally:
        for site in sites.values():
            site.terminate()
        for site in sites.values():
            site.communicate()
