"""What is given to an index: two wheels of a commit, with what they should hold, the same bytes each time, and fit to run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from monet_edge.engine import FAMILIES

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout of git"),
]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A release of the commit at hand."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    subprocess.run([ROOT / "release" / "build", folder], check=True)
    return folder


def tracked(*folders):
    """The files of the commit below some folders."""
    words = ["git", "-C", ROOT, "ls-tree", "-r", "--name-only", "HEAD", *folders]
    listed = subprocess.run(words, check=True, capture_output=True, text=True)
    return set(listed.stdout.split("\n")) - {""}


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheels_hold_the_packages_and_nothing_else(dist):
    code, models = (contents(next(dist.glob(f"{name}-*.whl"))) for name in ("monet_edge", "monet_edge_weights"))
    packages = tracked("monet_edge") | {name.removeprefix("trainer/") for name in tracked("trainer/monet_train")}
    assert {name for name in code if ".dist-info/" not in name} == packages
    assert {name for name in models if ".dist-info/" not in name} == {f"monet_edge_{name}" for name in tracked("weights")}


def test_the_code_is_under_its_licences_and_the_models_under_theirs(dist):
    code = "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND ISC AND MIT"  # the viewer's among them
    models = "CC-BY-NC-SA-4.0 AND CC-BY-SA-4.0 AND CC-BY-3.0 AND CC0-1.0 AND Apache-2.0"
    for name, licence in (("monet_edge", code), ("monet_edge_weights", models)):
        files = contents(next(dist.glob(f"{name}-*.whl")))
        metadata = next(content for path, content in files.items() if path.endswith("/METADATA")).decode()
        assert f"\nLicense-Expression: {licence}\n" in metadata
        materials = json.loads(next(content for path, content in files.items() if path.endswith(".cdx.json")))
        assert materials["bomFormat"] == "CycloneDX"
        assert materials["metadata"]["component"]["name"] == name.replace("_", "-")
        needed = {part["name"] for part in materials.get("components", [])}
        assert not needed & {"torch", "scipy"}
        assert ("numba" in needed) is (name == "monet_edge")


def test_a_second_build_gives_the_same_bytes(dist, tmp_path):
    subprocess.run([ROOT / "release" / "build", tmp_path / "again"], check=True)
    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("models", [True, False])
def test_the_code_finds_its_models_or_says_how_to_get_them(dist, tmp_path, models):
    wheels = [wheel for wheel in dist.glob("*.whl") if models or "weights" not in wheel.name]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path / "site", *wheels], check=True
    )
    code = "from monet_edge.__main__ import main; import monet_edge; assert 'site' in monet_edge.__file__; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "info", "brain-flair"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (0 if models else 2)
    assert "MB), sha256" in done.stdout if models else "Shipped are none: pip install monet-edge-weights;" in done.stderr


@pytest.mark.skipif(not shutil.which("uvx"), reason="uv is not installed")
def test_one_line_runs_it_from_an_index(dist, tmp_path):
    """As `uvx monet-edge demo` will from the public index; what it needs comes from there, in the versions that are tested."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    words = ["--python", version, "--constraints", ROOT / "constraints.txt", "--find-links", dist, "monet-edge", "demo"]
    done = subprocess.run(["uvx", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "against the lesion as drawn" in done.stdout


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not on this machine")
def test_signed_checksums_are_verified_by_the_key_and_no_other(dist, tmp_path):
    for name in ("ours", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "monet-edge", "-f", tmp_path / "ours", dist / "SHA256SUMS"], check=True)
    for name, code in (("ours", 0), ("other", 255)):
        (tmp_path / "signers").write_text(f"us {(tmp_path / name).with_suffix('.pub').read_text()}")
        words = ["-Y", "verify", "-n", "monet-edge", "-I", "us", "-f", tmp_path / "signers", "-s", dist / "SHA256SUMS.sig"]
        with (dist / "SHA256SUMS").open("rb") as sums:
            assert subprocess.run(["ssh-keygen", *words], stdin=sums, capture_output=True).returncode == code


@pytest.mark.skipif(os.name != "posix", reason="a shell script installs it for all users")
def test_an_installation_for_all_users_compiles_nothing_when_it_is_used(dist, tmp_path):
    """What Dockerfile and monet-edge.def run: kernels for every level of CPU, in a cache that everybody reads and nobody writes."""
    prefix = tmp_path / "prefix"
    subprocess.run([ROOT / "container" / "install", prefix, *dist.glob("*.whl")], check=True)
    kept = {path: path.read_bytes() for path in (prefix / "cache").rglob("*.o")}
    levels = subprocess.run([prefix / "bin" / "monet-edge-run", "--levels"], check=True, capture_output=True, text=True).stdout.split()
    assert len(kept) == len(levels) * len(FAMILIES)
    for path in (prefix / "cache").rglob("*"):
        assert path.stat().st_mode & 0o077 == (0o055 if path.is_dir() else 0o044)
    (tmp_path / "home").mkdir()
    for level in [*levels, ""]:  # at last, what the CPU at hand can do
        environment = {**os.environ, "HOME": str(tmp_path / "home"), **({"MONET_LEVEL": level} if level else {})}
        if level and level not in usable(levels):
            continue
        words = [prefix / "bin" / "monet-edge-run", "demo", "-o", f"demo{level}"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        assert "compiling" not in done.stdout + done.stderr
    assert {path: path.read_bytes() for path in (prefix / "cache").rglob("*.o")} == kept
    assert not list((tmp_path / "home").iterdir())


def usable(levels):
    """The levels that this machine's CPU has."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return [level for level in levels if {"v4": "avx512vl", "v3": "avx2"}.get(level, "") in flags]
