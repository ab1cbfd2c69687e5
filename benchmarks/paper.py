"""The paper's tables beside ours: Knolle et al., PLoS ONE 16(8): e0255397 (2021).

Times and sizes are measured here. What needs training or a GPU is read from results/, where it was recorded with its command,
machine and date; what is not there is called not recorded.
"""

from __future__ import annotations

import string
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge.architectures import ARCHITECTURES
from monet_edge.spec import Spec, count_floats, fold, tensor_shapes

from . import peers, tables

SLICES, SIZE = 150, 256
TURN = 10  # slices that a runner does before the next has its turn
RUNNERS = ("monet-edge", "PyTorch", "ONNX Runtime", "OpenVINO fp32")
MISSING = "not recorded"

# the paper's figures: Table 1 (Dice by data set), Table 2 (seconds on an 8-core Intel i9, seconds per batch of 32 on a GPU), Table 3 (MB)
PAPER: dict[str, dict[str, Any]] = {
    "monet": {"pancreas": 0.78, "external": 0.70, "brain": 0.77, "cpu": 14.88, "gpu": 0.462, "size": 1.8},
    "unet-16": {"pancreas": 0.73, "external": 0.59, "brain": 0.77, "cpu": 7.03, "gpu": 0.152, "size": 7.6},
    "unet-64": {"pancreas": 0.76, "external": 0.50, "brain": 0.78, "cpu": 45.34, "gpu": 0.747, "size": 118.6},
    "attention-unet": {"pancreas": 0.73, "external": 0.37, "brain": 0.74, "cpu": 53.30, "gpu": 0.905, "size": None},
}
# our data sets, and the paper's that stands beside each
DATA = {"pancreas-ct": "pancreas", "brain-flair": "brain", "brain-flair-external": "external"}


def measure(threads: int, network: str, slices: int) -> list[dict[str, Any]]:
    """Seconds of a volume on the CPU, every runner in turn, each spreading slices over the threads in its best way.

    Parameters
    ----------
    threads : int
    network : str
        A key of `monet_edge.architectures.ARCHITECTURES`; weights are random.
    slices : int
        How many to time, in turns of TURN.

    Returns
    -------
    list of dict
        ``network``, ``runner``, ``seconds`` for SLICES slices, and ``error32``, the largest difference of a probability from
        PyTorch in float32.
    """
    images = np.random.default_rng(0).standard_normal((min(TURN, slices), 1, SIZE, SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        case = peers.random_case(network, Path(folder))
        runs = {name: peers.RUNNERS[name](case, threads) if name == "monet-edge" else peers.over_slices(peers.RUNNERS[name], case, threads)
                for name in RUNNERS}  # fmt: skip
        expected = peers.reference(case, images, double=False)
        errors = {name: float(abs(run(images) - expected).max()) for name, run in runs.items()}
        seconds = dict.fromkeys(runs, 0.0)
        turns = max(1, slices // len(images))
        for _ in range(turns):
            for name, run in runs.items():
                start = time.perf_counter()
                run(images)
                seconds[name] += (time.perf_counter() - start) * SLICES / (turns * len(images))
    return [{"network": network, "runner": name, "seconds": seconds[name], "error32": errors[name]} for name in runs]


def page(results: dict[str, Any]) -> str:
    """PAPER.md from what was recorded.

    Parameters
    ----------
    results : dict
        By file name: ``paper-table2`` (written by `python -m benchmarks paper`), ``paper-table1`` (rows with ``network``, ``data``,
        ``patients`` and [mean, SD] of ``dice`` and ``hausdorff``) and ``paper-gpu`` (rows with ``network``, ``seconds``); each with
        its ``machine`` and ``settings``.
    """
    template = (Path(__file__).parent / "paper_template.md").read_text()
    text = string.Template(template).substitute(
        table1=_table1(results), table2=_table2(results), table3=_table3(), sources=_sources(results)
    )
    return text.rstrip() + "\n"


def _table1(results: dict[str, Any]) -> str:
    rows = {(row["network"], row["data"]): row for row in results.get("paper-table1", {}).get("rows", ())}
    head, lines = ["", *(f"{data}: {what}" for data in DATA for what in ("Dice", "Hausdorff, pixels", "paper's Dice"))], []
    for network, title in tables.TITLES.items():
        cells = [title]
        for data, name in DATA.items():
            row = rows.get((network, data))
            cells += [f"{row[key][0]:.2f} +- {row[key][1]:.2f}" if row else MISSING for key in ("dice", "hausdorff")]
            cells.append(f"{PAPER[network][name]:.2f}")
        lines.append(cells)
    return tables.table(head, lines)


def _table2(results: dict[str, Any]) -> str:
    found = {(row["network"], row["runner"]): row for row in results.get("paper-table2", {}).get("rows", ())}
    gpu = {row["network"]: row["seconds"] for row in results.get("paper-gpu", {}).get("rows", ())}
    lines = []
    for network, title in tables.TITLES.items():
        cells = [f"{row['seconds']:.2f}" if (row := found.get((network, name))) else MISSING for name in RUNNERS]
        error = found.get((network, RUNNERS[0]))
        lines.append([title, *cells, f"{error['error32']:.0e}" if error else "", PAPER[network]["cpu"],
                      f"{gpu[network]:.3f}" if network in gpu else MISSING, PAPER[network]["gpu"]])  # fmt: skip
    head = ["seconds", *RUNNERS, "ours, max diff from PyTorch", "paper, CPU", "GPU batch of 32", "paper, GPU batch of 32"]
    return tables.table(head, lines)


def _table3() -> str:
    lines = []
    for network, title in tables.TITLES.items():
        spec = ARCHITECTURES[network]()
        trained, folded, size = 4 * count_floats(spec), 4 * count_floats(fold(spec)), PAPER[network]["size"]
        megabytes = [f"{n / 1e6:.2f}" for n in (trained, folded, folded / 2, 2 * trained)]
        lines.append([title, f"{count_floats(spec):,}", f"{_parameters(spec):,}", *megabytes, "not printed" if size is None else size])
    head = ["", "parameters (Keras)", "parameters (PyTorch)", "float32, MB", "folded, MB", "folded, float16, MB",
            "federated round, MB a site", "paper, MB"]  # fmt: skip
    return tables.table(head, lines)


def _parameters(spec: Spec) -> int:
    """What PyTorch's ``parameters()`` counts: everything but BatchNorm's running statistics."""
    return sum(prod(shape) for name, shape in tensor_shapes(spec).items() if ".running_" not in name)


def _sources(results: dict[str, Any]) -> str:
    """Which rows were measured by this command and which were recorded elsewhere, on what."""
    lines = ["- Table 3: computed from the Specs, exact."]
    for key, title, how in (
        ("paper-table1", "Table 1", "recorded"),
        ("paper-table2", "Table 2, CPU", "measured by this command"),
        ("paper-gpu", "Table 2, GPU", "recorded"),
    ):
        if key in results:
            settings = ", ".join(f"{name} {value}" for name, value in results[key]["settings"].items())
            how = f"{how} ({settings}); {tables.caption(results[key]['machine'])}"
        lines.append(f"- {title}: {how if key in results else MISSING}")
    return "\n".join(lines)
