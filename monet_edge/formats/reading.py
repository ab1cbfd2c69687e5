"""A volume that is read in a thread of its own, while its voxels are looked at by another as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread

import numpy as np

from ..volume import Scan

Watch = Callable[[np.ndarray], None]


class Reading:
    """It begins at once.

    Parameters
    ----------
    read : callable
        ``read(watch)``: the scan; it gives ``watch`` its voxels as they come.
    """

    def __init__(self, read: Callable[[Watch], Scan]) -> None:
        self._pieces: SimpleQueue[np.ndarray | None] = SimpleQueue()
        self._scan: Scan | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, args=(read,), name="reading", daemon=True)
        self._thread.start()

    def pieces(self) -> Iterator[np.ndarray]:
        """Voxels as they come, each once, for the first who asks: all or, where the format hands out none or reading fails, fewer."""
        while (piece := self._pieces.get()) is not None:
            yield piece

    def result(self) -> Scan:
        """Wait for the scan, or raise what reading it failed of."""
        self._thread.join()
        if self._scan is None:
            assert self._error is not None
            raise self._error
        return self._scan

    def _work(self, read: Callable[[Watch], Scan]) -> None:
        try:
            self._scan = read(self._pieces.put)
        except BaseException as error:  # raised where the scan is asked for
            self._error = error
        finally:
            self._pieces.put(None)
