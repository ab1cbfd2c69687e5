"""What `emulate` runs on a CPU that is not here: every case on the kernels, compared with the references that came along.

Imports no more than an emulated system has: Python, NumPy, Numba and this checkout.
"""

import platform
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from monet_edge import spec
from monet_edge.engine import Engine, compile_all
from monet_edge.engine.codegen import jit

TOLERANCE = 1e-4


def check(cases: Path) -> bool:
    """Every case of a folder, fused and not, three times, on one thread and two; whether all values agree."""
    start = time.monotonic()
    compile_all()
    isa = jit.target().isa.name
    print(f"kernels for {isa} compiled in {time.monotonic() - start:.0f} s on {platform.machine()}", flush=True)
    passed = True
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
            engine = Engine(network, tensors, threads)
            for _ in range(3 if small else 1):  # reused buffers hide faults that appear in the second run
                result = engine.run(stored["image"][None])[0]
                errors[f"{threads} thread(s)"] = _error(result, values[network.output])
        for fused in (False, True) if small else ():
            found = engine.values(stored["image"], fused)
            errors |= {f"{name}, fused={fused}": _error(found[name], values[name]) for name in found}
        worst = max(errors, key=lambda name: (np.isnan(errors[name]), errors[name]))
        good = errors[worst] <= TOLERANCE
        passed &= good
        verdict = f"{'' if good else 'WRONG, '}{errors[worst]:.1e} at most ({worst})"
        print(f"{stored['title']}: {verdict}, {time.monotonic() - start:.0f} s", flush=True)
    return passed


def _error(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, as a share of the largest value where that is above 1."""
    return float(abs(found - reference).max() / max(1.0, abs(reference).max()))


if __name__ == "__main__":
    sys.exit(0 if check(Path(sys.argv[1])) else 1)
