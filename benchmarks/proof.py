"""That a restricted run is one: disassembles the very object file that ran."""

from __future__ import annotations

from typing import Any

from monet_edge.engine import FAMILIES, compile_all
from monet_edge.engine.codegen import jit

from .machine import foreign_instructions


def measure(threads: int, held_to: str) -> dict[str, Any]:
    """Compile our kernels for this process's target and count the instructions that ``held_to`` (a key of `machine.ISAS`) does not have.

    Raises
    ------
    RuntimeError
        If there are any: the figures of such a run would be worth nothing.
    """
    compile_all()  # initialises LLVM
    target = jit.target()
    found = foreign_instructions(held_to, jit.compile_object(tuple(kernel for kernels in FAMILIES.values() for kernel in kernels), target))
    if found["foreign"]:
        raise RuntimeError(f"{found['foreign']} instructions of our kernels for {target.cpu} are foreign to {held_to}")
    return {"isa": held_to, "cpu": target.cpu, **found}
