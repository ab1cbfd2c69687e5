"""What monet-edge uses of Flower beyond its public interface: all in one file, and all there in the installed version."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra federated is not installed")

import flwr

from monet_train.federated import flower

ROOT = Path(__file__).parents[1]
PUBLIC = {"flwr", "flwr.app", "flwr.clientapp", "flwr.serverapp"}


def imports_of(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything that a file imports of Flower, at its top or within a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] == "flwr":
            found += [(node.module, alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "flwr"]
    return found


PRIVATE = [(module, name) for module, name in imports_of(Path(flower.__file__)) if module not in PUBLIC]


@pytest.mark.parametrize(("module", "name"), PRIVATE, ids=".".join)
def test_the_installed_flower_has_what_we_use(module, name):
    assert hasattr(import_module(module), name), f"Flower {flwr.__version__} has no {module}.{name}: see federated/flower.py"


def test_only_one_file_knows_what_flower_does_not_publish():
    assert PRIVATE
    for folder in ("trainer", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            strangers = [module for module, _ in imports_of(path) if module not in PUBLIC]
            assert path == Path(flower.__file__) or not strangers, f"{path.name}: {strangers}"


def test_flower_takes_the_arguments_that_we_give():
    """As far as that shows without a server: a connection is made when it is first asked something."""
    assert hasattr(flower.connect("127.0.0.1:1", "token"), "AcquireTask")
    module = import_module("flwr.supernode.runtime.run_clientapp")
    for name, given in (("pull_task_input", 1), ("push_message", 3), ("push_task_output", 4)):
        inspect.signature(getattr(module, name)).bind(*range(given))
    inspect.signature(import_module("flwr.superlink.main").create_app).bind(1, 2)
