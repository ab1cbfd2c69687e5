"""What SECURITY.md promises of every run: what it may touch, and what no source does."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.build import head, nifti

ROOT = Path(__file__).parents[1]
WATCH = """
import json, os, socket, sys
seen = {"written": [], "network": [], "started": []}
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen["written"].append(os.fsdecode(arguments[0]))
    elif event in ("os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "os.symlink"):
        seen["written"] += [os.fsdecode(path) for path in arguments[:2] if isinstance(path, (str, bytes))]
    elif event.startswith("socket."):
        seen["network"].append(event)
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class"):
        seen["started"].append(event)
# nibabel imports pydicom where it is installed, and that requests, which no part of us brings: it binds a socket to look for IPv6
sys.modules["requests"] = None
sys.addaudithook(watch)
from monet_edge.__main__ import main
try:
    main()
finally:
    with open(sys.argv[2] + ".json", "w") as file:
        json.dump(seen, file)
"""


@pytest.mark.slow
def test_a_run_touches_its_results_and_its_cache_and_nothing_else(weights_file, tmp_path):
    """The interpreter itself reports every file opened for writing, every socket, every program started, every pickle."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.nii").write_bytes(nifti(head((32, 32, 6))))
    arguments = ["segment", tmp_path / "in" / "scan.nii", "-o", tmp_path / "out" / "mask.nii.gz", "-m", weights_file, "--preview"]
    (tmp_path / "out").mkdir()
    beside = {"--stats": "s.csv", "--run-record": "run.json", "--report": "page.html"}
    arguments += [part for option, name in beside.items() for part in (option, tmp_path / "out" / name)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for number in range(2):  # compiling, and with the compiled
        done = subprocess.run(
            [sys.executable, "-B", "-c", WATCH, *map(str, arguments), *["--overwrite"] * number],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        seen = json.loads((tmp_path / "in" / "scan.nii.json").read_text())
        assert seen["network"] == []
        assert seen["started"] == []
        allowed = (str(tmp_path / "out"), str(tmp_path / "cache"), "/dev/")
        assert [path for path in seen["written"] if not path.startswith(allowed) and not path.endswith(".json")] == []
    assert any(path.startswith(str(tmp_path / "out")) for path in seen["written"])  # the watch is awake


def test_no_source_runs_what_a_file_says():
    """No pickle, no eval, no program started by the runtime; PyTorch, if at all, loads with weights_only."""
    for path in [*ROOT.glob("monet_edge/**/*.py"), *ROOT.glob("trainer/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            banned = {"pickle", "marshal", "shelve", "dill", "joblib"} | (
                {"subprocess"} if path.is_relative_to(ROOT / "monet_edge") else set()
            )
            assert not banned & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                call, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert call not in {"eval", "exec", "os.system", "os.popen"}, path
                assert call != "torch.load" or keywords.get("weights_only") == "True", path
                assert keywords.get("allow_pickle", "False") == "False", path


def test_every_test_that_security_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    there = {name for path in ROOT.glob("tests/test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    files = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 8
    assert named <= there
    assert all((ROOT / "tests" / name).exists() for name in files)
