"""What a run was trained on: channel, table of labels, every case's key and part, in its cases.json; and whether that is still so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monet_edge.errors import DatasetError, MonetError

from .dataset import Dataset
from .prepare import Prepared, key
from .splits import Split

FILE = "cases.json"


@dataclass(frozen=True)
class Cases:
    """The cases of a run's split, and those of them that train; ``keys`` and ``version`` are those of `prepare.Prepared`."""

    channel: int
    labels: tuple[str, ...]
    version: int
    keys: dict[str, str]
    train: tuple[str, ...]


def of_prepared(prepared: Prepared, split: Split) -> Cases:
    """What a run with this split is trained on."""
    keys = {name: prepared.keys[name] for name in sorted({*split["train"], *split["val"]})}
    return Cases(prepared.channel, prepared.labels, prepared.version, keys, tuple(sorted(split["train"])))


def to_json(cases: Cases) -> str:
    """The text of a cases.json."""
    return json.dumps(asdict(cases), indent=1)


def read(run: Path) -> Cases | None:
    """What a run folder records; None where it is of a version that recorded nothing, when only channel 0 was meant.

    Raises
    ------
    MonetError
        If its cases.json is damaged.
    """
    try:
        found = json.loads((run / FILE).read_bytes())
        train = tuple(found.get("train", ()))  # the first runs that recorded anything did not say who trained
        return Cases(int(found["channel"]), tuple(found["labels"]), int(found["version"]), dict(found["keys"]), train)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MonetError(f"{run / FILE}: cannot be read ({error}); expected what monet-train fit wrote") from None


def changes(then: Cases | None, now: Cases) -> str:
    """What is another now than it was then, in words; empty where nothing is, or nothing else is known than the channel."""
    if now.channel != (then.channel if then else 0):
        return f"it was trained on volume {then.channel if then else 0}, not {now.channel}"
    if then is None:
        return ""
    if then.labels != now.labels:
        return f"its labels were {', '.join(then.labels)}, and are {', '.join(now.labels)} now"
    if then.version != now.version:
        return "its cases were prepared by another version of monet-train"
    others = sorted(name for name in {*then.keys, *now.keys} if then.keys.get(name) != now.keys.get(name))
    if others:
        return f"the files of {len(others)} of its cases are others now, such as those of {others[0]}"
    moved = sorted({*then.train} ^ {*now.train} if then.train else ())  # a splits.json that was edited
    return f"its split was another one: {moved[0]} {'trained' if moved[0] in then.train else 'validated'}" if moved else ""


def check_dataset(run: Path, dataset: Dataset, split: Split, channel: int) -> None:
    """Hold a data set to what a run was trained on.

    Raises
    ------
    DatasetError
        If it is another one, or has been changed since, or another channel is meant.
    """
    then, names = read(run), sorted({*split["train"], *split["val"]})
    strangers = [name for name in names if name not in dataset.pairs]
    if strangers:
        raise DatasetError(f"{dataset.folder}: there is no case {strangers[0]} among its {len(dataset.pairs)}; is it another data set?")
    keys = {name: key(dataset, name, channel, then.version) for name in names} if then else {}
    what = changes(then, Cases(channel, dataset.labels, then.version if then else 0, keys, tuple(split["train"])))
    if what:
        raise DatasetError(f"{dataset.folder} is not what {run} was trained on: {what}")


def run_channel(run: Path, channel: int | None) -> int:
    """The channel that goes with a run folder: the one it records, which is also the only one that may be asked for.

    Raises
    ------
    MonetError
        If another one is.
    """
    if not (run / "config.json").exists():
        return channel or 0
    found = read(run)
    recorded = found.channel if found else 0
    if channel not in (None, recorded):
        raise MonetError(f"{run}: it was trained on volume {recorded}, not {channel}")
    return recorded


def weights_channel(provenance: Mapping[str, Any], channel: int | None) -> int:
    """The channel to measure a model on: the one asked for, or else the one that its provenance records, or else 0."""
    training = provenance.get("training")
    recorded = training.get("channel", 0) if isinstance(training, Mapping) else 0
    return channel if channel is not None else recorded if type(recorded) is int and recorded >= 0 else 0
