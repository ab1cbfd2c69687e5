"""Python code in a process of its own, for tests of what a process imports, keeps or finds; how long any may take."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HANGS = 240  # seconds after which something hangs, however busy the machine; nothing that waits for so long takes ten


def run(code, **environment):
    """Standard output of the code."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
