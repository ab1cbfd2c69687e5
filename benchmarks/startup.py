"""What surrounds the arithmetic: import, compilation, the way to the first slice, memory, and the whole command line.

Every figure is that of a fresh process, timed from the moment it is launched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel

from monet_edge import phantom, weights
from monet_edge.preprocess import Preprocess

from . import peers
from .machine import ROOT
from .measure import summarise

SCAN = (150, 512, 512)  # Z, H, W of the scan that the command line segments: a usual CT
RUNNERS = ("monet-edge", "OpenVINO", "ONNX Runtime", "PyTorch")
IMPORTS = {"import monet_edge": "import monet_edge", "import monet_edge.cli": "import monet_edge.cli", "import numpy": "import numpy"}

# The command line as `python -m monet_edge` runs it, then its own peak memory.
COMMAND = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from first_slice import peak_memory
try:
    runpy.run_module("monet_edge", run_name="__main__", alter_sys=True)
finally:
    print(peak_memory())
"""


def measure(threads: int, rounds: int) -> dict[str, Any]:
    """Measure MoNet with random weights.

    Parameters
    ----------
    threads : int
        For the command line; everything else runs on one.
    rounds : int
        Processes of each sort; three at most where one compiles.

    Returns
    -------
    dict
        ``imports``, ``first_slice`` (by runner, ours also with a cold cache; seconds from launch, and ``peak`` bytes) and
        ``cli`` (seconds, ``peak`` bytes), each as `measure.summarise` gives it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = peers.random_case("monet", folder)
        record = Preprocess(size=256, slicing="axial", context=0, intensity="zscore", low=-3.0, high=5.0, threshold=0.5, labels=("random",))
        weights.save(folder / "model.safetensors", case.spec, case.tensors, record, {"modality": "none"})
        peers.onnx_file(case).rename(folder / "model.onnx")
        first = {"monet-edge, cold": [_first_slice("monet-edge", folder, folder / f"cold{i}") for i in range(min(rounds, 3))]}
        warm: dict[str, list[dict[str, float]]] = {runner: [] for runner in RUNNERS}
        for _ in range(rounds + 1):  # in turn; the first round fills the caches
            for runner in RUNNERS:
                warm[runner].append(_first_slice(runner, folder, folder / "cache"))
        first |= {runner: found[1:] for runner, found in warm.items()}
        return {
            "imports": {title: summarise([_seconds(["-c", code]) for _ in range(rounds)]) for title, code in IMPORTS.items()},
            "first_slice": {title: _digest(found) for title, found in first.items()},
            "cli": {str(n): _digest([_command_line(folder, n) for _ in range(2)]) for n in sorted({1, threads})},
        }


def _digest(found: list[dict[str, float]]) -> dict[str, float]:
    return summarise([one["seconds"] for one in found]) | {"peak": max(one["peak"] for one in found)}


def _seconds(arguments: list[str]) -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    return time.monotonic() - start


def _first_slice(runner: str, folder: Path, cache: Path) -> dict[str, float]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("first_slice.py")), runner, str(folder)]
    start = time.monotonic()
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    return {"seconds": found["first"] - start, "peak": found["peak"]}


def _command_line(folder: Path, threads: int) -> dict[str, float]:
    """``monet-edge segment`` of a phantom of SCAN's size, compressed, with the kernels compiled already."""
    scan = folder / "scan.nii.gz"
    if not scan.exists():
        nibabel.save(phantom.to_image(phantom.make(shape=SCAN)[0]), scan)
    command = [sys.executable, "-c", COMMAND, str(Path(__file__).parent), "segment", str(scan),
               "--model", str(folder / "model.safetensors"), "-o", str(folder / "mask.nii.gz"),
               "--threads", str(threads), "--overwrite", "--quiet"]  # fmt: skip
    start = time.monotonic()
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    output = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {"seconds": time.monotonic() - start, "peak": int(output.splitlines()[-1])}
