"""DICOM: series of slices and multi-frame files in, segmentations (SEG) out. Of the extra of this name; see `library`."""

from ..contract import Format
from . import reader

FORMAT = Format(reader.NAME, (), reader.OTHER_ENDINGS, reader.sniff, reader.peek, reader.read, reader.choose)
