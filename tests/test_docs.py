"""The documentation says what the programs do: options, commands and printed lines are compared with the programs."""

import doctest
import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
from typer.testing import CliRunner

import monet_edge
from monet_edge import DISCLAIMER, phantom, registry, weights
from monet_edge.cli import app
from monet_edge.model import Model
from monet_train.federated.settings import Federation

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]

spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def test_every_command_and_option_is_documented():
    page = (DOCS / "commands.md").read_text()
    assert generate.options(page) == page, "run python docs/generate.py commands.md"
    for program, application in generate.apps().items():
        for name, command in typer.main.get_command(application).commands.items():
            assert f"`{program} {name}" in page
            for parameter in command.params:
                for flag in parameter.opts:
                    assert parameter.param_type_name == "argument" or f"`{flag}`" in page
                assert parameter.help, f"{program} {name}: {parameter.name} has no help"


def test_the_expected_dice_is_documented_as_it_was_measured():
    page = (DOCS / "quality.md").read_text(encoding="utf-8")
    assert page.count("<!-- results: quality.") == 2
    assert generate.options(page) == page, "run python docs/generate.py quality.md"


def test_every_setting_of_a_federation_is_documented():
    page = (DOCS / "federated.md").read_text(encoding="utf-8")
    assert generate.options(page) == page, "run python docs/generate.py federated.md"
    for field in fields(Federation):
        assert f"| `{field.name}` | `{field.default}` | " in page


def calls():
    """Every call of a program in a page's blocks, as (page, words)."""
    for path in PAGES:
        for block in re.findall(r"```console\n(.*?)```|^    (\$ .*)$", path.read_text(), re.DOTALL | re.MULTILINE):
            for command in generate.commands("".join(block)):
                for part in re.split(r"&&|\|\||;|\n(?=\$)", command):
                    if part.split() and part.split()[0] in ("monet-edge", "monet-train"):
                        yield path.name, shlex.split(part)


@pytest.mark.parametrize(("page", "words"), list(calls()), ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]))
def test_every_call_shown_is_a_valid_one(page, words):
    group = typer.main.get_command(generate.apps()[words[0]])
    command = group.commands[words[1]]
    context = command.make_context(words[1], words[2:])  # parses, and fails for what the program does not have
    assert context.command is command


def masked(text):
    """Without what differs from run to run and from machine to machine: numbers, and the machine's description."""
    text = re.sub(r'"(cpu|system|finished|sha256|python|connected-components-3d)": .*', r'"\1"', text)
    return re.sub(r"[ ━╺╸]+", " ", re.sub(r"-?\d+(\.\d+)*(e[+-]\d+)?", "#", text))


@pytest.mark.slow
def test_the_printed_lines_are_what_is_printed(tmp_path):
    page = (DOCS / "looking.md").read_text()
    assert masked(generate.run(page, tmp_path)) == masked(page), "run python docs/generate.py looking.md"


@pytest.fixture
def beside_a_scan(tmp_path, monkeypatch):
    """In a folder with a phantom called scan.nii.gz."""
    monkeypatch.chdir(tmp_path)
    phantom.save(phantom.make()[0], tmp_path / "scan.nii.gz")


def test_the_python_shown_runs_as_it_stands(beside_a_scan):
    block = re.search(r"^    import monet_edge\n(    .*\n)+", (DOCS.parent / "README.md").read_text(), re.MULTILINE)[0]
    names = {}
    exec(textwrap.dedent(block), names)
    assert names["mask"].shape == (256, 256, 24)
    assert names["slices"].shape == (24, 3, 256, 256)
    assert names["probability"].shape == (24, 1, 256, 256)


PUBLIC = [monet_edge.load, monet_edge.segment, monet_edge.Outcome, Model, Model.segment, Model.slices, Model.predict]


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__qualname__)
def test_the_example_of_every_public_name_runs(beside_a_scan, public):
    (example,) = [found for found in doctest.DocTestFinder(recurse=False).find(public, public.__name__, globs={}) if found.examples]
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_readme_says_what_each_shipped_model_finds():
    rows = re.findall(r"^\| \[(.*?)\]\(weights/.*?\) \| (.*?) \| (.*?) \| (.*?) \|$", (DOCS.parent / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(registry.shipped())
    for name, modality, found, dice in rows:
        model = weights.load(name)
        stated = model.provenance.stated
        assert (modality, found.removesuffix(", left and right"), dice) == (stated("modality"), model.contents, stated("dice"))


def test_links_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Every link between its pages and to a source leads somewhere, on the site too."""
    subprocess.run([sys.executable, ROOT / "docs" / "site.py", tmp_path / "site"], check=True)
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {f"model-{name}.html" for name in registry.shipped()} <= {*pages}
    for name, page in pages.items():
        assert DISCLAIMER in page, name
        assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', page), f"{name} loads something from elsewhere"
        for target in re.findall(r'href="(?!https?:|mailto:|#)([^"#?]+)', page):
            assert (tmp_path / "site" / unquote(target)).exists(), f"{name}: {target}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell):
    words = {"bash": {"COMP_WORDS": "monet-edge seg", "COMP_CWORD": "1"}}.get(shell, {"_TYPER_COMPLETE_ARGS": "monet-edge seg"})
    more = {"fish": {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}}.get(shell, {})
    environment = {"_MONET_EDGE_COMPLETE": f"complete_{shell}", **words, **more}
    result = CliRunner().invoke(app, [], env=environment, prog_name="monet-edge")
    assert "segment" in result.output


def test_the_shell_completes_model_names():
    environment = {"_MONET_EDGE_COMPLETE": "complete_bash", "COMP_WORDS": "monet-edge info ", "COMP_CWORD": "2"}
    result = CliRunner().invoke(app, [], env=environment, prog_name="monet-edge")
    assert result.output.split() == list(registry.shipped())
