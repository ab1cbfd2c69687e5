"""Where the file of a model lies: the shipped ones, with their cards, by name, any other by its path or its folder."""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

from .about import DEFAULT
from .errors import ModelError
from .files import missing


def shipped() -> dict[str, Path]:
    """The models that come with the package, or as the package ``monet-edge-weights`` beside it, by name; the default one first."""
    here = Path(__file__).parent
    beside = find_spec("monet_edge_weights")  # looked for, not imported: it holds files only
    folders = [here / "shipped", *map(Path, beside.submodule_search_locations or () if beside else ()), here.parent / "weights"]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    found = {path.stem: path for path in folder.glob("*.safetensors")}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT, name))}


def find(model: str) -> Path:
    """The file of a shipped model's name, of a path, or the only one in a folder, as model hubs keep it.

    Raises
    ------
    ModelError
        If it is none of these.
    """
    models = shipped()
    names = ", ".join(models) or "none: pip install monet-edge-weights"
    if model in models:
        return models[model]
    path = Path(model)
    if model and os.path.isdir(path):
        return _only(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"{model}: no such model. Shipped are {names}; or give the path of a .safetensors file.")
    if not os.path.isfile(path):
        raise ModelError(f"{path}: {missing(path)}. Shipped models are {names}.")
    return path


def card(name: str, sha256: str) -> str:
    """The card of a shipped model; empty for any other file, be it of the same name."""
    path = shipped().get(name)
    if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        return ""
    text = path.with_suffix(".md")
    return text.read_text("utf-8") if text.is_file() else ""


def _only(folder: Path) -> Path:
    try:
        files = sorted(folder.glob("*.safetensors"))
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if len(files) != 1:
        raise ModelError(f"{folder}: expected one .safetensors file in this folder, found {len(files)}; name the file")
    return files[0]
