"""The exceptions of monet-edge: every message says what was expected, what was found and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Self


def kind(found: object) -> str:
    """What something is, for the message that says that another thing was expected: "numpy.ndarray", "list"."""
    return f"{type(found).__module__}.{type(found).__name__}".removeprefix("builtins.")


class MonetError(Exception):
    """Base of everything raised on purpose; the command line prints it as one line and exits with status 2.

    Attributes
    ----------
    fact : str
        What was expected, what was found.
    advice : str
        What to do. An option's name stands in braces, so that whoever shows it can spell it as its reader does: of
        "Choose another {output}." the command line makes "Choose another --output."
    """

    def __init__(self, fact: str = "", advice: str = "") -> None:
        super().__init__(fact, advice)
        self.fact, self.advice = fact, advice

    def __str__(self) -> str:
        return self.text(str)

    def text(self, spell: Callable[[str], str]) -> str:
        """Fact and advice, every option as ``spell`` writes it."""
        advice = re.sub(r"\{(\w+)\}", lambda option: spell(option[1]), self.advice)
        return f"{self.fact.rstrip('.')}. {advice}" if advice else self.fact

    def about(self, subject: object) -> Self:
        """The same error, its fact beginning with what it is about, such as a path."""
        return type(self)(f"{subject}: {self.fact}", self.advice)


class ScanError(MonetError):
    """A scan cannot be read, or cannot be trusted: truncated, corrupt, of an unsupported kind."""


class OutputError(MonetError):
    """A result cannot be written: it exists, it is the input itself, the disk is full."""


class ModelError(MonetError):
    """A model is unknown, or its weights file is corrupt or not what its Spec says."""


class SpecError(ModelError):
    """A network description is not valid: unknown kind or key, missing input, shapes that do not fit."""


class DatasetError(MonetError):
    """A training data set is incomplete or inconsistent."""


class KilledError(MonetError):
    """Every process that worked at a scan was killed: for lack of memory, or by a fault in a library."""


class ResourceError(MonetError):
    """The work would need more memory than this process may use."""
