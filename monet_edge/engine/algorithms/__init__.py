"""The ways to run a layer. A new one is a file here and a line in `ALGORITHMS`: the engine's README.md says what it holds."""

from __future__ import annotations

from collections.abc import Collection

from ..codegen.jit import Families, Kernel
from . import concat, convert, direct, elementwise, head1x1, im2col, normalise, pool, product, softmax, winograd, winograd_deep
from .contract import Algorithm, Network, Packed

__all__ = ["ALGORITHMS", "Algorithm", "Network", "Packed", "families"]

ALGORITHMS: tuple[Algorithm, ...] = (  # the first that suits a layer runs it
    direct.ALGORITHM,
    head1x1.ALGORITHM,
    winograd_deep.ALGORITHM,
    winograd.ALGORITHM,
    im2col.ALGORITHM,
    *pool.ALGORITHMS,
    elementwise.ALGORITHM,
    product.ALGORITHM,
    concat.ALGORITHM,
    softmax.ALGORITHM,
    *convert.ALGORITHMS,
    *normalise.ALGORITHMS,
)


def families(names: Collection[str] | None = None) -> Families:
    """All kernels by the object file they are compiled into, or those files that hold an algorithm of ``names``."""
    found: dict[str, tuple[Kernel, ...]] = {}
    for algorithm in ALGORITHMS:
        found[algorithm.family] = (*found.get(algorithm.family, ()), algorithm.kernel)
    return {family: kernels for family, kernels in found.items() if names is None or any(kernel.name in names for kernel in kernels)}
