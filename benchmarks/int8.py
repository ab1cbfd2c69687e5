"""The peer that gives up precision for time: OpenVINO in int8, under the instruction sets that CPUs have for it.

The shipped model is quantized after its training by NNCF, calibrated on slices of real scans; masks are compared on slices of
other ones. Each instruction set has a process of its own.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge import formats, model

from . import peers
from .measure import interleave, summarise

SEGMENTER = "brain-flair"
CALIBRATION, COMPARED = 128, 64  # slices
# What is said, the instruction set of `machine.ISAS` for us, and oneDNN's name of the most that OpenVINO may use
LIMITS = (
    ("AVX2", "avx2", "AVX2"),
    ("AVX2 with VNNI", "avx2", "AVX2_VNNI"),
    ("AVX-512 with VNNI", "native", "AVX512_CORE_VNNI"),
    ("AVX-512 and AMX", "native", "AVX512_CORE_AMX"),
)


def measure(threads: int, onednn: str, scans: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Time us, OpenVINO in float32 and in int8, one slice at a time, in turn.

    Parameters
    ----------
    threads : int
    onednn : str
        One of `LIMITS`. It is to be set before OpenVINO is first asked for.
    scans : sequence of str
        Real ones: the first half calibrates, the other half is compared.
    seconds : float
        For all runners together.

    Returns
    -------
    list of dict
        For every runner seconds a slice as `measure.summarise` gives them, ``dice`` of all its masks with ours, and ``error``, the
        largest difference of a probability from ours.
    """
    os.environ["ONEDNN_MAX_CPU_ISA"] = onednn
    half = len(scans) // 2
    with tempfile.TemporaryDirectory() as folder:
        case = replace(peers.shipped_case(SEGMENTER, Path(folder)), slices=slices(scans[half:], COMPARED))
        runs = {
            "monet-edge": peers.ours(case, threads),
            "OpenVINO fp32": peers.openvino(case, threads),
            "OpenVINO int8": quantized(case, threads, slices(scans[:half], CALIBRATION)),
        }
        found = {name: run(case.slices) for name, run in runs.items()}
        times = interleave({name: lambda run=run: run(case.slices[:1]) for name, run in runs.items()}, seconds)  # type: ignore[misc]
    ours, threshold = found["monet-edge"], model.load(SEGMENTER).weights.sliced.threshold
    return [
        {"runner": name, "dice": dice(ours > threshold, found[name] > threshold), "error": float(abs(found[name] - ours).max())}
        | summarise(times[name])
        for name in runs
    ]


def slices(scans: Sequence[str], count: int) -> np.ndarray:
    """So many slices (N, C, H, W) of scans, all of them alike: those with most foreground."""
    ready, each = model.load(SEGMENTER), -(-count // len(scans))
    chosen = []
    for scan in scans:
        seen = ready.slices(formats.read(Path(scan)))
        fullest = np.argsort(np.count_nonzero(seen, axis=(1, 2, 3)))[::-1][:each]
        chosen.append(seen[np.sort(fullest)])
    return np.concatenate(chosen)[:count]


def quantized(case: peers.Case, threads: int, calibration: np.ndarray) -> peers.Run:
    """OpenVINO in int8, quantized by NNCF's defaults for convolutional networks."""
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset(list(calibration), lambda image: image[None])
    core = openvino.Core()
    made = nncf.quantize(core.read_model(peers.onnx_file(case)), data, subset_size=len(calibration))
    request = core.compile_model(made, "CPU", peers.openvino_settings(threads)).create_infer_request()
    return lambda images: np.concatenate([next(iter(request.infer([image[None]]).values())).copy() for image in images])


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Agreement of masks; 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 1.0
