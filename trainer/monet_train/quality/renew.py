"""A weights file and its card with a calibration made anew; network, preprocessing and all else stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monet_edge.errors import ModelError
from monet_edge.files import write_together
from monet_edge.weights import Weights, load, pack, parse

from ..card import renewed
from .calibration import FEWEST, Pair, tell


def renew(
    path: Path, validation: Sequence[Pair], elsewhere: Mapping[str, Sequence[Pair]], anatomy: Mapping[str, Sequence[float]] | None = None
) -> Weights:
    """Write a calibration into a weights file, and what it is worth into the card beside it, if there is one: both or none.

    Parameters
    ----------
    path : Path
        The .safetensors file.
    validation, elsewhere
        As for `calibration.tell`.
    anatomy : mapping of str to two numbers, optional
        Of a model of label maps, see `maps.LabelMaps.sizes`.

    Returns
    -------
    Weights
        As loaded again: of another sha256 than before.

    Raises
    ------
    ModelError
        If the file is not intact, or no label was found in scans enough.
    """
    before = load(path)
    found = tell(validation, elsewhere) | ({} if anatomy is None else {"anatomy": anatomy})
    if not found["quality_measured"]:
        raise ModelError(f"{path}: too few scans to calibrate on: no label was found in {FEWEST + 1}")
    provenance = {key: value for key, value in before.provenance.items() if key not in ("quality", *found)} | found
    raw = pack(before.name, before.spec, before.tensors, before.preprocess, provenance, before.fingerprint)
    files, card = {path: raw}, path.with_suffix(".md")
    if card.is_file():
        files[card] = renewed(card.read_text("utf-8"), before, parse(before.name, raw)).encode()
    write_together(files)
    return load(path)
