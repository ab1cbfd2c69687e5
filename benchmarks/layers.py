"""Layer by layer, inside a whole slice: the chosen kernel beside what `plan` would take without each of its predicates.

A layer is timed where it runs, with the caches as the layer before it left them; the variants and OpenVINO take turns.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from monet_edge.kernels import _jit
from monet_edge.plan import choose as plan
from monet_edge.plan import program
from monet_edge.spec import Op, Shape, count_macs

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
        A row for every layer of ours: ``layer``, ``shape``, ``macs`` as a direct convolution would take, the ``chosen`` kernel,
        ``kernels``: seconds by kernel, and ``rival``: OpenVINO's seconds for the same convolution and what it runs.
    """
    kernels = _jit.load()
    with tempfile.TemporaryDirectory() as folder:
        case = peers.random_case(network, Path(folder))
        variants = _variants(case, kernels)
        chosen = variants[0]
        image = np.random.default_rng(0).standard_normal((case.spec.in_channels, SIZE, SIZE)).astype(np.float32)
        times: dict[str, dict[str, list[float]]] = {}  # by stage and kernel
        profiles: dict[str, list[float]] = {}
        kinds: dict[str, str] = {}
        request = peers.openvino_model(case, 1, profile=True).create_infer_request() if rival else None
        convolutions = [op.name for op in case.spec.ops if op.kind in ("conv", "deconv")]
        for done in range(rounds + 2):
            counts = done >= 2
            for made in variants:
                made.image[...] = image
                for index, (stage, kernel) in enumerate(_stages(made, kernels)):
                    start = time.perf_counter()
                    kernels.run(made.steps[0].ctypes.data, index, index + 1)
                    seconds = time.perf_counter() - start
                    if counts:
                        times.setdefault(stage, {}).setdefault(kernel, []).append(seconds)
            if request is not None:
                request.infer([image[None]])
                # in execution order, which is the Spec's; one node a convolution, whatever is fused into it
                nodes = [node for node in request.profiling_info if node.node_type.startswith("Convolution")]
                for name, node in zip(convolutions, nodes, strict=True):
                    kinds[name] = node.exec_type
                    if counts:
                        profiles.setdefault(name, []).append(node.real_time.total_seconds())
    macs = count_macs(case.spec, SIZE, SIZE)
    layers = {layer.name: layer for layer in chosen.plan.layers}
    rows = []
    for stage, kernel in _stages(chosen, kernels):
        taken = {name: summarise(found) for name, found in times[stage].items()}
        row: dict[str, Any] = {"network": network, "layer": stage, "shape": "", "macs": 0, "chosen": kernel, "kernels": taken}
        if stage in layers:
            op = layers[stage].op
            row |= {"shape": _shape(op, chosen.shapes, layers[stage].inputs), "macs": macs.get(op.name, 0)}
            if op.name in profiles:
                row["rival"] = summarise(profiles[op.name]) | {"kind": kinds[op.name]}
        rows.append(row)
    return rows


def _variants(case: peers.Case, kernels: _jit.Kernels) -> list[program.Program]:
    """The network as planned, then without each of the plan's predicates (``suits_...``), then without any."""
    predicates = [name for name in vars(plan) if name.startswith("suits_")]
    programs = []
    for off in ([], *([name] for name in predicates), predicates):
        with ExitStack() as stack:
            for predicate in off:
                stack.enter_context(mock.patch.object(plan, predicate, return_value=False))
            programs.append(program.Program(plan.Plan(case.spec, case.tensors, kernels.isa), kernels.addresses, SIZE, SIZE))
    return programs


def _stages(made: program.Program, kernels: _jit.Kernels) -> list[tuple[str, str]]:
    """What each stage makes, and by which kernel."""
    kernel = {address: name for name, address in kernels.addresses.items()}
    found = [kernel[int(step["kernel"])] for step in made.steps[0]]
    names = ["way in"] * (found[0] == "from_planes") + [layer.name for layer in made.plan.layers]
    return list(zip(names + ["way out"] * (len(found) - len(names)), found, strict=True))


def _shape(op: Op, shapes: dict[str, Shape], inputs: tuple[str, ...]) -> str:
    """``16+16x256x256 to 16x256x256, 3x3``, with stride and dilation where they are not 1."""
    _, height, width = shapes[inputs[0]]
    text = f"{'+'.join(str(shapes[value][0]) for value in inputs)}x{height}x{width} to {'x'.join(map(str, shapes[op.name]))}"
    if "kernel" in op.attrs:
        text += f", {op.kind} {op['kernel']}x{op['kernel']}"
    return text + "".join(f" {key} {op[key]}" for key in ("stride", "dilation") if op.attrs.get(key, 1) != 1)
