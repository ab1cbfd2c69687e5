"""Table 2 of the paper on this machine's CPU, and the box plots of Fig 4 from what was recorded; `paper_page` writes the page."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import paper_page, peers, tables
from .paper_page import RUNNERS, SLICES

VOLUME, SIZE = 150, 256  # slices, pixels
TURN = 10  # slices that a runner does before the next has its turn


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
        ``network``, ``runner``, ``seconds`` for VOLUME slices, and ``error32``, the largest difference of a probability from
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
                seconds[name] += (time.perf_counter() - start) * VOLUME / (turns * len(images))
    return [{"network": network, "runner": name, "seconds": seconds[name], "error32": errors[name]} for name in runs]


def draw(results: Mapping[str, Any], short: Mapping[str, Any], folder: Path) -> None:
    """Fig 4's box plots (`fig4-<data>.png`), and Dice against steps with long and with short epochs (`steps-<data>.png`)."""
    from monet_train import figures  # Matplotlib and torch
    from monet_train.scores import Score

    trained = paper_page.trainings(results)
    for data in paper_page.DATA:
        found = {tables.TITLES[net]: [Score(**row) for row in rows] for net, rows in paper_page.scores(trained, data).items()}
        if found:
            figures.boxes(folder / f"fig4-{data}.png", found)
    long, before = trained, paper_page.trainings(short)
    for data, slices in SLICES.items():
        lines = {}
        for net in ("monet", "unet-16"):
            for title, trainings in (("long epochs", long), ("short epochs", before)):
                if (net, data) in trainings:
                    row = trainings[net, data]
                    recipe = row["settings"]["recipe"]
                    steps = recipe.get("epoch_steps") or -(-slices // recipe["batch"])
                    lines[f"{tables.TITLES[net]}, {title}"] = [(steps * (i + 1), past["val_dice_1"]) for i, past in enumerate(row["curve"])]
        if lines:
            figures.progress(folder / f"steps-{data}.png", lines)
