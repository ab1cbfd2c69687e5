"""Voxels as stored: measured as if they were sorted, made the network's input, and labelled; nothing else touches them all."""

from .kernels import FAMILY
from .slices import assign, fill
from .sorted import Moments, Sorted, count

__all__ = ["FAMILY", "Moments", "Sorted", "assign", "count", "fill"]
