"""Federated training before it starts: its settings, what travels in how many bytes, what noise is worth, what stays closed."""

import asyncio
import socket
import subprocess
import sys
import threading
import tomllib
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

from federation import TWO
from flwr.app import RecordDict
from flwr.common.config import parse_config_args
from starlette.responses import Response
from typer.testing import CliRunner

from monet_edge.errors import MonetError
from monet_train.cli import app
from monet_train.config import STRONG
from monet_train.config_text import to_json
from monet_train.federated import commands, launch, run, settings, superlink, wire
from monet_train.federated.compress import decode, encode, layout
from monet_train.federated.privacy import epsilon
from monet_train.federated.settings import Federation


def test_settings_survive_the_way_through_flower(tiny, alike, tmp_path):
    config = settings.to_run_config(TWO, alike, "out", False)
    assert settings.from_run_config(config) == (TWO, alike, "out", False)
    with pytest.raises(MonetError, match="lacks rounds"):
        settings.from_run_config({key: value for key, value in config.items() if key != "rounds"})
    with pytest.raises(MonetError, match="rounds"):
        settings.from_run_config({**config, "rounds": "many"})


@pytest.mark.parametrize(
    "values",
    [
        {"rounds": 0},
        {"minimum": 3},
        {"compression": "zip"},
        {"noise": -1.0},
        {"clip": float("inf")},
        {"wait": float("nan")},
        {"delta": 1.0},
        {"minimum": 1, "noise": 1.0},
        {"momentum": 1.0},
        {"momentum": -0.1},
    ],
)
def test_a_federation_that_cannot_be_is_refused(values):
    with pytest.raises(MonetError):
        Federation(**values)


def test_the_default_length_is_the_recipes():
    assert Federation().rounds * Federation().epochs == STRONG.epochs


def test_every_setting_of_a_federation_has_one_place_and_one_way_to_it():
    """No command has an option of that name; the number of sites is that of the data sets, or said."""
    changes = {field.name: getattr(Federation(), field.name) for field in fields(Federation)} | {"rounds": 7, "compression": "int8"}
    found = settings.make_federation(2, [f"federated.{name}={value}" for name, value in changes.items()])
    assert found == Federation(rounds=7, compression="int8")
    assert settings.make_federation(5, []).minimum == 5
    for command in (commands.federated, commands.federated_server):
        assert signature(command).parameters.keys() & changes.keys() <= {"sites"}


def test_a_plateau_is_nothing_that_sites_could_wait_for(alike):
    with pytest.raises(MonetError, match="plateau"):
        settings.for_sites(replace(alike, recipe=replace(alike.recipe, schedule="plateau")), TWO)


