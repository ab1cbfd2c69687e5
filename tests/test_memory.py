"""What a scan will take is known before it is read, and refused if there is less."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import random_tensors
from fuzz.build import gz, head, nifti
from records import make_record

from monet_edge import formats, limits, pipeline, weights
from monet_edge.architectures import monet
from monet_edge.errors import ResourceError
from monet_edge.model import load
from monet_edge.spec import fold_batchnorm

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


@pytest.fixture
def system(tmp_path):
    """A made-up /proc and /sys with 8 GB available; give more files by their path."""

    def build(**files):
        contents = {
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 7000000 kB\nSwapFree: 1000000 kB\n",
            "proc/self/limits": "Limit  Soft Limit  Hard Limit  Units\nMax address space  unlimited  unlimited  bytes\n",
            "proc/self/status": "VmSize: 500000 kB\n",
            **files,
        }
        for name, text in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return limits.available(tmp_path)

    return build


def test_the_machine(system):
    assert system() == 8_000_000 * 1024


def test_address_space(system):
    assert system(**{"proc/self/limits": "Max address space  1000000000  unlimited  bytes\n"}) == 1_000_000_000 - 500_000 * 1024


V2 = {"proc/self/cgroup": "0::/jobs/one\n", "sys/fs/cgroup/jobs/one/memory.max": "max\n", "sys/fs/cgroup/jobs/one/memory.current": "5\n"}


def test_control_groups_version_2_have_the_limit_of_any_parent(system):
    parent = {"sys/fs/cgroup/jobs/memory.max": "3000\n", "sys/fs/cgroup/jobs/memory.current": "2500\n"}
    assert system(**V2, **parent) == 500


def test_cache_that_can_be_dropped_is_not_used_up(system):
    parent = {"sys/fs/cgroup/jobs/memory.max": "3000\n", "sys/fs/cgroup/jobs/memory.current": "2500\n"}
    assert system(**V2, **parent, **{"sys/fs/cgroup/jobs/memory.stat": "anon 9\ninactive_file 1500\nactive_file 500\n"}) == 2500


def test_control_groups_version_2_without_a_limit(system):
    assert system(**V2) == 8_000_000 * 1024


@pytest.mark.parametrize("folder", ["docker/abc/", ""], ids=["on the host", "inside the container"])
def test_control_groups_version_1(system, folder):
    limits = {
        "proc/self/cgroup": "12:cpu:/x\n4:memory:/docker/abc\n",
        f"sys/fs/cgroup/memory/{folder}memory.limit_in_bytes": "4000\n",
        f"sys/fs/cgroup/memory/{folder}memory.usage_in_bytes": "3000\n",
        f"sys/fs/cgroup/memory/{folder}memory.stat": "inactive_file 7\ntotal_inactive_file 60\nactive_file 3\ntotal_active_file 40\n",
    }
    assert system(**limits) == 1100


def test_nothing_is_refused_where_the_system_does_not_say(tmp_path, monkeypatch):
    assert limits.available(tmp_path) is None
    monkeypatch.setattr(limits, "available", lambda: None)
    limits.demand(1 << 60, "everything")


def test_refused_before_the_scan_is_read(tmp_path, weights_file, monkeypatch):
    (tmp_path / "scan.nii").write_bytes(nifti())
    model = load(weights_file, 1)
    monkeypatch.setattr(limits, "available", lambda: 30_000_000)
    monkeypatch.setattr(formats, "read", lambda *_: pytest.fail("was read"))
    expected = r"scan\.nii: segmenting it with 1 thread needs \d+ MB of memory, 30 MB are available"
    for segment in (lambda path: pipeline.segment(path, model=model), model.segment):
        with pytest.raises(ResourceError, match=expected) as caught:
            segment(tmp_path / "scan.nii")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_an_image_in_memory_is_refused_too(weights_file, monkeypatch):
    model = load(weights_file, 1)
    monkeypatch.setattr(limits, "available", lambda: 30_000_000)
    with pytest.raises(ResourceError, match="segmenting the image with 1 thread needs"):
        model.segment(nibabel.Nifti1Image(head(), np.eye(4)))


MEASURE = """
import json, sys, threading
from pathlib import Path
from monet_edge import limits, model, pipeline
from monet_edge.inputs import Inputs
folder, options = Path(sys.argv[1]), json.loads(sys.argv[3])
ready = model.load(sys.argv[2], int(sys.argv[4]))
pipeline.segment(folder / "small.nii", model=ready, overwrite=True)  # whatever is loaded late is loaded now
ready.engine.pool.clear()
def status(name): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
met, begun, load = threading.Barrier(ready.threads), threading.local(), Inputs.load
def together(self, i, image):  # none is through before all have begun: each takes its memory, however busy the machine
    if threading.current_thread() is not threading.main_thread() and not hasattr(begun, "at"):
        begun.at = met.wait(60)
    load(self, i, image)
