"""Bad files and faults as a user meets them: one clear line, no harm, never a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", ["scans", "weights"])
def test_a_thousand_hostile_files(kind):
    """Each gives the right answer or one clear line, in 2 GB of address space; `python -m tests.fuzz` makes more of them."""
    command = [sys.executable, "-m", "tests.fuzz", "--count", "1000", "--seed", "20000", "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    refused, right = (
        int(n.replace(",", "")) for n in re.search(r": ([\d,]+) clear errors, ([\d,]+) right answers; 0 anything", done.stdout).groups()
    )
    assert refused + right == 1000
    assert min(refused, right) > 40
