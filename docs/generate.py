"""Write the generated parts of these pages: every command's options, and what every command shown really prints.

    python docs/generate.py [PAGE.md ...]

In a page, the lines of a ```console block that begin with "$ " are run in one scratch folder, from top to bottom, and the
rest of the block is replaced by what they print. Text between <!-- options: COMMAND --> and <!-- end --> becomes a table
of the command's options, or for `federated.NAME` of these settings, and between <!-- results: NAME --> and <!-- end --> one of what
`python -m benchmarks NAME` recorded. Pictures come from the scratch folder too, see `PICTURES`, app.md's from the page itself. A test
holds all of it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
# Which file a page's commands leave behind becomes which picture; a page of HTML is photographed.
PICTURES = {
    "looking.md": {"preview.png": "masks/phantom_00_preview.png", "report.png": "pages/phantom_00_report.html"},
    "tutorial.md": {"tutorial.png": "masks/phantom_00_preview.png"},
}
# A browser without a graphics card tells so, and the page spares it the see-through scan
GRAPHICS = """const given = WebGL2RenderingContext.prototype.getExtension;
WebGL2RenderingContext.prototype.getExtension = function (name) {
  return name === "WEBGL_debug_renderer_info" ? null : given.call(this, name);
};"""
BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
OPTIONS = re.compile(r"<!-- options: (.*?) -->\n.*?<!-- end -->", re.DOTALL)
RESULTS = re.compile(r"<!-- results: (.*?) -->\n.*?<!-- end -->", re.DOTALL)


def commands(block: str) -> list[str]:
    """The commands of a block; a line that ends with a backslash goes on in the next."""
    return [line[2:].replace("\\\n", "\n") for line in shown(block)]


def shown(block: str) -> list[str]:
    """The commands as they stand in the page."""
    return re.findall(r"^\$ (?:.*\\\n)*.*$", block, re.MULTILINE)


def run(page: str, folder: Path) -> str:
    """The page with every block's output as it is now, the kernels compiled."""
    output("monet-edge warmup", folder)

    def fill(match: re.Match[str]) -> str:
        parts = []
        for line in shown(match[1]):
            parts.append(line)
            parts.append(output(line[2:], folder))
        return "```console\n" + "\n".join(filter(None, parts)) + "\n```\n"

    return BLOCK.sub(fill, page)


def output(command: str, folder: Path) -> str:
    """What a command prints, on both channels; the programs are this checkout's, installed or not."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(HERE.parent)}
    command = f'monet-edge() {{ python -m monet_edge "$@"; }}; monet-train() {{ python -m monet_train.cli "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = (line.rstrip() for line in done.stdout.splitlines())
    return "\n".join([*lines, *([f"(exit status {done.returncode})"] if done.returncode else [])])


def options(page: str) -> str:
    """The page with every table of options as the program has them, and of results as they are recorded."""
    page = RESULTS.sub(lambda match: f"<!-- results: {match[1]} -->\n{results(match[1])}\n<!-- end -->", page)
    return OPTIONS.sub(lambda match: f"<!-- options: {match[1]} -->\n{table(match[1])}\n<!-- end -->", page)


def results(name: str) -> str:
    """What a part of the benchmarks recorded, as its table; of a part that has several, NAME.TABLE."""
    from benchmarks import tables

    name, _, part = name.partition(".")
    path = HERE.parent / "benchmarks" / "results" / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else None
    return str(getattr(tables, name)(found[part] if found and part else found))


def apps() -> dict[str, typer.Typer]:
    """Both programs."""
    import monet_edge.cli
    import monet_train.cli

    return {"monet-edge": monet_edge.cli.app, "monet-train": monet_train.cli.app}


def table(program: str) -> str:
    """Every command of a program with its arguments and options, as Markdown."""
    if program == "federated.NAME":
        return federated_settings()
    group = typer.main.get_command(apps()[program])
    parts = []
    for name, command in sorted(group.commands.items()):
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        usage = " ".join([program, name, *(one.make_metavar(command.make_context(name, [], resilient_parsing=True)) for one in arguments)])
        parts.append(f"## `{usage}`\n\n{command.help}\n")
        rows = [(one.human_readable_name.upper(), one) for one in arguments]
        rows += [(", ".join(f"`{flag}`" for flag in sorted(one.opts, key=len)), one) for one in command.params if one not in arguments]
        if rows:
            parts.append("| | |\n|---|---|")
            parts += [f"| {flags} | {cell(one)} |" for flags, one in rows]
            parts.append("")
    return "\n".join(parts).rstrip()


def federated_settings() -> str:
    """What `--set federated.NAME=VALUE` changes: names, defaults and descriptions from the declaration."""
    from monet_train.federated.settings import Federation

    about = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", inspect.cleandoc(Federation.__doc__ or ""), re.MULTILINE)
    rows = [f"| `{name}` | `{getattr(Federation, name)}` | {' '.join(text.split()).replace('``', '`')} |" for name, text in about]
    return "\n".join(["| federated. | default | |", "|---|---|---|", *rows])


def cell(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    """What an option does, and its default where that says something."""
    text = (parameter.help or "").strip().replace("|", "\\|").replace("<", "&lt;")
    if parameter.default in (None, False, (), "") or parameter.required:
        return text
    return f"{text} Default: `{parameter.default}`."


def photograph(page: Path, picture: Path) -> None:
    """A screenshot of a page of HTML."""
    import browser

    with tempfile.TemporaryDirectory() as profile, browser.Browser(profile, 1280, 960) as tab:
        tab.open(page)
        tab.run("Promise.all([...document.images].map((one) => one.decode()))")
        tab.screenshot(picture)


def photograph_app(picture: Path) -> None:
    """A screenshot of the local page with its synthetic head, segmented."""
    import browser
    import nibabel
    import numpy as np
    import served

    from monet_edge import phantom
    from monet_edge.registry import shipped

    with tempfile.TemporaryDirectory() as folder, served.running(Path(folder), shipped()) as client:
        head = Path(folder) / "head.nii.gz"
        voxels = phantom.make(3, (160, 256, 256))[0].transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1])), head)  # 1 mm, so that 3-D is worth a look
        with browser.Browser(Path(folder) / "profile", 1280, 960, webgl=True) as tab:
            tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=960, deviceScaleFactor=1, mobile=False)
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=GRAPHICS)
            tab.open(f"http://{client.guard.host}/{client.guard.token}/")
            tab.until("document.body.dataset.usable")
            tab.drop(head)
            tab.until("document.getElementById('canvas').dataset.shown == 'scan'")
            tab.click("#run")
            tab.until("document.getElementById('canvas').dataset.shown == 'scan mask'", 120)
            tab.run("window.scrollTo(0, 0)")
            tab.screenshot(picture)


def main(pages: Annotated[list[str] | None, typer.Argument(metavar="[PAGE.md ...]", help="Default: all.")] = None) -> None:
    """Rewrite the pages."""
    for path in sorted(HERE.glob("*.md")):
        if pages and path.name not in pages:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            path.write_text(run(options(path.read_text()), Path(scratch)))
            for picture, source in PICTURES.get(path.name, {}).items():
                if source.endswith(".html"):
                    photograph(Path(scratch) / source, HERE / "images" / picture)
                else:
                    shutil.copy(Path(scratch) / source, HERE / "images" / picture)
        if path.name == "app.md":
            photograph_app(HERE / "images" / "app.png")
        print(path.name)


if __name__ == "__main__":
    typer.run(main)
