"""pydicom, imported when it is needed; whatever it says of a damaged file becomes a ScanError."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import MonetError, ResourceError, ScanError
from ...text import printable

INSTALL = "DICOM needs the extra of that name, which is not installed: pip install 'monet-edge[dicom]'"


def pydicom() -> Any:
    """The library.

    Raises
    ------
    ScanError
        If it is not installed, with the line that installs it.
    """
    try:
        import pydicom
        import pydicom.config
        import pydicom.pixels
    except ImportError:
        raise ScanError(INSTALL) from None
    return pydicom


@contextmanager
def about(subject: object) -> Iterator[None]:
    """Every error inside names its subject, once."""
    try:
        yield
    except OSError as error:
        raise ScanError(f"{subject}: cannot be read: {error.strerror or error}") from None
    except (ScanError, ResourceError) as error:
        raise (error if str(error).startswith(f"{subject}: ") else error.about(subject)) from None


@contextmanager
def reading(what: str) -> Iterator[Any]:
    """pydicom, for a block that reads untrusted bytes: silent, believing no value, every failure one ScanError.

    pydicom and the decoders have no exception in common, and raise whatever their code runs into: AttributeError, KeyError,
    struct.error, RecursionError, zlib.error among them. What has been refused on purpose goes through.
    """
    library = pydicom()
    try:
        with warnings.catch_warnings(), library.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield library
    except (MonetError, MemoryError, OSError):
        raise
    except Exception as error:
        words = printable(" ".join(str(error).split()))[:160]
        raise ScanError(f"{what}: {words or type(error).__name__}. It is damaged, or no DICOM file.") from None
