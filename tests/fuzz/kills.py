"""End a run at a random moment, by Ctrl-C or kill -9, and look at what it left: `python -m tests.fuzz.kills --count 200`."""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import typer

from monet_edge import weights

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # as pytest does

from conftest import random_tensors  # noqa: E402

from fuzz import build, mutate  # noqa: E402

STARTING = ("Fatal Python error: init_import_site", "Could not import runpy")  # what Python says to a Ctrl-C then, with status 1
RESULTS = {"mask.nii.gz", "mask_prob.nii.gz"}


@dataclass
class Tally:
    """What became of many runs that were ended."""

    counts: Counter = field(default_factory=Counter)
    failures: list = field(default_factory=list)

    def __str__(self):
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return f"{counts}; {len(self.failures)} partial outputs, changed inputs, tracebacks or leftovers"


def run(count, folder, seed=0):
    """End ``count`` runs, half of them by each signal.

    Parameters
    ----------
    folder : Path
        Empty; holds one scan, and what the runs write.

    Returns
    -------
    Tally
        No output may ever be partial, the scan never changed; Ctrl-C leaves nothing; the next run removes what kill -9 left.
    """
    rng = np.random.default_rng(seed)
    model, scan = folder / "tiny.safetensors", folder / "scan.nii.gz"
    weights.save(model, mutate.NETWORKS[0], random_tensors(mutate.NETWORKS[0]), mutate.RECORD, {})
    scan.write_bytes(build.gz(build.nifti(build.head((96, 96, 160)))))
    given = {path.name: path.read_bytes() for path in (model, scan)}
    command = [sys.executable, "-m", "monet_edge", "segment", str(scan), "-o", str(folder / "mask.nii.gz"), "--probabilities", "--quiet"]
    command += ["-m", str(model), "--threads", "2"]

    def start():
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def finish():
        process = start()
        errors = process.communicate()[1]
        assert process.returncode == 0, errors

    def left():
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    finish()  # compiles, if need be
    for name in RESULTS:
        (folder / name).unlink()
    begin = time.monotonic()
    finish()
    whole, expected = time.monotonic() - begin, left()
    assert expected.keys() == RESULTS | given.keys()
    tally = Tally()
    for i in range(count):
        for name in RESULTS:
            (folder / name).unlink(missing_ok=True)
        old = {path.name for path in folder.glob("*.part")}
        ending = (signal.SIGINT, signal.SIGKILL)[i % 2]
        process = start()
        time.sleep(float(rng.uniform(0.1, 1.05)) * whole)
        if process.poll() is not None:
            whole *= 0.9  # the machine has become faster
        process.send_signal(ending)
        errors = process.communicate()[1]
        found = left()
        parts = {name for name in found if name.endswith(".part")} - old
        wrong = [name for name, content in found.items() if not name.endswith(".part") and content != expected[name]]
        ours = re.search(r'__main__\.py", line \d+, in main$', errors, re.MULTILINE)  # before that, a traceback is Python's own
        status = process.returncode in (0, 130, -signal.SIGINT) or errors.startswith(STARTING)
        if ending == signal.SIGINT and (parts or ours or not status):
            wrong.append(f"exit {process.returncode}, {sorted(parts)}, {errors}")
        if wrong or not given.keys() <= found.keys():
            tally.failures.append((i, ending.name, wrong))
        ended = "finished before" if process.returncode == 0 else ("with a temporary file" if parts else "ended")
        tally.counts[f"{ending.name} {ended}"] += 1
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)
    finish()
    if left() != expected:
        tally.failures.append((count, "leftovers", sorted(left())))
    return tally


def main(count: int = 100, seed: int = 0):
    """End so many runs, half by Ctrl-C, half by kill -9; exit status 1 if anything was lost."""
    with tempfile.TemporaryDirectory() as folder:
        tally = run(count, Path(folder), seed)
    for failure in tally.failures:
        print(*failure)
    print(f"{count} runs: {tally}")
    if tally.failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
