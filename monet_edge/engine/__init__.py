"""From a network to its probabilities: README.md here explains how, and how an algorithm is added.

Compiled kernels are kept: the first process compiles them, later ones load them.
"""

from __future__ import annotations

from collections.abc import Callable

from .algorithms import families
from .codegen import jit
from .engine import Engine
from .voxels import FAMILY

__all__ = ["FAMILIES", "Engine", "compile_all", "is_cached", "is_kept"]

FAMILIES = {**families(), **FAMILY}  # all that is compiled, by object file


def compile_all(progress: Callable[[int, int, str], None] | None = None) -> None:
    """Compile the kernels for this CPU, unless they are compiled already.

    Parameters
    ----------
    progress : callable, optional
        Called as ``progress(done, total, name)`` while compiling; never when there is nothing to do.
    """
    jit.load(FAMILIES, progress)


def is_cached() -> bool:
    """Whether the kernels are compiled for this CPU already, so that nothing will have to be."""
    return jit.is_loaded(FAMILIES) or is_kept()


def is_kept() -> bool:
    """Whether later processes will find the kernels compiled: False where no cache folder can be written."""
    return jit.is_kept(FAMILIES)
