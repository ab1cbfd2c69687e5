"""NIfTI-1, NIfTI-2 and Analyze 7.5."""

from ..contract import Format, Writer
from . import reader, seal, writer

FORMAT = Format(reader.NAME, reader.ENDINGS, reader.OTHER_ENDINGS, reader.sniff, reader.peek, reader.read, seal.seal)
WRITER = Writer(writer.NAME, writer.ENDINGS, writer.SUFFIX, writer.write)
