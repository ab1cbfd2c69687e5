"""A test that CI would leave out in silence fails there."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from skips import ALLOWED, NOT_IN_CI

TESTS = Path(__file__).parent

SKIPPING = """
import pytest

@pytest.mark.skipif(True, reason={allowed!r})
def test_allowed(): ...

@pytest.mark.skipif(True, reason="no moon tonight")
def test_marked(): ...

def test_within():
    pytest.importorskip("no_such_module", reason="the extra moon is not installed")

@pytest.mark.xfail
def test_expected_to_fail():
    assert False

def test_run(): ...
"""

WHOLE_MODULE = """
import pytest
pytest.importorskip("no_such_module", reason="the extra sun is not installed")
"""


def outcome(folder, **environment):
    """Exit status and last lines of pytest over tests that skip."""
    (folder / "test_skipping.py").write_text(SKIPPING.format(allowed=next(iter(ALLOWED))))
    (folder / "test_module.py").write_text(WHOLE_MODULE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "skips",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        str(folder),
    ]
    clean = {key: value for key, value in os.environ.items() if key != "CI"} | {"PYTHONPATH": str(TESTS)} | environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean)
    return done.returncode, done.stdout


def test_at_home_a_skip_is_a_skip(tmp_path):
    code, text = outcome(tmp_path)
    assert code == 0
    assert "1 passed, 4 skipped, 1 xfailed" in text


def test_in_ci_only_what_is_listed_may_be_skipped(tmp_path):
    code, text = outcome(tmp_path, CI="true")
    assert code == 1
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors" in text
    for reason in ("no moon tonight", "the extra moon is not installed", "the extra sun is not installed"):
        assert f"skipped in CI: {reason} (tests/skips.py" in text


def reasons(path):
    """Of every place in a file that skips; None where no reason is written out."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if name in ("pytest.skip", "pytest.mark.skipif", "pytest.importorskip"):
            given = call.args if name == "pytest.skip" else [each.value for each in call.keywords if each.arg == "reason"]
            yield given[0].value if given and isinstance(given[0], ast.Constant) else None


def test_every_skip_has_a_reason_that_is_listed_and_every_reason_listed_a_skip():
    assert {reason for path in TESTS.glob("*.py") for reason in reasons(path)} == {*ALLOWED, *NOT_IN_CI}


def test_ci_says_that_it_is_ci():
    assert "\nexport CI=true" in (TESTS.parent / ".ci" / "run").read_text()
