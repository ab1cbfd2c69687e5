"""One process that loads a model and segments a case twice: what `nnunet` launches. Nothing else is imported.

    python -m benchmarks.first_case MODEL SCAN MASK THREADS

Prints the seconds of both, from file to file, and the process's peak memory in bytes.
"""

import json
import sys
import time

import monet_edge

from .first_slice import peak_memory


def segment(model: str, scan: str, mask: str, threads: int) -> None:
    """The second time everything is ready: memory, threads."""
    ready, seconds = monet_edge.load(model, threads), []
    for _ in range(2):
        start = time.perf_counter()
        monet_edge.segment(scan, mask, model=ready, overwrite=True)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "peak": peak_memory()}))


if __name__ == "__main__":
    segment(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
