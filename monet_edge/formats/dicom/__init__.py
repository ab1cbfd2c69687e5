"""DICOM: series of slices and multi-frame files in, segmentations (SEG) out. Of the extra of this name; see `library`."""

from ..contract import Format, Writer
from . import reader, segmentation

FORMAT = Format(reader.NAME, (), reader.OTHER_ENDINGS, reader.sniff, reader.peek, reader.read, segmentation.seal, reader.choose)
BINARY = Writer("dicom-seg", (".dcm",), "_seg.dcm", segmentation.binary, segmentation.check)
LABELMAP = Writer("dicom-labelmap", (".dcm",), "_seg.dcm", segmentation.labelmap, segmentation.check)
