"""Layer by layer, inside a whole slice: the chosen algorithm beside every other that suits, and OpenVINO's time for the same layer.

A layer is timed where it runs, with the caches as the layer before it left them; the variants and OpenVINO take turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge.engine.fuse import CONVOLUTIONS
from monet_edge.engine.layers import Race, alternatives, rows

from . import peers
from .measure import summarise
from .peers import SIZE


def measure(threads: int, network: str, rounds: int, rival: bool) -> list[dict[str, Any]]:
    """Time every layer of a network on one thread.

    Parameters
    ----------
    threads : int
        1: a layer's time on several is the whole network's business.
    network : str
        A key of `monet_edge.architectures.ARCHITECTURES`; weights are random.
    rounds : int
    rival : bool
        Whether OpenVINO is profiled too.

    Returns
    -------
    list of dict
        A row for every layer of ours: ``layer``, ``shape``, ``macs`` as a direct convolution would take, the ``chosen`` algorithm,
        ``algorithms``: seconds by algorithm, and ``rival``: OpenVINO's seconds for the same convolution and what it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        case = peers.random_case(network, Path(folder))
        plans = alternatives(case.spec, case.tensors)
        race = Race(plans, SIZE, SIZE)
        image = np.random.default_rng(0).standard_normal((case.spec.in_channels, SIZE, SIZE)).astype(np.float32)
        profiles: dict[str, list[float]] = {}
        kinds: dict[str, str] = {}
        request = peers.openvino_model(case, 1, profile=True).create_infer_request() if rival else None
        convolutions = [op.name for op in case.spec.ops if op.kind in CONVOLUTIONS]
        for done in range(rounds + 2):
            counts = done >= 2
            race.run(image, counts)
            if request is not None:
                request.infer([image[None]])
                # in execution order, which is the Spec's; one node a convolution, whatever is fused into it
                nodes = [node for node in request.profiling_info if node.node_type.startswith("Convolution")]
                for name, node in zip(convolutions, nodes, strict=True):
                    kinds[name] = node.exec_type
                    if counts:
                        profiles.setdefault(name, []).append(node.real_time.total_seconds())
    found = []
    for stage, about in zip(plans[0].stages, rows(plans[0], SIZE, SIZE), strict=True):
        taken = {name: summarise(seconds) for name, seconds in race.times[stage.name].items()}
        row: dict[str, Any] = {"network": network, "layer": about.name, "shape": about.shape, "macs": about.macs, "chosen": about.algorithm}
        row["algorithms"] = taken
        if stage.op.name in profiles:
            row["rival"] = summarise(profiles[stage.op.name]) | {"kind": kinds[stage.op.name]}
        found.append(row)
    return found