@pytest.mark.parametrize("compression", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_compression_hides_no_value_that_is_not_finite(compression, value):
    expected = layout({"a": (2, 3)}, compression, down=False)
    change = np.ones((2, 3), np.float32)
    change[0, 0] = value
    with pytest.raises(wire.MessageError, match="NaN"):
        wire.unpack(RecordDict({"arrays": wire.pack(encode({"a": change}, expected), expected)}), expected)


@pytest.mark.parametrize(("compression", "share", "error"), [("none", 1.0, 0.0), ("float16", 0.5, 5e-4), ("int8", 0.25, 4e-3)])
def test_compression_takes_its_share_of_the_bytes(compression, share, error, rng):
    change = {"a.weight": rng.normal(0, 1, (64, 32, 3, 3)).astype(np.float32), "b.bias": np.zeros(7, np.float32)}
    expected = layout({name: tensor.shape for name, tensor in change.items()}, compression, down=False)
    sent = wire.pack(encode(change, expected), expected)
    assert sent.count_bytes() == pytest.approx(share * sum(tensor.nbytes for tensor in change.values()), rel=0.01)
    found = wire.unpack(RecordDict({"arrays": sent}), expected)
    for name, tensor in change.items():
        assert np.abs(found[name] - tensor).max() <= error * np.abs(change["a.weight"]).max()


def test_fed_back_errors_do_not_add_up(rng):
    """Ten roundings to 8 bits with error feedback lose no more than one; without, they may lose ten times as much."""
    total, residual, sent = np.zeros(1000), np.zeros(1000, np.float32), np.zeros(1000)
    for _ in range(10):
        change = rng.normal(0, 1, 1000).astype(np.float32)
        total += change
        arrays = encode({"x": change + residual}, layout({"x": (1000,)}, "int8", down=False))
        received = decode(arrays)["x"]
        residual = change + residual - received
        sent += received
    assert np.abs(sent - total).max() <= arrays["scales"][0]


# Google's dp-accounting 0.6.0, PLDAccountant, delta 1e-5 (an upper bound, so ours may lie 0.1 % below)
@pytest.mark.parametrize(
    ("noise", "releases", "ref"), [(1, 1, 4.37718), (1, 30, 37.6225), (0.1, 30, 1733.598), (5, 30, 4.86608), (20, 30, 1.02383)]
)
def test_epsilon_is_what_dp_accounting_finds(noise, releases, ref):
    assert epsilon(noise, releases, 1e-5) == pytest.approx(ref, rel=1e-3)


def test_nothing_but_loopback_goes_without_tls():
    node = {"name": "a", "prepared": "/p", "memory": "/m"}
    tls = run.Tls(Path("c.pem"), Path("k.pem"), Path("ca.pem"))
    for host in ("0.0.0.0", "::", "hospital.example", "10.0.0.1", "localhost.example"):
        with pytest.raises(MonetError, match="other machines"):
            run.superlink_command(host, 8000, None)
        with pytest.raises(MonetError, match="another machine"):
            run.supernode_command(f"{host}:8000", node, 9000, tls.authority, None)
        assert "--enable-supernode-auth" in run.superlink_command(host, 8000, tls)
        assert "--insecure" not in run.superlink_command(host, 8000, tls)
        assert "--auth-supernode-private-key" in run.supernode_command(f"{host}:8000", node, 9000, tls.authority, tls.key)
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert "--insecure" in run.superlink_command(host, 8000, None)
        assert "--insecure" in run.supernode_command(f"{host}:8000", node, 9000, None, None)


def test_telemetry_is_off_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    assert run.environment(tmp_path, None)["FLWR_TELEMETRY_ENABLED"] == "0"
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert run.environment(tmp_path, None)["FLWR_TELEMETRY_ENABLED"] == "1"
    assert "--disable-runtime-dependency-installation" in run.superlink_command("127.0.0.1", 8000, None)


PROXIES = [name for lower in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") for name in (lower, lower.upper())]
ASK = "import httpx, sys; print(httpx.Client(timeout=240).get(sys.argv[1]).text)"


def listen(answer: bytes):
    """A server on loopback that gives everybody the same answer: (its port, the first line of everything that it was asked)."""
    server, asked = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(4096).partition(b"\r\n")[0].decode())
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1], asked


