"""What labels are called in SNOMED CT, so that a viewer or an archive knows a pancreas whatever its label is named.

Codes travel in a weights file's provenance under "codes", by label, and come from there into DICOM segmentations. A code is
[value, coding scheme, meaning]; the scheme of SNOMED CT is "SCT" (DICOM part 16, section 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ModelError

Code = list[str]  # value, scheme, meaning
PARTS = {"category": True, "type": True, "modifier": False, "region": False}  # of a label's record; whether one is demanded
_LONGEST = (16, 16, 64)  # characters that DICOM has room for
_STRUCTURE = ["91723000", "SCT", "Anatomical Structure"]
_ABNORMAL = ["49755003", "SCT", "Morphologically Abnormal Structure"]
_TISSUE = ["85756007", "SCT", "Tissue"]
_HIPPOCAMPUS, _BRAIN = ["5366008", "SCT", "Hippocampus"], ["12738006", "SCT", "Brain"]
KNOWN: dict[str, dict[str, Code]] = {  # of the shipped models' labels
    "tumour": {"category": _ABNORMAL, "type": ["108369006", "SCT", "Neoplasm"], "region": _BRAIN},
    "anterior": {"category": _STRUCTURE, "type": _HIPPOCAMPUS, "modifier": ["255549009", "SCT", "Anterior"]},
    "posterior": {"category": _STRUCTURE, "type": _HIPPOCAMPUS, "modifier": ["255551008", "SCT", "Posterior"]},
    "pancreas": {"category": _STRUCTURE, "type": ["15776009", "SCT", "Pancreas"]},
}
UNKNOWN = {"category": _TISSUE, "type": _TISSUE}  # of a label without a code: its name says what it is


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
    if not isinstance(record, Mapping):
        raise ModelError("codes: expected a JSON object, a label's name with its codes")
    for label, parts in record.items():
        if label not in labels:
            raise ModelError(f"codes: there is no label {label!r:.80}; labels are {', '.join(labels)}")
        demanded = {part for part, needed in PARTS.items() if needed}
        if not isinstance(parts, Mapping) or not demanded <= parts.keys() <= PARTS.keys():
            raise ModelError(f"codes of {label!r}: expected category and type, perhaps modifier and region")
        for part, code in parts.items():
            if not _is_code(code):
                raise ModelError(
                    f"codes of {label!r}: {part} must be [value, scheme, meaning], of at most 16, 16 and 64 printable characters, "
                    f"found {code!r:.120}"
                )
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
