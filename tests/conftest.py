"""Fixtures shared by all tests: a tiny network with random weights, a scan that fits it, and the real data where it is."""

from pathlib import Path

import numpy as np
import pytest

from monet_edge import weights
from monet_edge.architectures import monet
from monet_edge.preprocess import Preprocess
from monet_edge.spec import fold, tensor_shapes

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real scans are not on this machine")


def random_tensors(spec, seed=0):
    """He-sized random weights, biases away from 0, for every tensor of a folded Spec."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        spread = np.sqrt(2 / fan_in) if len(shape) > 1 else 0.3
        tensors[name] = (rng.normal(0, spread, shape) + (1 if name.endswith(".scale") else 0)).astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """A MoNet of 4 filters with random weights, for slices of 32x32."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    spec = fold(monet(filters=4, depth=1))
    record = Preprocess(32, "axial", 0, "zscore", -3.0, 5.0, 0.5, ("blob",))
    weights.save(path, spec, random_tensors(spec), record, {"modality": "synthetic", "licence": "Apache-2.0"})
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(0)