@pytest.mark.slow
@pytest.mark.parametrize("proxy", [*PROXIES, "all_proxy of SOCKS"])
def test_loopback_goes_round_a_proxy_and_other_hosts_through_it(proxy, tmp_path, monkeypatch):
    """The HTTP client that Flower uses, as a process of ours would have it."""
    port, _ = listen(b"HTTP/1.0 200 OK\r\n\r\nthe server itself")
    proxy_port, asked = listen(b"HTTP/1.0 200 OK\r\n\r\nthe proxy")
    name, socks, _ = proxy.partition(" of SOCKS")
    for other in (*PROXIES, "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, f"{'socks5h' if socks else 'http'}://127.0.0.1:{proxy_port}")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    variables = run.environment(tmp_path, "127.0.0.1")

    def ask(url):
        return subprocess.run([sys.executable, "-c", ASK, url], env=variables, capture_output=True, encoding="utf-8", check=True).stdout

    assert "the server itself" in ask(f"http://127.0.0.1:{port}/")
    assert asked == []
    assert "intranet.example" in variables["no_proxy"].split(",")
    if name.lower() in ("http_proxy", "all_proxy") and not socks:  # the others are not for http://
        assert "the proxy" in ask("http://elsewhere.example/")
        assert asked == ["GET http://elsewhere.example/ HTTP/1.1"]


def test_the_users_exceptions_from_proxies_stay(tmp_path, monkeypatch):
    for name, value in {
        "no_proxy": "a.example",
        "NO_PROXY": "b.example",
        "no_grpc_proxy": "c.example",
        "http_proxy": "socks5://far:1",
    }.items():
        monkeypatch.setenv(name, value)
    here, far = run.environment(tmp_path, "10.0.0.5"), run.environment(tmp_path, None)
    assert here["no_proxy"] == here["NO_PROXY"] == "a.example,localhost,127.0.0.1,::1,10.0.0.5"
    assert here["no_grpc_proxy"] == "c.example,localhost,127.0.0.1,::1,10.0.0.5"
    assert "http_proxy" not in here  # Flower's HTTP client ends at it, and the way to this machine's own server needs none
    assert far["http_proxy"] == "socks5://far:1"
    assert far["no_proxy"] == "a.example,localhost,127.0.0.1,::1"
    monkeypatch.setenv("no_proxy", "*")
    assert run.environment(tmp_path, "127.0.0.1")["no_proxy"] == "*"


@pytest.mark.parametrize(
    ("path", "client", "answer"),
    [
        ("/v1/fleet/pull-messages", ("192.0.2.7", 50000), 200),
        ("/v1/control/start-run", ("192.0.2.7", 50000), 403),
        ("/v1/runtime/acquire-task", ("192.0.2.7", 50000), 403),
        ("/v1/fleet", ("192.0.2.7", 50000), 403),
        ("/v1/control/start-run", ("127.0.0.1", 50000), 403),  # not the address that was called
        ("/v1/control/start-run", None, 403),
        ("/v1/control/start-run", ("192.0.2.1", 50000), 200),
    ],
)
def test_other_machines_reach_the_fleet_api_only(path, client, answer):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "client": client, "server": ("192.0.2.1", 8000)}
    asyncio.run(superlink.fleet_only(Response(status_code=200))(scope, None, send))
    assert sent[0]["status"] == answer


@pytest.mark.parametrize("name", ["", "N" * 65, 'the "Clinic"', "line\nbreak"])
def test_a_name_that_no_round_would_accept_is_refused_before_training(name, tmp_path):
    with pytest.raises(MonetError, match="name"):
        launch.node_config(name, tmp_path, tmp_path / "memory", "")


@pytest.mark.parametrize("name", ["Universität \\ O'Brien", "a=b c=[d]", "医院 🏥", "N" * 64])
def test_flower_is_told_names_and_folders_as_they_are(name, tmp_path):
    node = launch.node_config(name, tmp_path / name, tmp_path / "memory", "cpu")
    command = run.supernode_command("127.0.0.1:8000", node, 9000, None, None)
    assert parse_config_args([command[command.index("--node-config") + 1]]) == node


@pytest.mark.parametrize("folder", ["out", "医院 🏥", 'a "b" \\ c', "Straße"])
def test_flower_reads_the_run_configuration_that_is_written(folder, alike, tmp_path):
    config = settings.to_run_config(TWO, alike, folder, False)
    run.write_app(tmp_path / folder, config)
    run.write_connection(tmp_path, "127.0.0.1:8000", Path(folder))
    found = tomllib.loads((tmp_path / folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    assert settings.from_run_config(found) == (TWO, alike, folder, False)
    connection = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))["superlink"]
    assert connection[run.LINK]["root-certificates"] == folder


def test_the_server_command_hands_its_settings_on(alike, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(launch, "serve", lambda settings, federation, output, **_: found.append(federation) or output)
    (tmp_path / "config.json").write_text(to_json(alike), encoding="utf-8")
    words = ["federated-server", tmp_path / "config.json", "-o", tmp_path / "run", "--sites", 1, "--set", "federated.most_examples=200000"]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert found[0].most_examples == 200_000
