"""Whole networks: one slice, and a volume of slices, for us and every peer in turn; with the distance of every probability."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import peers
from .measure import interleave, summarise

NETWORKS = ("monet", "unet-16", "unet-64")
SHIPPED = ("brain-flair", "hippocampus", "pancreas-ct")
VOLUME = 4  # slices a thread in a measured volume
OURS = "monet-edge"


def measure(threads: int, network: str, mode: str, runners: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Time one network in every runner, interleaved.

    Parameters
    ----------
    threads : int
    network : str
        A key of `monet_edge.architectures.ARCHITECTURES`, with random weights, or a shipped model.
    mode : str
        ``slice``: one slice, shared by all threads. ``volume``: several slices, the best way each runner has with them.
    runners : sequence of str
        Keys of `peers.RUNNERS`.
    seconds : float
        For all runners together.

    Returns
    -------
    list of dict
        A row for every runner: seconds a slice (``min``, ``median``, over ``rounds``), ``error32`` and ``error64``, the largest
        difference of a probability from PyTorch in float32 and float64; or ``failed``, why there is no figure.
    """
    count = VOLUME * threads if mode == "volume" else 1
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, peers.Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        case = peers.make_case(network, Path(folder))
        images = case.volume(count)
        single, double = (peers.reference(case, images, double) for double in (False, True))
        for name in runners:
            row = {"network": network, "mode": mode, "runner": name, "threads": threads, "slices": count}
            try:
                run = _prepare(case, name, threads, mode)
                probability = run(images)
            except Exception as error:
                if name == OURS:
                    raise
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            else:
                runs[name] = run
                row |= {f"error{bits}": float(abs(probability - ref).max()) for bits, ref in ((32, single), (64, double))}
            rows[name] = row
        times = interleave({name: lambda run=run: run(images) for name, run in runs.items()}, seconds)  # type: ignore[misc]
    for name in runs:
        rows[name] |= summarise([time / count for time in times[name]])
    return list(rows.values())


def _prepare(case: peers.Case, name: str, threads: int, mode: str) -> peers.Run:
    prepare = peers.RUNNERS[name]
    if mode == "volume" and name != OURS:  # an Engine spreads slices over its threads itself
        return peers.over_slices(prepare, case, threads)
    return prepare(case, threads)
