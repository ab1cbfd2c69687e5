"""README.md: the template with a table in every place that has results."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from . import machine, tables
from .targets import targets

ARCHIVE = ("restart", "empty", "smalls", "pair", "kills", "poison", "driver", "share")  # each recorded apart, so that one can be repeated
TITLES = {
    "native": "Every instruction this CPU has",
    "avx512": "Both sides held to AVX-512, without AMX",
    "avx2": "Both sides held to AVX2",
    "sse4.2": "Both sides held to SSE4.2",
}


def page(results: dict[str, Any], other: dict[str, Any]) -> str:
    """README.md: the template with a table in every place that has results, of the first machine and the other."""

    def section(part: str, write: Any, title: bool = True, results: dict[str, Any] = results) -> str:
        texts = []
        for isa in machine.ISAS:
            found = results.get(f"{part}-{isa}")
            if found:
                head = f"### {TITLES[isa]}\n\n" if title else ""
                texts.append(f"{head}{write(found['rows'])}\n\n{tables.caption(found['machine'])}")
        return "\n\n".join(texts) or "Not measured yet."

    text = string.Template(Path(__file__).with_name("template.md").read_text()).substitute(
        targets=targets(results, other),
        networks=section("network", tables.networks),
        layers=section("layers", lambda rows: f"{tables.proof(rows['proof'])}\n\n{tables.layers(rows['layers'])}"),
        cores=section("cores", tables.cores),
        other_cores=section("cores", tables.cores, title=False, results=other),
        other_networks=section("network", tables.networks, title=False, results=other),
        startup=section("startup", tables.startup, title=False),
        disk=section("disk", tables.disk),
        nnunet=section("nnunet", tables.nnunet, title=False),
        other_nnunet=section("nnunet", tables.nnunet, title=False, results=other),
        int8=tables.int8(results["int8"]) if "int8" in results else "Not measured yet.",
        resolutions=tables.resolutions(results.get("resolutions")),
        archive=_archive(results),
    )
    return text.rstrip() + "\n"


def _archive(results: dict[str, Any]) -> str:
    """The table of runs over many scans, of the parts that are recorded, each machine beneath once."""
    found = {name: results[f"archive-{name}"] for name in ARCHIVE if f"archive-{name}" in results}
    if not found:
        return "Not measured yet."
    captions = {part["machine"]["cpu"]: tables.caption(part["machine"]) for part in found.values()}
    return "\n\n".join([tables.archive({name: part["rows"] for name, part in found.items()}), *captions.values()])
