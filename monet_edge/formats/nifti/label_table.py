"""The table of labels that travels inside a mask: the XML that Caret and Connectome Workbench keep in a NIfTI header extension."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape  # of xml.sax the import takes 13 ms

from ...text import printable
from ...volume.labels import colours

CARET = 30  # the extension code registered for it


def extension(names: Sequence[str]) -> bytes:
    """What the NIfTI header extension holds: the names and colours of the labels 1, 2, ..."""
    rows = ['<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0">background</Label>']
    for label, (name, colour) in enumerate(zip(names, colours(names), strict=True), 1):
        red, green, blue = (f"{part / 255:.3f}" for part in colour)
        rows.append(
            f'<Label Key="{label}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1">{escape(printable(name), quote=False)}</Label>'
        )
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<CaretExtension><VolumeInformation Index="0"><LabelTable>{"".join(rows)}'
        "</LabelTable><VolumeType>Label</VolumeType></VolumeInformation></CaretExtension>"
    ).encode()
    # Blanks up to the multiple of 16 that NIfTI asks for: after the root element they are still XML, zero bytes are not.
    return xml + b" " * (-(len(xml) + 8) % 16)
