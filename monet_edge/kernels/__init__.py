"""The hot loops, and what compiles and keeps them; README.md here explains layouts, names and derivations.

Importing this package is cheap. The first call compiles, or loads what an earlier process compiled.
"""

from __future__ import annotations

from collections.abc import Callable


def compile_all(progress: Callable[[int, int, str], None] | None = None) -> None:
    """Compile the kernels for this CPU, unless they are compiled already.

    Parameters
    ----------
    progress : callable, optional
        Called as ``progress(done, total, name)`` while compiling; never when there is nothing to do.
    """
    from ._jit import load

    load(progress=progress)


def is_cached() -> bool:
    """Whether the kernels are compiled for this CPU already, so that nothing will have to be."""
    from ._jit import is_cached

    return is_cached()


def is_kept() -> bool:
    """Whether later processes will find the kernels compiled: False where no cache folder can be written."""
    from ._jit import is_kept

    return is_kept()