Inputs.load = together
estimates = []
limits.demand = lambda size, what: estimates.append(size)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
pipeline.segment(folder / "scan.nii", model=ready, overwrite=True, **options)
print(json.dumps([estimates[0], status("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "threads", "options"),
    [
        ((200, 200, 200), np.int16, 2, {}),
        ((200, 200, 200), np.float32, 2, {}),
        ((200, 200, 200), np.uint8, 1, {"probabilities": True}),
        ((1500, 1500, 4), np.int16, 1, {}),
        ((1500, 1500, 4), np.float64, 1, {"threshold": 1e-6}),  # all is labelled
        ((200, 200, 200), np.uint8, 1, {"keep_largest": True}),
    ],
)
def test_the_estimate_holds(tmp_path, weights_file, shape, dtype, threads, options):
    """Never less than what is used, and not so much more that scans are refused for nothing."""
    voxels = head(shape, dtype)
    if voxels.dtype.kind == "f":  # of every size, so that all tables of counts are used
        voxels *= np.exp2(np.random.default_rng(0).uniform(-99, 99, shape)).astype(dtype)
        voxels[0] = np.nan
    (tmp_path / "scan.nii").write_bytes(nifti(voxels))
    (tmp_path / "small.nii").write_bytes(nifti())
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(weights_file), json.dumps(options), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    estimate, used = json.loads(done.stdout)
    assert used <= estimate <= 1.6 * used + limits._SLACK


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shape", "millimetres"),
    [
        ((600, 600, 4), {"size": 256, "spacing": 0.5}),  # 900 pixels wide: 49 tiles a slice
        ((300, 300, 20), {"size": 512, "spacing": 1.0}),  # padded
        ((300, 300, 24), {"size": 128, "spacing": 0.7, "context": 8, "thickness": 6.0, "neighbours": "linear"}),  # two slices apart
    ],
)
def test_the_estimate_holds_in_millimetres(tmp_path, shape, millimetres, threads):
    """Voxels of 0.75 x 0.75 x 3 mm. A sum is counted for every thread: seldom is each with another slice."""
    record = make_record("a", "b", **millimetres)
    spec, path = fold_batchnorm(monet(2 * record.context + 1, 3, filters=4, depth=1)), tmp_path / "mm.safetensors"
    weights.save(path, spec, random_tensors(spec), record, {})
    for name, voxels in (("scan.nii", head(shape)), ("small.nii", head())):
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-0.75, -0.75, 3.0, 1.0])), tmp_path / name)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(path), "{}", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    estimate, used = json.loads(done.stdout)
    assert used <= estimate <= 2 * used + limits._SLACK


