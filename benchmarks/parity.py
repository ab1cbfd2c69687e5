"""The runtime held to PyTorch on trained weights, layer by layer; the tests do the same on random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from monet_edge.engine import Engine
from monet_edge.spec import Spec
from monet_edge.weights import Weights
from monet_train.network import Network

MOST = 1e-4  # of a value's largest magnitude, and of a probability


def compare(spec: Spec, tensors: Mapping[str, np.ndarray], found: Weights, image: np.ndarray) -> dict[str, Any]:
    """Hold the runtime to PyTorch on trained weights, every value of one slice.

    Parameters
    ----------
    spec : Spec
        As it was trained: BatchNorm is folded on the runtime's side only.
    tensors : mapping of str to array
        Its tensors.
    found : Weights
        The exported ones.
    image : (C, S, S) float32

    Returns
    -------
    dict
        Without and with fusion: how many ``values`` were compared with PyTorch in float64, the ``worst`` difference as a share of
        max(1, the value's largest magnitude) and its ``layer``, and the worst ``probability``; ``passed``: all at most 1e-4.
    """
    network = Network(spec).double().eval()
    network.load_state_dict({name: torch.from_numpy(tensor).double() for name, tensor in tensors.items()})
    with torch.no_grad():
        expected = {name: value[0].numpy() for name, value in network.values(torch.from_numpy(image[None]).double())}
    engine = Engine(found.spec, found.tensors)
    result: dict[str, dict[str, Any]] = {}
    for title, fused in (("without fusion", False), ("with fusion", True)):
        values = engine.values(image, fused)
        errors = {
            name: float(np.abs(value - expected[name]).max() / max(1, np.abs(expected[name]).max())) for name, value in values.items()
        }
        layer = max(errors, key=lambda name: errors[name])
        probability = float(np.abs(values[spec.output] - expected[spec.output]).max())
        result[title] = {"values": len(values), "worst": errors[layer], "layer": layer, "probability": probability}
    passed = all(row[key] <= MOST for row in result.values() for key in ("worst", "probability"))
    return {**result, "passed": passed}
