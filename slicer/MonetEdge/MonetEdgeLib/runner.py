"""Install monet-edge, ask it what it has, run it on a file: in processes of their own, with the standard library alone.

Knows nothing of 3D Slicer, so that it can be tested without; imports nothing of monet-edge, which is installed later.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

REQUIREMENT = "monet-edge>=0.1,<0.2"  # brings the shipped models, numpy, numba, nibabel and small ones; never PyTorch
PYTHON = (3, 11)  # at least; 3D Slicer brings its own
MASKS = (".seg.nrrd", ".nii.gz")  # the first that is written: it has names and colours inside
_ABOUT = """
import json
from monet_edge.formats import ENDINGS
from monet_edge.registry import shipped
from monet_edge.volume.labels import colours
from monet_edge.weights import load
models = [load(path) for path in shipped().values()]
print(json.dumps({"endings": ENDINGS, "models": [
    {"name": one.name, "modality": one.provenance.stated("modality"), "licence": one.provenance.stated("licence"),
     "binary": one.spec.classes == 1, "threshold": one.preprocess.threshold,
     "labels": [[name, *colour] for name, colour in zip(names, colours(names))]}
    for one in models for names in [one.preprocess.labels]]}))
"""


class RunError(Exception):
    """A program failed; its own words say why."""


@dataclass(frozen=True)
class Model:
    """A model that can be chosen.

    Attributes
    ----------
    name, modality, licence : str
    binary : bool
        Has a threshold.
    threshold : float
        Its own.
    labels : tuple of (str, (float, float, float))
        Name and colour, red, green and blue from 0 to 1, of the labels 1, 2, ...
    """

    name: str
    modality: str
    licence: str
    binary: bool
    threshold: float
    labels: tuple[tuple[str, tuple[float, ...]], ...]


def is_installed() -> bool:
    """Whether monet-edge is there for this Python."""
    importlib.invalidate_caches()  # it may have been installed a moment ago
    return importlib.util.find_spec("monet_edge") is not None


def demand_python(found: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Refuse a 3D Slicer that is too old before pip does, in many words.

    Raises
    ------
    RunError
        Naming both versions.
    """
    if found < PYTHON:
        has, needs = (".".join(map(str, version)) for version in (found, PYTHON))
        raise RunError(f"this 3D Slicer has Python {has}, monet-edge needs {needs} or newer: install a newer 3D Slicer")


def requirements(wheels: str = "") -> list[str]:
    """What `slicer.util.pip_install` is given: from the index, or without network from a folder of downloaded wheels."""
    return ["--no-index", "--find-links", wheels, REQUIREMENT] if wheels else [REQUIREMENT]


def about(python: str) -> tuple[list[Model], str]:
    """The models, and how a mask's name shall end.

    Parameters
    ----------
    python : str
        The program that runs Python, as ``PythonSlicer``.

    Raises
    ------
    RunError
        If monet-edge does not run.
    """
    done = subprocess.run([python, "-c", _ABOUT], capture_output=True, text=True, **_hidden())
    if done.returncode:
        raise RunError(why(done.stderr.splitlines(), done.returncode))
    told = json.loads(done.stdout)
    models = []
    for one in told["models"]:
        labels = tuple((name, tuple(part / 255 for part in parts)) for name, *parts in one.pop("labels"))
        models.append(Model(**one, labels=labels))
    return models, next(ending for ending in MASKS if ending in told["endings"])


def command(python: str, scan: Path, mask: Path, model: str, threshold: float | None = None) -> list[str]:
    """The command that segments one file; ``model`` is a shipped model's name or a .safetensors file."""
    words = [python, "-m", "monet_edge", "segment", str(scan), "--output", str(mask), "--model", model]
    return words if threshold is None else [*words, "--threshold", f"{threshold:g}"]


def why(lines: list[str], code: int) -> str:
    """Why a program failed: its last line that says so."""
    told = [line.partition("monet-edge: ")[2] for line in lines if line.startswith("monet-edge: ") and ": warning: " not in line]
    last = next((line for line in reversed(lines) if line.strip()), f"it ended with status {code}")
    return told[-1] if told else last


def warnings(lines: list[str]) -> list[str]:
    """What monet-edge warned of, without the path before it."""
    return [line.partition(": warning: ")[2] for line in lines if line.startswith("monet-edge: ") and ": warning: " in line]


class Run:
    """A program that runs while the window stays alive: `read` is asked for its lines from time to time.

    Parameters
    ----------
    words : list of str
    """

    def __init__(self, words: list[str]) -> None:
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        self._process = subprocess.Popen(words, env=environment, encoding="utf-8", errors="replace", **streams, **_hidden())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._queue.put(line.rstrip())
        self._queue.put(None)

    def read(self) -> tuple[list[str], bool]:
        """The lines since the last time, and whether it has ended.

        Raises
        ------
        RunError
            If it failed.
        """
        new = []
        while not self._queue.empty():
            line = self._queue.get()
            if line is None:
                code = self._process.wait()
                self.lines += new
                if code:
                    raise RunError(why(self.lines, code))
                return new, True
            new.append(line)
        self.lines += new
        return new, False

    def stop(self) -> None:
        """End it; nothing of its result stays."""
        self._process.terminate()
        self._process.wait()


def _hidden() -> dict[str, int]:
    """No console window on Windows."""
    return {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}
