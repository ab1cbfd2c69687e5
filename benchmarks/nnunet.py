"""A network of nnU-Net's default size, imported, against nnU-Net's own predictor on the CPU, and its slices against other runtimes.

Every figure of a whole case is that of a process of its own, which has loaded the model and segmented the case once before; contestants
take turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import peers
from .machine import ROOT, environment
from .measure import interleave, summarise

PEER = Path(__file__).with_name("nnunet_peer.py")  # a script for the Python that has nnU-Net
SLICES = 24
RUNNERS = ("monet-edge", "OpenVINO fp32", "ONNX Runtime", "PyTorch")
OURS = "monet-edge"
THEIRS = "nnU-Net's predictor"


def measure(threads: int, patch: int, rounds: int, seconds: float, slices: int = SLICES) -> dict[str, Any]:
    """Time slices and a whole case.

    Parameters
    ----------
    threads : int
    patch : int
        Pixels a side of a tile, and of the case's slices; a power of 2.
    rounds : int
        Of processes that segment the case.
    seconds : float
        For single slices, all runners together.
    slices : int
        Of the case.

    Returns
    -------
    dict
        ``slice``: a row for every runner, with the ``error`` from PyTorch; ``case``: seconds and ``peak`` bytes of both contestants;
        ``differ``: voxels of the two masks that differ, of ``voxels``.
    """
    from monet_edge import phantom
    from monet_train.import_nnunet import import_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _script("make", folder / "model", patch)
        weights = import_model(folder / "model", folder / "model.safetensors")
        image = np.random.default_rng(1).standard_normal((1, 1, *weights.preprocess.sides)).astype(np.float32)
        tensors = {key: tensor.copy() for key, tensor in weights.tensors.items()}  # PyTorch does not like read-only memory
        found: dict[str, Any] = {"threads": threads, "patch": patch, "slices": slices}
        found["slice"] = _slice(peers.Case(weights.spec, tensors, folder, image), threads, seconds)
        scan = folder / "case_0000.nii.gz"
        phantom.save(phantom.make(shape=(slices, patch, patch))[0], scan)
        masks = {title: folder / f"{title}.nii.gz" for title in (OURS, THEIRS)}
        contestants = {
            OURS: partial(_ours, folder / "model.safetensors", scan, masks[OURS], threads),
            THEIRS: partial(_theirs, folder / "model", scan, masks[THEIRS], threads),
        }
        contestants[OURS]()  # compiles what slices have not needed, which takes 30 MB
        found["case"] = _case(contestants, rounds)
        found |= _compare(*masks.values())
        return found


def _slice(case: peers.Case, threads: int, seconds: float) -> list[dict[str, Any]]:
    reference = peers.reference(case, case.slices, double=True)
    runs = {name: _prepare(name, case, threads) for name in RUNNERS}
    rows = {name: {"runner": name, "error": float(np.abs(run(case.slices) - reference).max())} for name, run in runs.items()}
    times = interleave({name: partial(run, case.slices) for name, run in runs.items()}, seconds)
    return [rows[name] | summarise(times[name]) for name in runs]


def _prepare(name: str, case: peers.Case, threads: int) -> peers.Run:
    if name != OURS:
        return peers.RUNNERS[name](case, threads)
    from monet_edge.engine import Engine

    return Engine(case.spec, case.tensors, threads, (case.slices.shape[2], case.slices.shape[3])).run  # as `Model` does


def _case(contestants: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {title: [] for title in contestants}
    for _ in range(rounds):
        for title, run in contestants.items():
            rows[title].append(run())
    seconds = {title: summarise([row["seconds"][-1] for row in found]) for title, found in rows.items()}
    return {title: found | {"peak": max(row["peak"] for row in rows[title])} for title, found in seconds.items()}


def _compare(*masks: Path) -> dict[str, int]:
    from monet_edge.formats import read

    ours, theirs = (read(mask).voxels for mask in masks)
    return {"differ": int(np.count_nonzero(ours != theirs)), "voxels": ours.size, "foreground": int(np.count_nonzero(theirs))}


def _script(*arguments: object, threads: int = 1) -> str:
    command = [sys.executable, str(PEER), *map(str, arguments)]
    return subprocess.run(command, env=environment("native", threads), check=True, stdout=subprocess.PIPE, text=True).stdout


def _theirs(model: Path, scan: Path, mask: Path, threads: int) -> dict[str, Any]:
    return _parsed(_script("predict", model, scan, mask, threads, 2, threads=threads))


def _ours(model: Path, scan: Path, mask: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.first_case", str(model), str(scan), str(mask), str(threads)]
    done = subprocess.run(command, env=environment("native", threads), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return _parsed(done.stdout)


def _parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found
