"""Judge what becomes of a hostile file: the right answer, or one clear line; anything else is a failure.

What is right is worked out here from the bytes, by other means than the package's own.
"""

import contextlib
import gzip
import io
import resource
import struct
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from monet_edge import formats, pipeline
from monet_edge import weights as weights_file
from monet_edge.errors import MonetError
from monet_edge.model import Model

from . import mgh, mutate, texts

CODES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
RIGHT, REFUSED = "right answers", "clear errors"


def inflated(raw):
    """The decompressed bytes of a gzip file, whole and verified, or an exception."""
    out = b""
    while raw.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(31)
        out += member.decompress(raw)
        assert member.eof, "accepted, although its gzip stream has no end"
        raw = member.unused_data
    return out


def check_scan(scan, raw, index):
    """What was read of ``raw`` is what its header says is there."""
    data = inflated(raw) if raw.startswith(b"\x1f\x8b") else raw
    first = struct.unpack("<i", data[:4])[0]
    order = "<" if first in (348, 540) else ">"
    if 348 in (first, struct.unpack(">i", data[:4])[0]):
        ndim, *dims = struct.unpack(order + "8h", data[40:56])
        code, (offset, slope, inter) = struct.unpack(order + "h", data[70:72])[0], struct.unpack(order + "3f", data[108:120])
    else:
        ndim, *dims = struct.unpack(order + "8q", data[16:80])
        code, (offset, slope, inter) = struct.unpack(order + "h", data[12:14])[0], struct.unpack(order + "q2d", data[168:192])
    shape = (*dims[:ndim], 1, 1)[:3]
    dtype, count = np.dtype(order + CODES[code]), int(np.prod(shape))
    ref = np.frombuffer(data, dtype, count, int(offset) + (index or 0) * count * dtype.itemsize).reshape(shape, order="F")
    if CODES[code] == "f8":
        ref = np.where(np.abs(ref) > np.finfo(np.float32).max, np.inf, ref)  # no intensity is as large as that
    assert scan.voxels.dtype.newbyteorder("=") == dtype.newbyteorder("=")
    assert scan.shape == shape
    assert scan.voxels.tobytes() == ref.astype(dtype.newbyteorder("=")).tobytes()
    assert (scan.slope, scan.inter) == ((1, 0) if slope == 0 or np.isnan(slope) else (slope, inter))
    assert abs(np.linalg.det(scan.affine)) > 0
    with contextlib.suppress(Exception), np.errstate(all="ignore"):  # where nibabel has an opinion at all
        kind = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}[scan.header.template_dtype.itemsize]
        theirs = kind.from_fileobj(io.BytesIO(data[: int(offset)])).get_best_affine()
        if not any("qform" in warning or "taken as" in warning for warning in scan.warnings):
            assert np.array_equal(scan.affine, theirs), (scan.affine, theirs)


def check_mgh(scan, raw, index):
    """What was read of ``raw`` is what its header says is there."""
    mgh.check_mgh(scan, inflated(raw) if raw.startswith(b"\x1f\x8b") else raw, index)


def scan_judge(name, check):
    """What judges files that are called so; ``check(scan, raw, index)`` compares what was read with what is there."""

    def judge(raw, rng, folder, model):
        """Read it, segment it, and look at the mask."""
        path, mask = folder / name, folder / "mask.nii.gz"
        path.write_bytes(raw)
        (folder / texts.BESIDE).write_bytes(texts.VOXELS)
        index = 0 if rng.random() < 0.5 else None
        try:
            scan = formats.read(path, index)
            check(scan, raw, index)
            pipeline.segment(path, mask, model=model, volume=index, overwrite=True)
            result = nibabel.load(mask)
            assert result.shape == scan.shape
            assert result.get_data_dtype() == np.uint8
            assert set(np.unique(result.dataobj)) <= {0, 1}
            gzip.decompress(mask.read_bytes())
            mask.unlink()
        finally:
            assert path.read_bytes() == raw, "the scan was changed"
            assert (folder / texts.BESIDE).read_bytes() == texts.VOXELS, "the scan's voxels were changed"
            assert {file.name for file in folder.iterdir()} == {path.name, texts.BESIDE}, "something was left behind"

    return judge


def judge_weights(raw, rng, folder, model):
    """Load it and run its network."""
    path = folder / "model.safetensors"
    path.write_bytes(raw)
    loaded = weights_file.load(path)
    ready = Model(loaded, 1)
    channels, size = loaded.spec.in_channels, loaded.preprocess.size
    if ready.engine.workspace_bytes(size, size) < 100e6:
        result = ready.predict(rng.normal(size=(1, channels, size, size)).astype(np.float32))
        assert result.shape == (1, loaded.preprocess.classes, size, size)


def hostile_series(rng):
    """See `series`: imported when it is asked for, with the extra dicom."""
    from . import series

    return series.hostile(rng)


def judge_series(raw, rng, folder, model):
    """Read it, look at every slice, segment it."""
    from . import series

    series.judge(raw, rng, folder, model)


KINDS = {
    "scans": (mutate.hostile_scan, scan_judge("scan.nii.gz", check_scan)),
    "nrrd": (texts.hostile_nrrd, scan_judge("scan.nrrd", texts.check_nrrd)),
    "mha": (texts.hostile_mha, scan_judge("scan.mha", texts.check_mha)),
    "mgh": (mgh.hostile_mgh, scan_judge("scan.mgz", check_mgh)),
    "weights": (mutate.hostile_weights, judge_weights),
    "dicom": (hostile_series, judge_series),
}


@dataclass
class Tally:
    """What became of many files."""

    counts: Counter = field(default_factory=Counter)
    longest: float = 0.0
    largest: int = 0  # bytes above what the process held before the file
    failures: list = field(default_factory=list)

    def __str__(self):
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(self.counts.items()))
        return f"{counts}; {len(self.failures)} anything else; longest {self.longest:.2f} s, largest {self.largest / 1e6:.0f} MB"


def run(kind, seeds, folder, model, report=None):
    """Judge one file a seed.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    seeds : iterable of int
    folder : Path
        For the files; empty.
    model : Model
        For the scans.
    report : callable, optional
        Called with the seed, the file's bytes and the traceback of everything that is neither right nor refused.

    Returns
    -------
    Tally
    """
    make, judge = KINDS[kind]
    tally = Tally()
    for seed in seeds:
        rng = np.random.default_rng([seed, len(kind)])
        raw = make(rng)
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
        before, start = _resident("VmRSS"), time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Python's own warnings are no clear lines
                judge(raw, rng, folder, model)
            tally.counts[RIGHT] += 1
        except MonetError as error:
            line = str(error)
            if line.startswith(str(folder)) and "\n" not in line and line.isprintable():
                tally.counts[REFUSED] += 1
            else:
                _fail(tally, seed, raw, report)
        except Exception:
            _fail(tally, seed, raw, report)
        tally.longest = max(tally.longest, time.perf_counter() - start)
        tally.largest = max(tally.largest, _resident("VmHWM") - before)
        for file in folder.iterdir():
            file.unlink()
    return tally


def _fail(tally, seed, raw, report):
    tally.failures.append((seed, traceback.format_exc()))
    if report:
        report(seed, raw, traceback.format_exc())


def _resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def limit_memory(most):
    """This process's whole address space, so that a bomb cannot hide in memory that is asked for and not touched."""
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
