"""Weights of a large network are in memory while their layer runs; results are those of weights in ordinary memory."""

import errno
import mmap
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_tensors

from monet_edge.architectures import unet
from monet_edge.engine import Engine, paging
from monet_edge.spec import fold_batchnorm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory in use is read from /proc")
SPEC = fold_batchnorm(unet(4))
TENSORS = random_tensors(SPEC)
IMAGES = np.random.default_rng(0).standard_normal((3, SPEC.in_channels, 32, 32)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where weights go; those of a small network, too."""
    monkeypatch.setattr(paging, "cache", SimpleNamespace(folder=lambda: tmp_path))  # compiled kernels stay where they are
    monkeypatch.setattr(paging, "LARGE", 0)
    monkeypatch.setattr(paging, "LAYER", 4096)
    return tmp_path


def _mapped(engine):
    return [value for packed in engine._plan.packed.values() for value in packed.fields.values() if isinstance(value, paging.Mapped)]


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_the_same_and_no_file_is_left(folder, threads, monkeypatch):
    given = []
    monkeypatch.setattr(paging.Mapped, "give_back", lambda self: (given.append(id(self)), self.pages.madvise(mmap.MADV_DONTNEED)))
    engine = Engine(SPEC, TENSORS, threads, (32, 32))
    found = engine.run(IMAGES)
    assert _mapped(engine)
    assert set(given) == set(map(id, _mapped(engine)))
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(paging, "LARGE", 1 << 40)
    ordinary = Engine(SPEC, TENSORS, threads, (32, 32))
    assert not _mapped(ordinary)
    np.testing.assert_array_equal(found, ordinary.run(IMAGES))


def test_on_a_full_disk_weights_stay_in_memory(folder, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    engine = Engine(SPEC, TENSORS, 1, (32, 32))
    assert not _mapped(engine)
    assert np.isfinite(engine.run(IMAGES)).all()


def test_pages_leave_memory(folder):
    def resident():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssFile"))

    found = paging.on_disk({"weights": np.ones(64 << 18, np.float32)})["weights"]
    before = resident()
    assert found.sum() == 64 << 18
    assert resident() > before + 50_000
    found.give_back()
    assert resident() < before + 10_000
