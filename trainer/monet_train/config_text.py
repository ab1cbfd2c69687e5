"""Settings as text: a change on the command line, a run's config.json, what a server sends to a site; none of it is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from monet_edge import preprocess
from monet_edge.architectures import ARCHITECTURES
from monet_edge.errors import ModelError, MonetError

from .config import STRONG, Augmentation, Settings

R = TypeVar("R")  # a settings dataclass
# What settings were called before, in files that stay as they are: runs' config.json, checkpoints, weights files, records of benchmarks
OLD_NAMES = {
    "rate": "learning_rate",
    "decay": "weight_decay",
    "average": "ema_decay",
    "strip": "skull_strip",
    "strip_depth": "skull_strip_depth",
    "shade": "bias_field",
    "curve": "intensity_curve",
    "alone": "drop_context",
}
MAX_TEXT = 400_000  # characters of a run's settings: about 2000, and 255 labels of 100 characters, each escaped with up to 12


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, or an epoch's metrics, by their names of today. Only this level: within, the old words may mean something else.

    Raises
    ------
    MonetError
        If they are no mapping, or a value has both its names.
    """
    if not isinstance(values, Mapping):
        raise MonetError(f"expected settings by name, found {values!r:.40}")
    twice = [new for old, new in OLD_NAMES.items() if old in values and new in values]
    if twice:
        raise MonetError(f"{', '.join(twice)}: given twice, by the old name too")
    return {OLD_NAMES.get(name, name): value for name, value in values.items()}


def command_of_today(command: str) -> str:
    """A training's command as kept in its weights, with its settings by their names of today, so that it can be typed again."""
    return re.sub(r"(?<=--set )((?:\w+\.)?)(\w+)(?==)", lambda found: found[1] + OLD_NAMES.get(found[2], found[2]), command)


def changed(record: Any, values: Mapping[str, Any]) -> Any:
    """A settings dataclass with some values changed.

    Parameters
    ----------
    record : dataclass
    values : mapping of str to JSON value
        By field, each of the type that the record has there; an integer may stand for a float, a list for a tuple.

    Raises
    ------
    MonetError
        If there is no such field or a value is of another type.
    """
    known = {field.name: getattr(record, field.name) for field in fields(record)}
    typed = {}
    for name, value in values.items():
        if name not in known:
            there_are = f"it is called {OLD_NAMES[name]} now" if OLD_NAMES.get(name) in known else f"there are {', '.join(known)}"
            raise MonetError(f"{name:.40}: no such setting; {there_are}")
        wanted = type(known[name])
        if (type(value), wanted) in ((int, float), (list, tuple)):
            value = wanted(value)
        if type(value) is not wanted:
            raise MonetError(f"{name}: expected a value such as {known[name]!r}, found {value!r:.40}")
        typed[name] = value
    return replace(record, **typed)


def _whole(record: Any, values: Mapping[str, Any]) -> Any:
    missing = {field.name for field in fields(record)} - {*values}
    if missing:
        raise MonetError(f"there is no {', '.join(sorted(missing))}")
    return changed(record, values)


def override(record: R, changes: Sequence[str], prefix: str = "") -> R:
    """A settings dataclass with some values changed.

    Parameters
    ----------
    record : dataclass
    changes : sequence of str
        ``name=value`` each, the value as JSON; ``augmentation.name=value`` where the value belongs to a dataclass within.
    prefix : str
        What every change begins with.

    Raises
    ------
    MonetError
        If there is no such setting or the value is of another kind.
    """
    for change in changes:
        if not change.startswith(prefix):
            raise MonetError(f"--set {change}: expected {prefix}NAME=VALUE")
        path, _, text = change.removeprefix(prefix).partition("=")
        group, _, name = path.rpartition(".")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            within = getattr(record, group, None)
            values = {group: changed(within, {name: value})} if is_dataclass(within) else {path: value}
            record = changed(record, values)
        except MonetError as error:
            raise MonetError(f"--set {change}: {error}") from None
    return record


def to_json(settings: Settings) -> str:
    """One line, always the same for the same settings."""
    return json.dumps(asdict(settings), separators=(",", ":"))


def from_json(text: str) -> Settings:
    """The inverse of `to_json`, of a text that may come from another machine.

    Raises
    ------
    ModelError
        If it does not describe a training of this version.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} characters")
        data = json.loads(text)
        augmentation = _whole(Augmentation(), renamed(data["recipe"]["augmentation"]))
        # written before an epoch could have a length of its own: once over all slices
        recipe = _whole(STRONG, {"epoch_steps": 0, **renamed(data["recipe"]), "augmentation": augmentation})
        record = preprocess.from_json(json.dumps(data["preprocess"]))
        known = Settings(dataset="", net="", preprocess=record, recipe=recipe)
        settings: Settings = _whole(known, {**data, "recipe": recipe, "preprocess": record})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MonetError) as error:
        raise ModelError(f"the settings of the training are not valid: {error}") from None
    if settings.net not in ARCHITECTURES:
        raise ModelError(f"the settings name an unknown network: {settings.net!r:.40}")
    return settings


def read_settings(run: Path) -> Settings:
    """The settings of a run folder, or of a `config.json`.

    Raises
    ------
    ModelError
        Naming the file and what is wrong with it.
    """
    path = run / "config.json" if run.is_dir() else run
    try:
        return from_json(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); expected the config.json that monet-train fit writes") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
