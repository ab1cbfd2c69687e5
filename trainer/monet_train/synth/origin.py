"""What a run's images were generated from: said in its folder, and by the file that it becomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monet_edge.errors import ModelError, OutputError

from ..fold import Folded, fold_run
from ..provenance import Source
from .ranges import Ranges

FILE = "synth.json"  # in the run folder


@dataclass(frozen=True)
class Origin:
    """What a run's images are made of; ``key`` is the hash of its label maps.

    Attributes
    ----------
    data, licence, key : str
        Of the label maps.
    ranges : Ranges
    """

    data: str
    licence: str
    key: str
    ranges: Ranges

    def to_json(self) -> str:
        """The text of a synth.json."""
        return json.dumps(asdict(self), indent=1)


def is_generated(run: Path) -> bool:
    """Whether a run folder is one of generated images."""
    return (run / FILE).exists()


def check(folder: Path, origin: Origin) -> None:
    """Refuse to go on with a run of other label maps or ranges: an OutputError."""
    path = folder / FILE
    # a folder with config.json is one of a run: without, its writing was cut off
    if path.exists() and (folder / "config.json").exists() and path.read_bytes() != origin.to_json().encode():
        raise OutputError(f"{folder} was started with other label maps or ranges (see its {FILE}). Use the same, or another --output.")


def fold(run: Path, command: str = "", others: Sequence[Path] = ()) -> Folded:
    """Fold a finished run of generated images, or the mean of several; nothing is written.

    Its file tells no appearance of training scans: there were none, and any contrast is welcome.

    Raises
    ------
    ModelError
        As `fold.fold_run`, or if a run is none of generated images, or the others are of other label maps.
    """
    origin = _read(run)
    means = [_read(other) for other in others]
    for other, found in zip(others, means, strict=True):
        if found["key"] != origin["key"]:
            raise ModelError(f"{other}: its label maps are not those of {run}. A mean takes runs on the same")
    if means:
        origin["mean_with"] = [found["ranges"] for found in means]
    source = Source.told(origin["data"], "label maps only, images generated", origin["licence"], "MRI, any contrast")
    return fold_run(run, source, {"command": command}, {"generated": origin}, others)


def _read(run: Path) -> dict[str, Any]:
    """As JSON: an older run may have had other ranges than there are now."""
    try:
        origin = json.loads((run / FILE).read_bytes())
        if not all(isinstance(origin[key], str) for key in ("data", "licence", "key")):
            raise ValueError("data, licence and key must be text")
        return dict(origin)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{run}: not a run of monet-train synth, its {FILE} cannot be read ({error})") from None
