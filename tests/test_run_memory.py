"""A run over many scans takes the memory of one: nothing that failed is kept."""

import gc
import json
import os
import resource
import subprocess
import sys
import weakref

import numpy as np
import pytest
from fuzz.build import gz, head, nifti
from typer.testing import CliRunner

from monet_edge.cli import app
from monet_edge.errors import ScanError
from monet_edge.model import Model

LIMIT = 600_000_000  # bytes of address space; the process without a scan takes 400 MB, the damaged volumes together are 800 MB


@pytest.mark.slow
def test_two_hundred_damaged_scans_take_the_memory_of_one(tmp_path, weights_file):
    """The last bytes are missing, so every one of them is read to its end; then comes a good one."""
    folder = tmp_path / "scans"
    folder.mkdir()
    damaged = gz(nifti(np.zeros((128, 128, 128), np.int16)))[:-9]
    (folder / "damaged000.nii.gz").write_bytes(damaged)
    for i in range(1, 200):
        os.link(folder / "damaged000.nii.gz", folder / f"damaged{i:03d}.nii.gz")
    (folder / "good.nii.gz").write_bytes(gz(nifti(head((128, 128, 128)))))

    def peak(scans, out):
        record = tmp_path / f"{out}.json"
        command = [sys.executable, "-m", "monet_edge", "segment", scans, "-o", tmp_path / out, "-m", weights_file, "--threads", "1"]
        done = subprocess.run(
            [*map(str, command), "--run-record", str(record)],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert [path.name for path in (tmp_path / out).iterdir()] == ["good_seg.nii.gz"], done.stderr[-500:]
        return done.returncode, json.loads(record.read_text())["peak_memory_mb"]

    (_, one), (status, many) = peak(folder / "good.nii.gz", "one"), peak(folder, "many")
    assert status == 1
    assert many < one + 12  # MB; a volume has 4


def test_a_frame_that_holds_its_own_error_holds_no_volume(tmp_path, weights_file, monkeypatch):
    """As the engine's, which raises what a thread hands over: a cycle, which only the collector would free, whenever it comes."""
    (tmp_path / "a.nii").write_bytes(nifti())
    (tmp_path / "b.nii").write_bytes(nifti())
    held = []

    def fail(self, scan, *_, **__):
        held.append(weakref.ref(scan[0].voxels))
        error = ScanError("failed in a thread")
        try:
            raise ValueError
        except ValueError:
            raise error  # noqa: B904

    monkeypatch.setattr(Model, "segment_scan", fail)
    gc.disable()
    try:
        result = CliRunner().invoke(app, ["segment", str(tmp_path), "-m", str(weights_file), "--quiet"])
        freed = [reference() is None for reference in held]
    finally:
        gc.enable()
    assert result.exit_code == 2
    assert freed == [True, True]
