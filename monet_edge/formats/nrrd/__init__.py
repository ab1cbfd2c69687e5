"""NRRD, and 3D Slicer's segmentations in it."""

from .. import textual
from ..contract import Format, Writer
from . import reader, seal, writer

FORMAT = Format(reader.NAME, reader.ENDINGS, reader.OTHER_ENDINGS, reader.sniff, reader.peek, textual.read, seal.seal)
WRITERS = (  # .seg.nrrd before .nrrd, which it ends with, too
    Writer(writer.SEGMENTATION, writer.SEGMENTATION_ENDINGS, writer.SEGMENTATION_SUFFIX, writer.write_segmentation),
    Writer(writer.NAME, writer.ENDINGS, writer.SUFFIX, writer.write),
)
