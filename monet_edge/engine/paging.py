"""Packed weights of a large network, mapped from a file: a layer's are in memory while it runs, and no longer.

nnU-Net's default network has 202 MB of them, 33 of one layer, and each is read once a slice, or once for two. Their file has no name,
lies beside the compiled kernels in the user's own cache folder, and ends with the process, however that ends. What a layer gives back
stays in the system's page cache as long as nobody else needs the memory: to map it again takes 3 ms of all 202 MB, against 170 for two
slices. Where there is no such folder, no room on its disk, or no `madvise` (Windows), weights stay in ordinary memory.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Mapping
from math import prod

import numpy as np

from ..spec import Spec, tensor_shapes
from .codegen import cache

LARGE = 64 << 20  # bytes of a network's weights as its file has them: of all MoNets none is mapped
LAYER = 1 << 20  # bytes of an array that is


class Mapped(np.ndarray):
    """A read-only array whose pages can be given back: they come again, the same, when they are read."""

    pages: mmap.mmap

    def give_back(self) -> None:
        """Let go of the pages; correct, but slower, while another thread reads them."""
        self.pages.madvise(mmap.MADV_DONTNEED)


def pays(spec: Spec) -> bool:
    """Whether a network has so many weights."""
    return 4 * sum(map(prod, tensor_shapes(spec).values())) > LARGE


def on_disk(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of a layer, with large arrays as `Mapped` ones where that can be had."""
    return {name: _mapped(value) if isinstance(value, np.ndarray) and value.nbytes > LAYER else value for name, value in fields.items()}


def _mapped(array: np.ndarray) -> np.ndarray:
    folder = cache.folder()
    if folder is None or not hasattr(mmap, "MADV_DONTNEED"):
        return array
    try:
        # written, not copied into the mapping: on a full disk that is an error here, and not a signal later
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(array.data)
            file.flush()
            pages = mmap.mmap(file.fileno(), array.nbytes, access=mmap.ACCESS_READ)
    except OSError:
        return array
    found = np.frombuffer(pages, array.dtype).reshape(array.shape).view(Mapped)
    found.pages = pages
    return found
