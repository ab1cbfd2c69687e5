"""The trainer's house rules that a machine can hold: no import circle, a light command line."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINER = ROOT / "trainer"


def module_of(path):
    """Its dotted name; a room's is that of its __init__."""
    return ".".join(path.relative_to(TRAINER).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    """Modules of the trainer that a file imports, at its top or within a function, which only hides a circle; TYPE_CHECKING may."""
    parts, tree = path.relative_to(TRAINER).with_suffix("").parts, ast.parse(path.read_text())
    hidden = {id(node) for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
              for node in ast.walk(block)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in hidden:
            base = ".".join([*parts[: -node.level], *filter(None, [node.module])])
            yield from [base] if node.module else [f"{base}.{alias.name}" for alias in node.names]


def test_no_module_imports_itself_by_way_of_others():
    needs = {module_of(path): set(imports_of(path)) for path in TRAINER.rglob("*.py")}
    assert needs["monet_train.cli"] >= {"monet_train.federated.commands", "monet_train.cli.train"}
    assert needs["monet_train.cli.train"] >= {"monet_train.options", "monet_train.train"}
    graphlib.TopologicalSorter(needs).prepare()  # a CycleError names the circle


def test_help_is_light():
    code = """
import sys
from monet_train.cli import app
try: app(["fit", "--help"])
except SystemExit: pass
print("loaded", [name for name in ("torch", "scipy", "matplotlib", "flwr", "numba", "numpy") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.endswith("loaded []\n")
