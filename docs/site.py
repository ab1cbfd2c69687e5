"""Build the documentation as a site, of the pages that are there: `python docs/site.py [FOLDER]`, by default into build/site.

Pages keep their places in the repository; here they are staged side by side with their links turned to one another, and what else they
link to (sources, tables of numbers) is copied along. A link that leads nowhere, and every warning of Sphinx, is an error. Needs the
extra `docs`, and no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"
PAGES = {
    "use": ["looking", "quality", "commands", "clinical", "nnunet", "archive", "app", "slicer", "container"],
    "train": ["tutorial", "synth", "federated"],
}  # of docs/, in this order; what is not written yet is left out
FRONTS = ("README.md", "LICENSES.md", "__init__.py", "CMakeLists.txt")  # what a link to a folder shows
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def pages() -> dict[Path, str]:
    """Every page with the name that it has on the site."""
    found = {ROOT / "README.md": "readme"}
    found |= {ROOT / "docs" / f"{name}.md": name for names in PAGES.values() for name in names if (ROOT / "docs" / f"{name}.md").exists()}
    found |= {path: f"model-{path.stem.lower()}" for path in sorted((ROOT / "weights").glob("*.md"))}
    found |= {ROOT / "monet_edge" / "engine" / "README.md": "engine", ROOT / "SECURITY.md": "security"}
    found |= {ROOT / "CONTRIBUTING.md": "contributing", ROOT / "CHANGELOG.md": "changelog"}
    numbers = {"README": "benchmarks", "PAPER": "paper", "FEDERATED": "benchmarks-federated"}
    return {**found, **{ROOT / "benchmarks" / f"{page}.md": name for page, name in numbers.items()}}


def stage(folder: Path) -> None:
    """Write the pages and what they link to into a folder, for Sphinx.

    Raises
    ------
    SystemExit
        Naming the page and the link that leads nowhere.
    """
    shutil.copy(SITE / "conf.py", folder)
    shutil.copy(SITE / "api.md", folder)
    known = pages()
    for page, name in known.items():
        text = LINK.sub(partial(_turned, page=page, known=known, folder=folder), page.read_text(encoding="utf-8"))
        (folder / f"{name}.md").write_text(re.sub(r"^```console$", "```text", text, flags=re.MULTILINE), encoding="utf-8")
    groups = {
        **{group: [name for name in names if name in known.values()] for group, names in PAGES.items()},
        "models": [name for name in known.values() if name.startswith("model-")],
        "learn": ["engine", "benchmarks", "paper", "benchmarks-federated"],
        "project": ["contributing", "security", "changelog"],
    }
    index = (SITE / "index.md").read_text(encoding="utf-8")
    for group, names in groups.items():
        index = index.replace(f"PAGES: {group}", "\n".join(name for name in names if name in known.values()))
    (folder / "index.md").write_text(index, encoding="utf-8")


def _turned(link: re.Match[str], page: Path, known: dict[Path, str], folder: Path) -> str:
    """A link of a page, as it must stand on the site."""
    before, target, anchor, after = link[1], link[2], link[3] or "", link[4]
    if "://" in target:
        return link[0]
    path = Path(os.path.normpath(page.parent / target))
    if path.is_dir():
        path = next((path / name for name in FRONTS if (path / name).exists()), path)
    if path in known:
        return f"{before}{known[path]}.md{anchor}{after}"
    if path == ROOT / "docs" / "README.md":
        return f"{before}index.md{after}"
    if not path.is_file():
        raise SystemExit(f"{page.relative_to(ROOT)}: the link to {target} leads nowhere")
    copy = path.relative_to(ROOT)
    if path.suffix in (".png", ".svg", ".jpg"):  # a picture stands in the page
        (folder / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / copy)
        return f"{before}{copy.as_posix()}{after}"
    place = folder / "files" / copy
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place)
    return f"{before}source:{copy.as_posix()}{after}"  # see conf.py


def build(output: Path) -> None:
    """Stage and build the site; a folder that is there is replaced."""
    with tempfile.TemporaryDirectory() as staged:
        stage(Path(staged))
        words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", staged, str(output)]
        if subprocess.run(words).returncode:
            raise SystemExit("the site was not built: see above")
        shutil.copytree(Path(staged) / "files", output / "files", dirs_exist_ok=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site")
