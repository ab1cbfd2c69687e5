"""Where compiled kernels are kept: one file in the user's own cache folder, and only where nobody else could have written it.

The file is machine code that later processes run, so its folder is the user's (mode 0700), never a shared one, and a file that
is damaged in any bit is not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ... import system
from ...about import __version__
from ...errors import OutputError
from ...files import atomic_write

ENGINE = Path(__file__).parents[1]
_MARK = b"monet-edge kernels\n"  # then 32 bytes of SHA-256, then the object file


def locate(family: str, made_by: Iterable[object]) -> Path | None:
    """The file for a family of kernels that ``made_by``, and the engine's sources, decide; None where nothing can be kept."""
    home = folder()
    if home is None:
        return None
    digest = hashlib.sha256(_sources())
    for part in made_by:
        digest.update(repr(part).encode())
    return home / f"{family}-{__version__}-{digest.hexdigest()[:32]}.o"


@cache  # of all families: to read them takes 1.5 ms
def _sources() -> bytes:
    """What tells the engine's sources from others."""
    digest = hashlib.sha256()
    for source in sorted(ENGINE.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


@cache
def release(package: str) -> str:
    """What is installed of a package, "numba-0.68.1.dist-info", as its folder beside it is named: `importlib.metadata` takes 10 ms."""
    found = find_spec(package)
    places = (found and found.submodule_search_locations) or ()
    beside = sorted(entry.name for place in places for entry in Path(place).parent.glob(f"{package}-*"))
    if not beside:  # installed in another way
        from importlib.metadata import version

        return version(package)
    return " ".join(beside)


def folder() -> Path | None:
    """The user's own cache folder; None where there is none or it is not safe."""
    base = system.user_cache()
    if not base or not os.path.isabs(base):  # no home
        return None
    home = Path(base) / "monet-edge"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home if system.is_private(home) else None  # others may write there: never run what it holds
    except OSError:
        return None


def read(file: Path | None) -> bytes | None:
    """The object file's bytes; None where there is none or it is damaged."""
    if file is None:
        return None
    try:
        content = file.read_bytes()
    except OSError:
        return None
    mark, digest, code = content[: len(_MARK)], content[len(_MARK) : len(_MARK) + 32], content[len(_MARK) + 32 :]
    return code if mark == _MARK and hashlib.sha256(code).digest() == digest else None


def write(file: Path | None, code: bytes) -> None:
    """Keep the code, whole or not at all: several processes may compile at the same time. A folder that refuses it is no error."""
    if file is None:
        return
    with suppress(OutputError), atomic_write(file, overwrite=True) as stream:
        system.make_private(stream.fileno())  # nobody else may change what will be run
        stream.write(_MARK + hashlib.sha256(code).digest() + code)