def test_no_thread_holds_a_slice_of_the_scan_in_another_form():
    """They read the voxels as they are stored: one picture of 17 million pixels does not need 64 of them, nor do 64 such pictures."""
    wanted = {"classes": 1, "workspace": 64 * 30_000_000, "probabilities": False, "cleaning": False}
    one, many = (limits.peak((depth, 4096, 4096), np.dtype(np.uint8), threads=64, **wanted) for depth in (1, 64))
    assert 64 * 30e6 + 32 * 4096**2 < one < 4e9
    assert many - one == 2 * 63 * 4096**2  # volume and mask


def test_counting_intensities_of_more_than_16_bits_takes_megabytes():
    """Thirty, and eight a thread: what `intensities` keeps behind every 16 bits."""
    wanted = {"classes": 1, "workspace": 0, "threads": 2, "probabilities": False, "cleaning": False}
    small, large = (limits.peak((1, 8, 8), np.dtype(kind), **wanted) for kind in ("int16", "int32"))
    assert 45 << 20 < large - small < 47 << 20


def test_a_limit_of_the_shell_is_a_clear_refusal(tmp_path, weights_file):
    """`ulimit -v`: no MemoryError, no traceback, nothing written."""
    (tmp_path / "scan.nii").write_bytes(nifti(data=b"", fields={"dim": [3, 600, 600, 600, 1, 1, 1, 1]}))
    os.truncate(tmp_path / "scan.nii", 352 + 2 * 600**3)  # a hole: takes no disk
    command = [sys.executable, "-m", "monet_edge", "segment", str(tmp_path / "scan.nii"), "-m", str(weights_file), "--threads", "1"]

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (700_000_000, 700_000_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env={**ENVIRONMENT, "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 2, done.stderr
    assert "MB of memory" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_bomb_that_its_size_could_justify_meets_the_memory_limit(tmp_path):
    """Row 5, measured: a file of 2 MB promises 1.6 GB, which gzip could hold, and is read under 1 GB of address space."""
    noise = np.random.default_rng(0).bytes(2_000_000)
    (tmp_path / "bomb.nii.gz").write_bytes(gz(nifti(fields={"dim": [3, 2000, 2000, 200, 1, 1, 1, 1]}, data=noise)))
    code = f"from pathlib import Path; from monet_edge import formats; formats.read(Path({str(tmp_path)!r}) / 'bomb.nii.gz')"

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, env=ENVIRONMENT)
    assert done.stderr.splitlines()[-1].startswith("monet_edge.errors.ResourceError")
    assert "the volume needs 1,600 MB of memory" in done.stderr


@pytest.mark.slow
def test_a_volume_is_held_once_and_little_besides(tmp_path, weights_file):
    """Reading a .nii.gz costs the volume and a few MB; segmenting it the mask and tables of counts; writing a mask costs a slice."""
    code = f"""
import numpy as np
from pathlib import Path
from conftest import random_tensors
from fuzz.build import gz, head, nifti
from records import make_record
from monet_edge import formats, model
def high(): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
path = Path({str(tmp_path)!r}) / "scan.nii.gz"
if not path.exists():
    voxels = head((256, 256, 200), np.float32)
    voxels[0] = np.nan
    path.write_bytes(gz(nifti(voxels)))
    path.with_name("small.nii").write_bytes(nifti(head()))
else:
    ready = model.load({str(weights_file)!r}, 1)
    ready.segment_scan(formats.read(path.with_name("small.nii")))  # whatever is loaded late is loaded now
    ready.engine.pool.clear()
    start = high(); scan = formats.read(path); print(high() - start)
    start = high(); mask = ready.segment_scan(scan).mask; print(high() - start)
    start = high(); formats.write(path.with_name("mask.nii.gz"), mask, scan); print(high() - start)
"""
    for _ in range(2):  # the second process measures: building the file costs memory too
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    read, segment, write = map(int, done.stdout.split())
    volume_bytes = 256 * 256 * 200 * 4
    assert read < volume_bytes + 8e6
    assert segment < volume_bytes / 4 + 30e6  # the mask; counts behind the higher 16 bits of intensities: 13 tables of half a megabyte
    assert write < 4e6
