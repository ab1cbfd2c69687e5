"""What labels are called in SNOMED CT, so that a viewer or an archive knows a pancreas whatever its label is named.

Codes travel in a weights file's provenance under "codes", by label, and come from there into DICOM segmentations. A code is
[value, coding scheme, meaning]; the scheme of SNOMED CT is "SCT" (DICOM part 16, section 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ModelError
from .sides import side

Code = list[str]  # value, scheme, meaning
PARTS = {"category": True, "type": True, "modifier": False, "region": False}  # of a label's record; whether one is demanded
_LONGEST = (16, 16, 64)  # characters that DICOM has room for
_TISSUE = ["85756007", "SCT", "Tissue"]
_SIDES = {"left": ["7771000", "SCT", "Left"], "right": ["24028007", "SCT", "Right"]}
UNKNOWN = {"category": _TISSUE, "type": _TISSUE}  # of a label without a code: its name says what it is


def pick(table: Any, labels: Sequence[str]) -> dict[str, dict[str, Code]]:
    """The codes of a model's labels from a table that may have others, too; of "left X" its own ones, or those of X with the side.

    Raises
    ------
    ModelError
        If the table is none, or a label has no codes in it.
    """
    table = table if isinstance(table, Mapping) else {}
    found = {label: table.get(label) or _sided(label, table) for label in labels}
    missing = [label for label, record in found.items() if record is None]
    if missing:
        raise ModelError(f"codes: there are none for {', '.join(missing)}; expected a JSON object with each of {', '.join(labels)}")
    return check(found, labels)


def _sided(label: str, table: Mapping[str, Any]) -> dict[str, Any] | None:
    """A structure's codes with its side for a modifier; None where there are none, or their modifier says something else already."""
    at, structure = side(label)
    record = table.get(structure)
    return {**record, "modifier": _SIDES[at]} if at and isinstance(record, Mapping) and "modifier" not in record else None


def check(record: Any, labels: Sequence[str]) -> dict[str, dict[str, Code]]:
    """Codes by label, as they were given, or why they are none.

    Parameters
    ----------
    record : Any
        From JSON: for labels, a dict of "category" and "type", perhaps "modifier" and "region", each [value, scheme, meaning].
    labels : sequence of str
        Of the model; each may be left out.

    Raises
    ------
    ModelError
        Saying what is wrong.
    """
    if not isinstance(record, Mapping) or not record.keys() <= {*labels}:
        raise ModelError(f"codes: expected a JSON object, for some of the labels {', '.join(labels)} their codes")
    for label, parts in record.items():
        demanded = {part for part, needed in PARTS.items() if needed}
        if not isinstance(parts, Mapping) or not demanded <= parts.keys() <= PARTS.keys():
            raise ModelError(f"codes of {label!r}: expected category and type, perhaps modifier and region")
        for part, code in parts.items():
            if not _is_code(code):
                expected = "[value, scheme, meaning], of at most 16, 16 and 64 printable characters"
                raise ModelError(f"codes of {label!r}: {part} must be {expected}, found {code!r:.120}")
    return {label: dict(parts) for label, parts in record.items()}


def _is_code(code: Any) -> bool:
    return (
        isinstance(code, list)
        and len(code) == len(_LONGEST)
        and all(
            isinstance(text, str) and 0 < len(text) <= longest and text.isprintable() and "\\" not in text
            for text, longest in zip(code, _LONGEST, strict=True)
        )
    )
