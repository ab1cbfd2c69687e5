"""The tensors of a weights file, read whenever one is asked for and not kept: packed for the engine they take memory enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError


class Tensors(Mapping[str, np.ndarray]):
    """Float32 arrays by name, as long as their file is the one that was checked.

    Sent to another process, they go as a dict of arrays.

    Parameters
    ----------
    path : Path
    status : os.stat_result
        Of the file that was checked.
    places : mapping of str to (int, shape)
        Where in the file each begins, in bytes.
    """

    def __init__(self, path: Path, status: os.stat_result, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        self._path, self._known, self._places = path.absolute(), _identity(status), places

    def __getitem__(self, name: str) -> np.ndarray:
        """A tensor, read-only.

        Raises
        ------
        ModelError
            If the file is another one by now, or gone.
        """
        offset, shape = self._places[name]
        try:
            with self._path.open("rb") as file:
                same = _identity(os.fstat(file.fileno())) == self._known
                file.seek(offset)
                found = file.read(4 * prod(shape))
        except OSError as error:
            raise ModelError(f"{self._path}: cannot be read again: {error.strerror or error}") from None
        if not same or len(found) != 4 * prod(shape):
            raise ModelError(f"{self._path} was changed since it was loaded. Load it again.")
        return np.frombuffer(found, "<f4").reshape(shape).astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return dict, (dict(self),)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
