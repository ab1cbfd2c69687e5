"""Run the kernels on CPUs that are not here: ARM cortex-a72, x86 Nehalem (SSE4.2) and Haswell (AVX2), under qemu's user-mode emulation.

    python tests/emulate.py                     all three; `--cpu Haswell` one; `--folder F` keeps the ARM system for the next time

Needs Debian (or a container of it) with the package qemu-user-static. For ARM it fetches Debian's arm64 Python and the aarch64
wheels of NumPy and Numba, the versions that run here, into the folder. References are computed here, in float64 by their definitions. The
emulated process compiles the kernels for its CPU, an illegal instruction ends it, and every value must agree to 1e-4. Emulation
proves neither speed nor the order of memory accesses between threads, and knows no AVX-512.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import naive  # noqa: E402
from conftest import random_tensors, tiny_nnunet  # noqa: E402
from defined import uncommon  # noqa: E402

from monet_edge import architectures, spec  # noqa: E402  the checkout's, also where nothing is installed

CPUS = {"cortex-a72": "aarch64", "Nehalem": "x86_64", "Haswell": "x86_64"}
ARM_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
ARM_WHEELS = ("numpy", "numba", "llvmlite")

# name: (training Spec, height, width). Together they reach every kernel; widths leave tails of every tile.
CASES = {
    "monet, one slice": (architectures.monet(), 256, 256),
    "monet of 5 filters": (architectures.monet(filters=5, depth=1), 14, 30),
    "monet of 3 classes": (architectures.monet(in_channels=3, classes=3, filters=16, depth=1), 18, 14),
    "wide monet": (architectures.monet(filters=32, depth=1), 10, 14),
    "u-net": (architectures.unet(16, depth=2), 20, 28),
    "nnU-Net, plain": (tiny_nnunet(residual=False), 20, 30),
    "nnU-Net, of many channels and few pixels": (tiny_nnunet(residual=False, features=[8, 192, 8]), 20, 40),
    "nnU-Net, residual": (tiny_nnunet(residual=True, channels=2), 12, 34),
    "nnU-Net, uncommon": (uncommon(), 16, 36),
    "attention u-net": (architectures.attention_unet(16, depth=2), 12, 20),
}


def prepare(folder: Path) -> None:
    """Write every case with its reference values into ``folder``."""
    for number, (title, (network, height, width)) in enumerate(CASES.items()):
        folded = spec.fold_batchnorm(network)
        tensors = random_tensors(folded, number)
        image = np.random.default_rng(number).standard_normal((folded.in_channels, height, width)).astype(np.float32)
        values = naive.values(folded, tensors, image)
        if height * width > 10_000:  # of a whole slice the probabilities are enough
            values = {folded.output: values[folded.output]}
        arrays = {f"tensor:{name}": tensor for name, tensor in tensors.items()} | {f"value:{name}": value for name, value in values.items()}
        np.savez(folder / f"{number}.npz", title=title, spec=spec.to_json(folded), image=image, **arrays)


def emulate(cpu: str, folder: Path, cases: Path) -> bool:
    """Check all cases on one emulated CPU, printing as it goes; whether all went well."""
    machine = CPUS[cpu]
    emulator = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
    if emulator is None:
        print(f"{cpu}: there is no qemu-{machine}: install the package qemu-user-static")
        return False
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENBLAS", "NUMBA", "PYTHON"))}
    environment |= {"QEMU_CPU": cpu, "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cases / cpu)}
    check = [str(Path(__file__).resolve().with_name("emulated.py")), str(cases)]
    if machine == platform.machine():
        # the interpreter itself, not a virtual environment's link or a shim, so that its libraries are named here
        environment["PYTHONPATH"] = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        command = [emulator, os.path.realpath(sys.executable), *check]
    else:
        system, site = arm_system(folder)
        python = next(path for path in sorted(system.glob("usr/bin/python3.*")) if re.fullmatch(r"python3\.\d+", path.name))
        # Numba would read this machine's /proc/cpuinfo; qemu's -E splits at commas, hence the environment
        environment |= {
            "PYTHONHOME": str(system / "usr"),
            "PYTHONPATH": str(site),
            "NUMBA_CPU_NAME": "generic",
            "NUMBA_CPU_FEATURES": "+neon",
        }
        environment["LD_LIBRARY_PATH"] = str(system / "usr/lib/aarch64-linux-gnu")
        command = [emulator, "-L", str(system), str(python), *check]
    start = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "TCG doesn't support requested feature" not in line:  # six lines a process, of what no kernel asks for
                print(f"{cpu}: {line}", end="", flush=True)
    illegal = process.returncode in (-signal.SIGILL, 128 + signal.SIGILL)  # qemu ends as its program would have
    verdict = "passed" if process.returncode == 0 else "ILLEGAL INSTRUCTION" if illegal else f"FAILED with status {process.returncode}"
    print(f"{cpu}: {verdict} after {time.monotonic() - start:.0f} s", flush=True)
    return process.returncode == 0


def arm_system(folder: Path) -> tuple[Path, Path]:
    """Debian's arm64 Python and the aarch64 wheels, unpacked: a root folder and a site folder; fetched once."""
    system, site = folder / "system", folder / "site"
    if (folder / "complete").exists():
        return system, site
    for name in ("state/lists/partial", "cache/archives/partial", "wheels", "system/usr", "site"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # nothing is installed there
    settings = {"APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": folder / "state", "Dir::Cache": folder / "cache",
                "Dir::State::status": folder / "status", "Debug::NoLocking": "1"}  # fmt: skip
    apt = ["apt-get", "-qq", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    _run([*apt, "update"])
    _run([*apt, "--download-only", "--yes", "--no-install-recommends", "install", *ARM_PACKAGES])
    for name in ("bin", "sbin", "lib", "lib64"):  # Debian's merged /usr; dpkg-deb would make folders of them
        (system / "usr" / name).mkdir(exist_ok=True)
        if not (system / name).is_symlink():
            (system / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        _run(["tar", "--extract", "--keep-directory-symlink", f"--directory={system}"], stdin=unpacked.stdout)
    release = next(path.name.removeprefix("python") for path in system.glob("usr/lib/python3.*"))
    platforms = [f"--platform={tag}_aarch64" for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")]
    wheels = [f"{name}=={version(name)}" for name in ARM_WHEELS]
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps", *platforms, f"--python-version={release}",
          f"--dest={folder / 'wheels'}", *wheels])  # fmt: skip
    for wheel in (folder / "wheels").glob("*.whl"):
        shutil.unpack_archive(wheel, site, "zip")
    (folder / "complete").touch()
    return system, site


def _run(command: list[str], **options: object) -> None:
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


def main(
    cpu: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CPUS)}. Default: all.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the ARM system is kept. Default: a temporary folder.")] = None,
) -> None:
    """Check the kernels on emulated CPUs; exit status 1 if any value is wrong."""
    chosen = cpu or list(CPUS)
    if not set(chosen) <= CPUS.keys():
        raise typer.BadParameter(f"expected some of {', '.join(CPUS)}, found {', '.join(chosen)}", param_hint="--cpu")
    with tempfile.TemporaryDirectory() as name:
        cases = Path(name) / "cases"
        cases.mkdir()
        prepare(cases)
        system = (folder or Path(name) / "arm").resolve()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            results = list(pool.map(lambda one: emulate(one, system, cases), chosen))
    if not all(results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
