"""Fixtures shared by all tests: tiny networks, synthetic heads to train on, and the real data where it is."""

import importlib.util
import re
import signal
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from records import make_record
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 (hooks)

from monet_edge import weights
from monet_edge.architectures import ARCHITECTURES, monet
from monet_edge.nnunet import plain_conv_unet, residual_encoder_unet
from monet_edge.spec import fold_batchnorm, tensor_shapes
from monet_edge.streams import deflate

# Tests that were started in the background ignore Ctrl-C, and the commands that they start would inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without PyTorch, as users have it, the runtime's tests are the whole suite: see .ci/pythons
TRAINERS = re.compile(r"^(import|from) (torch|monet_train|benchmarks|synthetic|federation)\b", re.MULTILINE)
collect_ignore = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if not importlib.util.find_spec("torch") and TRAINERS.search(path.read_text(encoding="utf-8"))
]


def pytest_report_header():
    """What is left out is said."""
    return (
        f"without PyTorch {len(collect_ignore)} files of tests are not collected: {', '.join(sorted(collect_ignore))}"
        if collect_ignore
        else None
    )


DATA = Path(__file__).parents[2] / "shared" / "data"
GENUINE = DATA.parent / "nnunet" / "hippocampus"  # a model that nnU-Net itself trained, and what it makes of a case
needs_data, needs_genuine = (
    pytest.mark.skipif(not folder.is_dir(), reason="the real scans are not on this machine") for folder in (DATA, GENUINE)
)
needs_cache = pytest.mark.skipif(sys.platform != "linux", reason="the folder of other systems is not set by XDG_CACHE_HOME")


def random_tensors(spec, seed=0):
    """He-sized random weights, biases away from 0, for every tensor of a folded Spec."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        spread = np.sqrt(2 / fan_in) if len(shape) > 1 else 0.3
        tensors[name] = (
            rng.normal(0, spread, shape) + (1 if name.endswith(".scale") or (name.endswith(".weight") and len(shape) == 1) else 0)
        ).astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """A MoNet of 4 filters with random weights, for slices of 32x32."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    spec = fold_batchnorm(monet(filters=4, depth=1))
    record = make_record("blob")
    weights.save(path, spec, random_tensors(spec), record, {"modality": "synthetic", "licence": "Apache-2.0"})
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Three synthetic heads for the trainer: (Dataset, Prepared)."""
    import synthetic  # here: it imports PyTorch, which most tests need not

    from monet_train.dataset import read
    from monet_train.prepare import prepare

    folder = tmp_path_factory.mktemp("small")
    dataset = read(synthetic.write_dataset(folder / "data"))
    return dataset, prepare(dataset, folder / "prepared")


def tiny_nnunet(residual, channels=1, classes=3, features=(8, 20, 20)):
    """One of nnU-Net's networks, with strides and kernels of unlike sides: rows must divide by 4, columns by 2."""
    shared = {"features_per_stage": features, "kernel_sizes": [3, [3, 3], [1, 3]], "strides": [1, [2, 2], [2, 1]]}
    if residual:
        return residual_encoder_unet(channels, classes, **shared, n_blocks_per_stage=[1, 2, 1], n_conv_per_stage_decoder=[1, 1])
    return plain_conv_unet(channels, classes, **shared, n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 1])


def tiny_monet(channels=1, classes=1):
    """A MoNet of 4 filters, for training."""
    return monet(channels, classes, filters=4, depth=1)


@pytest.fixture
def tiny(monkeypatch):
    """The name of `tiny_monet` among the architectures."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", tiny_monet)
    return "tiny"


@pytest.fixture
def alike(tiny):
    """Settings of a federated training of the tiny network, for whoever has to answer like a site."""
    import federation

    from monet_train.federated.local import take_identity

    take_identity()
    return federation.make_settings(federation.TWO, tiny)


@pytest.fixture(scope="session")
def sites(tmp_path_factory):
    """Two prepared sites, as their SuperNodes are told of them."""
    import federation

    return federation.make_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(autouse=True)
def the_same_numbers():
    """PyTorch's random numbers do not hang on the tests before, of which another process may have had some."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["isal", "zlib"])
def library(request, monkeypatch):
    """Both libraries that may inflate."""
    found = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib", reason="isal has no wheels for this machine")
    monkeypatch.setattr(deflate, "igzip_lib", None if found is zlib else deflate.igzip_lib)
    monkeypatch.setattr(deflate, "library", found)
    monkeypatch.setattr(deflate, "Error", found.error)
    return found


@pytest.fixture
def put(tmp_path):
    """Write bytes to a file and give its path."""

    def write(raw, name="scan.nii"):
        path = tmp_path / name
        path.write_bytes(raw)
        return path

    return write
