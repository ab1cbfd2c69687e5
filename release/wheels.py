"""The wheels of a commit: `monet-edge`, code, and `monet-edge-weights`, each model under its own.

    python release/wheels.py FOLDER      (release/build runs it in an environment of its own)

`pip install .` in a checkout installs both at once. Whoever may not have non-commercial weights leaves the second wheel out:
`pip install --no-deps monet-edge`. The same commit gives the same bytes: the sources are those of git, their times the commit's,
the files of a wheel in order.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from email.parser import HeaderParser
from io import BytesIO
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LICENCE = "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND ISC AND MIT"  # ours, and the page's viewer with its parts


def build(folder: Path) -> list[Path]:
    """Build both wheels into a folder (created), and SHA256SUMS beside them.

    Parameters
    ----------
    folder : Path
        Wheels that lie there already are replaced.

    Returns
    -------
    list of Path
        The wheels.
    """
    time = git("log", "-1", "--format=%ct").decode().strip()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        made = [_wheel(stage, folder, int(time)) for stage in (_stage_code(Path(temporary)), _stage_weights(Path(temporary)))]
    sums = "".join(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n" for wheel in made)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return made


def git(*words: str) -> bytes:
    """What a git command prints in the checkout."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True).stdout


def _stage_code(temporary: Path) -> Path:
    """The commit's files, less the weights, with a pyproject.toml that asks for the wheel of weights instead."""
    stage = temporary / "code"
    with tarfile.open(fileobj=BytesIO(git("archive", "HEAD"))) as archive:
        archive.extractall(stage, filter="data")
    shutil.move(stage / "weights", temporary / "weights")
    text = (stage / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.*)"', (stage / "monet_edge" / "about.py").read_text(encoding="utf-8"))[1]
    for before, after in (
        (r'^license = ".*"$', f'license = "{LICENCE}"'),
        (r"^license-files = .*$", 'license-files = ["LICENSE", "monet_edge/app/vendor/LICENSE"]'),
        (r"^dependencies = \[$", f'dependencies = [\n    "monet-edge-weights=={version}",'),
        (r'"monet_edge\.shipped", ', ""),
        (r'"monet_edge\.shipped" = "weights", ', ""),
        (r'^"monet_edge\.shipped" = .*\n', ""),
    ):
        text, count = re.subn(before, after, text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"pyproject.toml: expected {before} once, found it {count} times: release/wheels.py must follow it")
    (stage / "pyproject.toml").write_text(text, encoding="utf-8")
    return stage


def _stage_weights(temporary: Path) -> Path:
    """The models with their cards, splits and licences, and a pyproject.toml of their own."""
    stage = temporary / "models"
    shutil.copytree(temporary / "weights", stage / "monet_edge_weights")
    (stage / "LICENSES.md").write_bytes((stage / "monet_edge_weights" / "LICENSES.md").read_bytes())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licence = " AND ".join(part for part in project["license"].split(" AND ") if part not in LICENCE.split(" AND "))
    version = re.search(r'__version__ = "(.*)"', (ROOT / "monet_edge" / "about.py").read_text(encoding="utf-8"))[1]
    text = (ROOT / "release" / "weights.toml").read_text(encoding="utf-8")
    (stage / "pyproject.toml").write_text(text.replace("{version}", version).replace("{licence}", licence), encoding="utf-8")
    return stage


def _wheel(stage: Path, folder: Path, time: int) -> Path:
    """Build one wheel, and put its bill of materials inside."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(time), "PIP_CONSTRAINT": ""}
    with tempfile.TemporaryDirectory() as built:
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, str(stage)],
            check=True, env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (raw,) = Path(built).glob("*.whl")
        return _repack(raw, folder / raw.name, time)


def _repack(raw: Path, wheel: Path, time: int) -> Path:
    """The wheel's files in alphabetical order with one date, the bill of materials where PEP 770 wants it, a new RECORD."""
    with zipfile.ZipFile(raw) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    record = next(name for name in files if name.endswith(".dist-info/RECORD"))
    info = record.removesuffix("RECORD")
    files[f"{info}sboms/{wheel.name.split('-')[0]}.cdx.json"] = _materials(files[f"{info}METADATA"].decode(), time)
    del files[record]
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in sorted(files.items())]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    date = datetime.fromtimestamp(time, UTC).timetuple()[:6]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(files.items(), key=lambda item: (item[0].startswith(info), item[0])):  # the metadata last, as usual
            entry = zipfile.ZipInfo(name, date)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return wheel


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _materials(metadata: str, time: int) -> bytes:
    """A CycloneDX bill of materials: what the wheel needs without extras, each in the version that was tested (constraints.txt)."""
    about = HeaderParser().parsestr(metadata)
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    tested = {name.lower().replace("_", "-"): version for name, version in pins} | {"monet-edge-weights": about["Version"]}
    whole = Component(name=about["Name"], version=about["Version"], type=ComponentType.APPLICATION, bom_ref=about["Name"])
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"{about['Name']}-{about['Version']}-{time}"))
    bom.metadata.component, bom.metadata.timestamp = whole, datetime.fromtimestamp(time, UTC)
    parts = []
    for text in about.get_all("Requires-Dist", []):
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            version = tested[need.name.lower()]
            link = PackageURL("pypi", name=need.name.lower(), version=version)
            parts.append(Component(name=need.name, version=version, purl=link, bom_ref=need.name))
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(whole, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode()


if __name__ == "__main__":
    for made in build(Path(sys.argv[1])):
        print(f"{made}: {made.stat().st_size:,} bytes")
