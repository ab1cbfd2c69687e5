"""Where a weights file comes from: one record, checked, for whoever exports one. It claims what happened, and nothing else.

Written by `export`, by a federated training and by the benchmarks' trainings; read as the JSON that it becomes, see
`monet_edge.weights`, so that older files stay as they are. No torch.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monet_edge import DISCLAIMER, __version__
from monet_edge.errors import ModelError
from monet_edge.text import printable

from .config import Settings, effective_settings, training_spec

if TYPE_CHECKING:
    from .dataset import Dataset
    from .prepare import Prepared

MAX_WORDS = 1000  # characters of a text about the data; a federated model's joins those of all sites


@dataclass(frozen=True)
class Source:
    """Data that a model was trained on, in the words of whoever has them; empty where they say nothing."""

    name: str
    reference: str
    licence: str
    modality: str

    def __post_init__(self) -> None:
        for key, text in asdict(self).items():
            if not isinstance(text, str) or len(text) > MAX_WORDS or not text.isprintable():
                raise ModelError(f"the data's {key} must be one line of at most {MAX_WORDS} printable characters, found {text!r:.80}")

    @classmethod
    def of(cls, data: Dataset | Prepared) -> Source:
        """What a data set says of itself."""
        return cls.told(data.name, data.reference, data.licence, data.modality)

    @classmethod
    def told(cls, *texts: str) -> Source:
        """Any texts, made to fit: no line break or special blank in a dataset.json makes a finished training worthless."""
        return cls(*(one_line(text)[:MAX_WORDS] for text in texts))


@dataclass(frozen=True)
class Provenance:
    """What is told of a model beside its network and its preprocessing.

    Attributes
    ----------
    sources : tuple of Source
        At least one.
    settings : Settings
        As asked for; told is what of them had an effect, see `config.effective_settings`.
    epochs : int
    training : mapping of str to JSON value
        What else there is to say of the training: its command, numbers of cases, the federation.
    more : mapping of str to JSON value
        What else there is to say of the file: sites, scores, a note.
    packages : tuple of str
        Those that trained it: their versions are told.
    """

    sources: tuple[Source, ...]
    settings: Settings
    epochs: int
    training: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ("torch",)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ModelError("a model's file must say what data it was trained on")
        if type(self.epochs) is not int or self.epochs < 1:
            raise ModelError(f"a model's file must say for how many epochs it was trained, found {self.epochs!r:.40}")
        taken = {*self.training} & {"epochs", "settings"} | {*self.more} & {*_FIXED}
        if taken:
            raise ModelError(f"{', '.join(sorted(taken))} would be told twice in the model's file")

    def to_record(self) -> dict[str, Any]:
        """As it goes into the file; what the same run gives on another day differs by its date only.

        Raises
        ------
        ModelError
            If a part of it is no JSON.
        """
        settings = effective_settings(self.settings)
        data = {key: joined(asdict(source)[key] for source in self.sources) for key in ("name", "reference", "licence", "modality")}
        modality = data.pop("modality")
        record = {
            "modality": modality,
            "licence": data["licence"],
            "data": data,
            "training": {**self.training, "epochs": self.epochs, "settings": asdict(settings)},
            "batchnorm_epsilon": sorted({op["bn"]["eps"] for op in training_spec(settings).ops if "bn" in op.attrs}),
        }
        return stamp(record, self.more, self.packages)


def stamp(record: Mapping[str, Any], more: Mapping[str, Any] = {}, packages: tuple[str, ...] = ("torch",)) -> dict[str, Any]:
    """A record as it goes into a file, with the versions, the date and the use of the file that is made now.

    Raises
    ------
    ModelError
        If a part of it is no JSON.
    """
    found: dict[str, Any] = _cleaned(
        {
            **record,
            "versions": {"monet-edge": __version__, **{name: metadata.version(name) for name in packages}},
            "date": datetime.now(UTC).date().isoformat(),
            "revision": _revision(),
            "use": DISCLAIMER,
            **more,
        }
    )
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"a model's file cannot tell of its making: {error}") from None
    return found


def one_line(text: str) -> str:
    """Text as one line that can be printed: every blank, be it a line break or U+00A0, is a space."""
    return printable(" ".join(text.split()))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(entry) for key, entry in value.items()}
    return [_cleaned(entry) for entry in value] if isinstance(value, (list, tuple)) else value


_FIXED = ("modality", "licence", "data", "training", "batchnorm_epsilon", "versions", "date", "revision", "use")


def joined(texts: Iterable[str]) -> str:
    """Every different text once; a licence that one of several did not state is not hidden by the others'."""
    different = list(dict.fromkeys(texts))
    return different[0] if len(different) == 1 else "; ".join(text or "not stated" for text in different)


def _revision() -> str:
    """The commit that this runs from, where it runs from a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return ""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
