"""What a run was trained on: channels, table of labels, every case's key and part, in its cases.json; and whether that is still so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from monet_edge.errors import DatasetError, MonetError
from monet_edge.weights import Weights

from .dataset import Dataset
from .prepare import Prepared, key
from .splits import Split

FILE = "cases.json"


@dataclass(frozen=True)
class Cases:
    """The cases of a run's split, and those of them that train; ``keys`` and ``version`` are those of `prepare.Prepared`."""

    channels: tuple[int, ...]
    labels: tuple[str, ...]
    version: int
    keys: dict[str, str]
    train: tuple[str, ...]


def of_prepared(prepared: Prepared, split: Split) -> Cases:
    """What a run with this split is trained on."""
    keys = {name: prepared.keys[name] for name in sorted({*split["train"], *split["val"]})}
    return Cases(prepared.channels, prepared.labels, prepared.version, keys, tuple(sorted(split["train"])))


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
        channels = tuple(map(int, found["channels"] if "channels" in found else [found["channel"]]))  # those of before had a single one
        return Cases(channels, tuple(found["labels"]), int(found["version"]), dict(found["keys"]), train)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MonetError(f"{run / FILE}: cannot be read ({error}); expected what monet-train fit wrote") from None


def changes(then: Cases | None, now: Cases) -> str:
    """What is another now than it was then, in words; empty where nothing is, or nothing else is known than the channels."""
    channels = then.channels if then else (0,)
    if now.channels != channels:
        return f"it was trained on {in_words(channels)}, not {spelled(now.channels)}"
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


def spelled(channels: Sequence[int]) -> str:
    """Channels as ``--volume`` takes them."""
    return ",".join(map(str, channels))


def in_words(channels: Sequence[int]) -> str:
    """Channels for a sentence."""
    return f"volume{'s' if len(channels) > 1 else ''} {spelled(channels)}"


def check_dataset(run: Path, dataset: Dataset, split: Split) -> None:
    """Hold a data set to what a run was trained on.

    Raises
    ------
    DatasetError
        If it is another one, or has been changed since, or other channels are meant.
    """
    then, names = read(run), sorted({*split["train"], *split["val"]})
    strangers = [name for name in names if name not in dataset.pairs]
    if strangers:
        raise DatasetError(f"{dataset.folder}: there is no case {strangers[0]} among its {len(dataset.pairs)}; is it another data set?")
    keys = {name: key(dataset, name, then.version) for name in names} if then else {}
    what = changes(then, Cases(dataset.channels, dataset.labels, then.version if then else 0, keys, tuple(split["train"])))
    if what:
        raise DatasetError(f"{dataset.folder} is not what {run} was trained on: {what}")


def run_channels(run: Path, channels: tuple[int, ...] | None) -> tuple[int, ...]:
    """The channels that go with a run folder: those it records, which are also the only ones that may be asked for.

    Raises
    ------
    MonetError
        If others are.
    """
    if not (run / "config.json").exists():
        return channels or (0,)
    found = read(run)
    recorded = found.channels if found else (0,)
    if channels not in (None, recorded):
        raise MonetError(f"{run}: it was trained on {in_words(recorded)}, not {spelled(channels or ())}")
    return recorded


def weights_channels(weights: Weights, channels: tuple[int, ...] | None) -> tuple[int, ...]:
    """The channels to measure a model on: those asked for, or else those that its provenance records, or else the first ones.

    Raises
    ------
    MonetError
        If they are more, or fewer, than the model takes.
    """
    images = weights.preprocess.images
    training = weights.provenance.get("training")
    told = training if isinstance(training, Mapping) else {}
    recorded = told.get("channels", [told.get("channel")])
    if not isinstance(recorded, list) or len(recorded) != images or not all(type(channel) is int and channel >= 0 for channel in recorded):
        recorded = [*range(images)]
    chosen = tuple(recorded) if channels is None else channels
    if len(chosen) != images:
        one = f"{images} image{'s' if images > 1 else ''} of a case"
        raise MonetError(f"{weights.name} takes {one}, in this order, and --volume {spelled(chosen)} chooses {len(chosen)}")
    return chosen
