"""From a network to what the kernels run: ops fused to layers, a kernel chosen for each, the steps for one size of image."""

from .choose import Plan
from .program import Program

__all__ = ["Plan", "Program"]
