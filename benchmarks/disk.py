"""From disk to disk: the whole command as a process, beside the time of its slices, and beside the same job as a user would write it.

Every figure is that of a fresh process with its kernels compiled already; contestants take turns, in one run, one after the other.
What they are held to, instruction set and threads of every library, they inherit from the process that measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge import formats, model, phantom, weights

from . import peers
from .machine import ROOT, environment
from .measure import summarise
from .startup import COMMAND

CT = (150, 512, 512)  # Z, H, W
SMALL, SMALLS = (64, 67, 79), 48
DEEP = (300, 512, 512)  # whose memory is measured
HEAD = (256, 256, 256)  # of 1 mm
SEGMENTER, SMALL_SEGMENTER, HEAD_SEGMENTER = "brain-flair", "hippocampus", "brain"
PARTS = ("one", "many", "deep", "head")  # a large scan, many small ones, the memory of a very large one, a whole head


def measure(
    threads: int,
    rounds: int,
    parts: Sequence[str] = PARTS,
    ct: Sequence[int] = CT,
    deep: Sequence[int] = DEEP,
    head: Sequence[int] = HEAD,
    smalls: int = SMALLS,
) -> dict[str, Any]:
    """Time the command, its slices and the peer.

    Parameters
    ----------
    threads : int
        For all of them.
    rounds : int
        Of turns, after one that fills the caches.
    parts : sequence of str
        Out of `PARTS`.
    ct, deep, head : (Z, H, W)
        Of the scan that is timed, of the one whose memory is measured, and of the one that is taken for a head.
    smalls : int
        Small volumes in one call.

    Returns
    -------
    dict
        ``one`` and ``many``: seconds of ``command``, ``slices`` (in `Model.predict`, in a process of their own) and, where OpenVINO
        is there, ``peer``, as `measure.summarise` gives them, and ``dice`` of its mask with ours; ``deep``: peak and volume in bytes;
        ``head``: seconds, and ``peak``.
    """
    found: dict[str, Any] = {"threads": threads, "ct": list(ct), "deep_shape": list(deep), "head_shape": list(head), "smalls": smalls}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in parts:
            (folder / part).mkdir()
        if "one" in parts:
            phantom.save(phantom.make(shape=(ct[0], ct[1], ct[2]))[0], folder / "one" / "scan.nii.gz")
            contestants = _contestants(folder / "one", SEGMENTER, threads)
            with suppress(ImportError):
                contestants["peer"] = _peer(folder, threads)
            found["one"] = _in_turn(contestants, rounds)
            if "peer" in found["one"]:
                found["one"]["dice"] = _dice(folder / "one" / "masks" / "scan_seg.nii.gz", folder / "peer.nii.gz")
        if "many" in parts:
            for i in range(smalls):
                phantom.save(phantom.make(i, SMALL)[0], folder / "many" / f"scan{i:02d}.nii.gz")
            found["many"] = _in_turn(_contestants(folder / "many", SMALL_SEGMENTER, threads), rounds)
        if "deep" in parts:
            phantom.save(phantom.make(shape=(deep[0], deep[1], deep[2]))[0], folder / "deep" / "scan.nii.gz")
            found["deep"] = {"peak": _command(folder / "deep", SEGMENTER, threads)["peak"], "volume": 2 * int(np.prod(deep))}
        if "head" in parts:
            phantom.save(phantom.make(shape=(head[0], head[1], head[2]))[0], folder / "head" / "scan.nii.gz")
            taken = [_command(folder / "head", HEAD_SEGMENTER, threads, "--spacing", "1") for _ in range(rounds + 1)][1:]
            found["head"] = summarise([one["seconds"] for one in taken]) | {"peak": max(one["peak"] for one in taken)}
    return found


def _contestants(scans: Path, segmenter: str, threads: int) -> dict[str, Callable[[], float]]:
    return {"command": partial(_seconds, scans, segmenter, threads), "slices": partial(_slices, scans, segmenter, threads)}


def _in_turn(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {title: [] for title in contestants}
    for _ in range(rounds + 1):  # the first round fills the caches
        for title, run in contestants.items():
            times[title].append(run())
    return {title: summarise(found[1:]) for title, found in times.items()}


def _command(folder: Path, segmenter: str, threads: int, *more: str) -> dict[str, float]:
    """``monet-edge segment`` of all scans of a folder: seconds from launch to end, peak bytes."""
    scans, masks = sorted(folder.glob("*.nii.gz")), folder / "masks"
    masks.mkdir(exist_ok=True)
    output = masks if len(scans) > 1 else masks / "scan_seg.nii.gz"
    command = [sys.executable, "-c", COMMAND, str(Path(__file__).parent), "segment", *map(str, scans), "--model", segmenter,
               "-o", str(output), "--threads", str(threads), "--overwrite", "--quiet", *more]  # fmt: skip
    start = time.monotonic()
    done = subprocess.run(command, env=environment("native", threads), cwd=ROOT, check=True, capture_output=True, text=True)
    return {"seconds": time.monotonic() - start, "peak": int(done.stdout.splitlines()[-1])}


def _seconds(folder: Path, segmenter: str, threads: int) -> float:
    return _command(folder, segmenter, threads)["seconds"]


def _slices(folder: Path, segmenter: str, threads: int) -> float:
    """Seconds that the slices of all scans of a folder take in `Model.predict`, a scan at a time, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.disk", segmenter, str(threads), *map(str, sorted(folder.glob("*.nii.gz")))]
    done = subprocess.run(command, env=environment("native", threads), cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def predict(segmenter: str, threads: int, paths: Sequence[Path]) -> float:
    """What the process of `_slices` does: all is read and normalised before the clock runs."""
    ready = model.load(segmenter, threads)
    seconds = 0.0
    for path in paths:
        slices = ready.slices(formats.read(path))
        ready.predict(slices[: 2 * threads])
        start = time.perf_counter()
        ready.predict(slices)
        seconds += time.perf_counter() - start
    return seconds


def _peer(folder: Path, threads: int) -> Callable[[], float]:
    """The same job with nibabel, SciPy and OpenVINO, as `disk_peer` writes it; raises ImportError where they are missing."""
    import openvino  # noqa: F401
    import scipy  # noqa: F401
    import torch  # noqa: F401  writes the ONNX file

    record = weights.load(SEGMENTER).preprocess
    onnx = peers.onnx_file(peers.shipped_case(SEGMENTER, folder))
    command = [sys.executable, str(Path(__file__).with_name("disk_peer.py")), str(folder / "one" / "scan.nii.gz"),
               str(folder / "peer.nii.gz"), str(onnx), str(threads), json.dumps(asdict(record))]  # fmt: skip

    def run() -> float:
        start = time.monotonic()
        subprocess.run(command, env=environment("native", threads), check=True, capture_output=True)
        return time.monotonic() - start

    return run


def _dice(*paths: Path) -> float:
    """Agreement of two masks."""
    one, other = (formats.read(path).voxels > 0 for path in paths)
    return float(2 * (one & other).sum() / max(one.sum() + other.sum(), 1))


if __name__ == "__main__":
    print(predict(sys.argv[1], int(sys.argv[2]), [Path(path) for path in sys.argv[3:]]))
