"""What a figure was measured on, and how both sides are held to an older instruction set. Standard library only."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "numba", "llvmlite", "torch", "openvino", "nncf", "onnxruntime", "ncnn", "nnunetv2", "flwr")


@dataclass(frozen=True)
class Isa:
    """An instruction set that a run is held to.

    Attributes
    ----------
    numba_cpu, numba_features : str
        For us. The name alone would keep the host's features.
    onednn, aten, mkl : str
        For OpenVINO and PyTorch. ONNX Runtime and ncnn choose by CPUID alone and cannot be restricted.
    foreign : str
        Regular expression of what must not occur in our machine code as objdump writes it.
    """

    numba_cpu: str
    numba_features: str
    onednn: str
    aten: str
    mkl: str
    foreign: str


ISAS = {
    "native": None,
    # no tile
    "avx512": Isa(
        "skylake-avx512", "+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512dq,+avx512bw", "AVX512_CORE", "avx512", "AVX512", r"tmm|tile"
    ),
    # no 512-bit register, no mask register, none of the 16 registers that only AVX-512 can name
    "avx2": Isa("haswell", "+sse4.2,+avx,+avx2,+fma", "AVX2", "avx2", "AVX2", r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])"),
    # no wide register and no VEX-encoded instruction
    "sse4.2": Isa("nehalem", "+sse4.2", "SSE41", "default", "SSE4_2", r"%[yz]mm|\tv[a-z0-9]+ "),
}


def environment(isa: str, threads: int) -> dict[str, str]:
    """The environment of a measuring process: this one's, with the threads and instruction set of every library set.

    Python keeps what it compiles, whatever this process is told: an installed package has its bytecode beside it.
    """
    count = str(threads)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
    limit = ISAS[isa]
    if limit is not None:
        variables |= {
            "NUMBA_CPU_NAME": limit.numba_cpu,
            "NUMBA_CPU_FEATURES": limit.numba_features,
            "ONEDNN_MAX_CPU_ISA": limit.onednn,
            "ATEN_CPU_CAPABILITY": limit.aten,
            "MKL_ENABLE_INSTRUCTIONS": limit.mkl,
        }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | variables


def describe() -> dict[str, Any]:
    """The machine, the versions and the revision, for the head of every table."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # of others, if asked before measuring
        "date": datetime.date.today().isoformat(),
        "revision": _revision(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def foreign_instructions(isa: str, code: bytes) -> dict[str, int]:
    """Disassemble an object file and count what the instruction set does not allow.

    Parameters
    ----------
    isa : str
        A key of ISAS.
    code : bytes
        An object file.

    Returns
    -------
    dict
        ``instructions`` in all, and how many are ``foreign``; also how many name a zmm, ymm and xmm register.
    """
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(code)
        file.flush()
        listing = subprocess.run(["objdump", "-d", file.name], capture_output=True, text=True, check=True).stdout
    lines = [line for line in listing.splitlines() if line.startswith(" ")]
    limit = ISAS[isa]
    counts = {"instructions": len(lines), "foreign": sum(bool(re.search(limit.foreign, line)) for line in lines) if limit else 0}
    return counts | {register: sum(f"%{register}" in line for line in lines) for register in ("zmm", "ymm", "xmm")}


def _cpu() -> str:
    """The processor as it names itself, with its family: virtual machines hide the model's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model|flags)\s*: (.*)$", text, re.MULTILINE))
    flags = found.get("flags", "").split()
    extensions = [
        name
        for flag, name in (
            ("avx2", "AVX2"),
            ("avx512f", "AVX-512"),
            ("avx_vnni", "AVX-VNNI"),
            ("avx512_vnni", "AVX-512 VNNI"),
            ("avx512_bf16", "BF16"),
            ("amx_tile", "AMX"),
        )
        if flag in flags
    ]
    name = re.sub(r"\((R|TM)\)", "", found.get("model name", platform.machine()))
    return f"{name} (family {found.get('cpu family', '?')}, model {found.get('model', '?')}; {', '.join(extensions) or 'no AVX2'})"


def _revision() -> str:
    """The commit, and whether the runtime differs from it: the pages that a run writes do not count.

    A copy without git may say it in a file: ``git rev-parse --short HEAD > REVISION``.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        told = ROOT / "REVISION"
        return told.read_text().strip() if told.exists() else "unknown"
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "monet_edge"], capture_output=True, check=False).returncode
    return f"{commit}{' with changes' if changed else ''}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
