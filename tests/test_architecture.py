"""The house rules that a machine can hold: which module may import which, and what is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import monet_edge

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monet_edge"
# Lower floors never import higher ones; a module may import what stands before it.
FLOORS = [
    ["errors", "__init__"],
    ["spec", "files", "labels"],
    ["architectures", "preprocess", "nifti", "memory", "orientation", "stream"],
    ["fingerprint", "volume", "phantom"],
    ["weights"],
    ["jobs"],
    ["kernels"],
    ["fuse"],
    ["plan"],
    ["program"],
    ["runtime"],
    ["statistics", "postprocess", "model"],
    ["preview", "record"],
    ["page"],
    ["pipeline"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}


def imports_of(path):
    """Names of the package's modules that a file imports, at any place but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    hidden = {id(node) for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
              for statement in block.body for node in ast.walk(statement)}  # fmt: skip
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from ([f"monet_edge.{node.module}"] if node.module else [f"monet_edge.{alias.name}" for alias in node.names])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports_of(path):
        assert name.split(".")[0] not in {"torch", "scipy", "trainer", "matplotlib"}
        if name.startswith("monet_edge."):
            there = name.split(".")[1]
            if there in FLOOR and there != "__init__":
                assert FLOOR[there] < FLOOR[here] or there == here, f"{here} imports {there}"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_help_is_light():
    code = """
import sys
from monet_edge.cli import app
try: app(["segment", "--help"])
except SystemExit: pass
print("loaded", [name for name in ("numba", "nibabel", "numpy", "torch", "trainer", "scipy") if name in sys.modules])
"""
    assert run(code).endswith("loaded []\n")


def test_the_runtime_needs_no_torch():
    code = "import sys, monet_edge.cli, monet_edge.pipeline; print([m for m in ('torch', 'trainer') if m in sys.modules])"
    assert run(code) == "[]\n"


def test_public_names_are_sorted_and_there():
    assert monet_edge.__all__ == sorted(monet_edge.__all__)
    assert dir(monet_edge) == monet_edge.__all__
    for name in monet_edge.__all__:
        assert getattr(monet_edge, name) is not None


def test_segment_stays_a_function_when_every_module_is_imported():
    code = """
import monet_edge, importlib, pkgutil
first = monet_edge.segment
for module in pkgutil.walk_packages(monet_edge.__path__, "monet_edge."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert callable(first) and monet_edge.segment is first and callable(monet_edge.load), monet_edge.segment
print("same")
"""
    assert run(code) == "same\n"


def test_no_file_names_this_machine():
    """A path of whoever wrote the code would fail at everybody else's."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt"} and path.exists() and path != Path(__file__):
            assert f"{Path.home()}/" not in path.read_text()
