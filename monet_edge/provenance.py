"""Where a weights file comes from: what it says of itself, by questions instead of keys.

A JSON object as whoever exported the file wrote it: versions, data, licence, metrics, date, git revision, ... Of files by others, or
of before, any part may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from . import anatomy, codes, quality
from .errors import ModelError


class Provenance(dict[str, Any]):
    """What a weights file says of itself."""

    def stated(self, key: str) -> str:
        """What is stated in words, of modality, licence or dice; empty where it is not."""
        return str(self.get(key, ""))

    @property
    def codes(self) -> dict[str, Any]:
        """SNOMED codes of the labels, see `codes.check`."""
        return dict(self.get("codes", {}))

    @property
    def quality(self) -> dict[str, dict[str, float]]:
        """How sure the network is, and how good, by label, see `quality.check`; empty where nothing is said."""
        return dict(self.get("quality", {}))

    @property
    def anatomy(self) -> dict[str, Any]:
        """How large each label is in the label maps that trained it, see `anatomy.check`; empty where nothing is said."""
        return dict(self.get("anatomy", {}))

    @property
    def saw_flips(self) -> bool:
        """Whether training mirrored slices, or made mirrored ones; true where nothing is said."""
        return self._told("training", "settings", "recipe", "augmentation", "flip") != 0 or self.made_mirrors

    @property
    def made_mirrors(self) -> bool:
        """Whether training generated mirror images, sides exchanged."""
        return bool(self._told("generated", "ranges", "mirror"))

    @property
    def merged(self) -> bool:
        """Whether training was told to merge all labels into one; false where nothing is said."""
        return self._told("training", "settings", "merged") is True

    def _told(self, *keys: str) -> Any:
        """What stands there; None where nothing does."""
        found: Any = self
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found


def check(found: Any, labels: Sequence[str]) -> Provenance:
    """A provenance from the JSON of a weights file whose preprocessing record names ``labels``.

    Raises
    ------
    ModelError
        Saying what of it is wrong.
    """
    if not isinstance(found, dict):
        raise ModelError("its provenance must be a JSON object")
    if not json.dumps(found, ensure_ascii=False).isprintable():
        raise ModelError("its provenance holds characters that cannot be printed")
    for key in ("modality", "licence", "dice"):
        if not isinstance(found.get(key, ""), str):
            raise ModelError(f"its provenance's {key} must be text, found {found[key]!r:.80}")
    codes.check(found.get("codes", {}), labels)
    anatomy.check(found.get("anatomy", {}), labels)
    quality.check(found.get("quality", {}), labels)
    return Provenance(found)
