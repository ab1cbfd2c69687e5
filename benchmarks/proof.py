"""That a restricted run is one: disassembles the very object file that ran."""

from __future__ import annotations

from typing import Any

from monet_edge.kernels import _jit

from .machine import foreign_instructions


def measure(threads: int, held_to: str) -> dict[str, Any]:
    """Compile our kernels for this process's target and count the instructions that ``held_to`` (a key of `machine.ISAS`) does not have.

    Raises
    ------
    RuntimeError
        If there are any: the figures of such a run would be worth nothing.
    """
    _jit.load()  # initialises LLVM
    target = _jit.target()
    everything = tuple(kernel for kernels in _jit.FAMILIES.values() for kernel in kernels)
    found = foreign_instructions(held_to, _jit.compile_object(everything, target))
    if found["foreign"]:
        raise RuntimeError(f"{found['foreign']} instructions of our kernels for {target.cpu} are foreign to {held_to}")
    return {"isa": held_to, "cpu": target.cpu, **found}
