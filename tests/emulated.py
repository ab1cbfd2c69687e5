"""What `emulate` runs on a CPU that is not here: every case on the kernels, compared with the references that came along.

Imports no more than an emulated system has: Python, NumPy, Numba and this checkout.
"""

import platform
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import naive

from monet_edge import spec
from monet_edge.engine import Engine, compile_all, plan, voxels
from monet_edge.engine.codegen import jit
from monet_edge.engine.voxels.stored import FORMS

TOLERANCE = 1e-4
plan.WEIGHTS = 0  # so that small cases, too, have stages that two slices go through together


def check(cases: Path) -> bool:
    """Every case of a folder, fused and not, three slices of it, on one thread and two; whether all values agree."""
    start = time.monotonic()
    compile_all()
    isa = jit.target().isa.name
    print(f"kernels for {isa} compiled in {time.monotonic() - start:.0f} s on {platform.machine()}", flush=True)
    passed = check_voxels()
    for path in sorted(cases.glob("*.npz")):
        start = time.monotonic()
        stored = np.load(path)
        network = spec.from_json(str(stored["spec"]))
        tensors, values = (
            {key.removeprefix(kind): stored[key] for key in stored.files if key.startswith(kind)} for kind in ("tensor:", "value:")
        )
        errors = {}
        small = len(values) > 1
        for threads in (1, 2) if small else (2,):
            engine = Engine(network, tensors, threads, stored["image"].shape[1:])
            images = np.stack([stored["image"]] * (3 if small else 1))  # reused buffers hide faults that appear in the second run
            for number, result in enumerate(engine.run(images), 1):
                errors[f"slice {number}, {threads} thread(s)"] = _error(result, values[network.output])
        for fused in (False, True) if small else ():
            found = engine.values(stored["image"], fused)
            errors |= {f"{name}, fused={fused}": _error(found[name], values[name]) for name in found}
        worst = max(errors, key=lambda name: (np.isnan(errors[name]), errors[name]))
        good = errors[worst] <= TOLERANCE
        passed &= good
        verdict = f"{'' if good else 'WRONG, '}{errors[worst]:.1e} at most ({worst})"
        print(f"{stored['title']}: {verdict}, {time.monotonic() - start:.0f} s", flush=True)
    return passed


def check_voxels() -> bool:
    """Stored voxels in every form against NumPy, bit for bit."""
    rng, wrong = np.random.default_rng(0), []
    numbers = {"low": 10.0, "high": 90.0, "floor": 5.0, "slope": 0.7, "inter": -3.0}
    for form in FORMS:
        dtype = np.dtype(f"{form.kind}{form.size}").newbyteorder("S" if form.swapped else "=")
        volume = rng.integers(0, 120, (3, 19, 37)).astype(dtype)
        for raw in (volume[1], volume[1, ::-1, ::-1], volume[:, 4]):
            comp = np.empty((16, 20), np.float32)
            voxels.fill(comp[None], raw[None], **numbers)
            ref = naive.network_slice(raw, comp.shape, **numbers)
            probability = np.stack([ref, 1 - ref])
            labels = np.empty((30, 11), np.uint8)
            voxels.assign(labels, probability, 0.5)
            if comp.tobytes() != ref.tobytes() or not np.array_equal(labels, naive.to_mask(probability, 0.5, labels.shape)[1]):
                wrong.append(f"{dtype} as {raw.strides}")
        ranks, found = [0, 700, volume.size - 1], voxels.Sorted(volume)
        moments = found.moments(found.lowest, found.highest)
        agree = np.allclose((moments.mean, moments.variance), (volume.mean(dtype=float), volume.var(dtype=float)), rtol=1e-12)
        if not agree or [found.value(key) for key in found.select(ranks)] != np.sort(volume, axis=None)[ranks].tolist():
            wrong.append(f"{dtype} sorted")
    values = (rng.standard_normal((3, 37)) * 10.0 ** rng.integers(-9, 6, (3, 37))).astype(np.float32)
    sums, ones = np.zeros_like(values), np.ones_like(values)
    voxels.add_halves(sums, values, ones)
    halves = values.copy()
    voxels.divide_halves(halves, ones)
    with np.errstate(over="ignore"):
        if not np.array_equal(sums, values.astype(np.float16)) or not np.array_equal(halves, sums):
            wrong.append("halves")
    print(f"stored voxels: {'WRONG, ' + ', '.join(wrong) if wrong else 'as NumPy, bit for bit'}", flush=True)
    return not wrong


def _error(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, as a share of the largest value where that is above 1."""
    return float(abs(found - reference).max() / max(1.0, abs(reference).max()))


if __name__ == "__main__":
    sys.exit(0 if check(Path(sys.argv[1])) else 1)
