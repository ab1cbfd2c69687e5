"""Names and colours of labels: the same colours in every picture, and the table that travels inside a mask.

The table is the XML that Caret and Connectome Workbench keep in a NIfTI header extension (code 30, "caret").
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from nibabel.nifti1 import Nifti1Extension

from ..text import printable

CARET = 30  # the extension code registered for it
# Apart from each other also for colour-blind eyes, and none of them grey: they are drawn over a grey scan.
COLOURS = (
    *((255, 94, 58), (64, 196, 255), (255, 214, 64), (80, 220, 140)),
    *((214, 130, 255), (255, 150, 200), (170, 230, 90), (255, 160, 40)),
)


def colour(label: int) -> tuple[int, int, int]:
    """Red, green, blue (0 to 255) of a label, counted from 1; after eight they repeat."""
    return COLOURS[(label - 1) % len(COLOURS)]


def extension(names: Sequence[str]) -> Nifti1Extension:
    """The NIfTI header extension that holds the names and colours of the labels 1, 2, ..."""
    rows = ['<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0">background</Label>']
    for label, name in enumerate(names, 1):
        red, green, blue = (f"{part / 255:.3f}" for part in colour(label))
        rows.append(f'<Label Key="{label}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1">{escape(printable(name))}</Label>')
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<CaretExtension><VolumeInformation Index="0"><LabelTable>{"".join(rows)}'
        "</LabelTable><VolumeType>Label</VolumeType></VolumeInformation></CaretExtension>"
    ).encode()
    # Blanks up to the multiple of 16 that NIfTI asks for: after the root element they are still XML, zero bytes are not.
    return Nifti1Extension(CARET, xml + b" " * (-(len(xml) + 8) % 16))
