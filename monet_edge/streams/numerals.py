"""Numbers as text, the way of packing that needs NumPy: a stream is begun before that is imported."""

from __future__ import annotations

import re

import numpy as np

from ..errors import ScanError
from ..text import printable

_LONGEST = 64  # letters of a number


class Numbers:
    """Numbers as text, between them blanks, line ends or commas, unpacked to the bytes of a dtype."""

    unused_data = b""

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype, self._rest, self._bytes, self._ended = dtype, b"", b"", False

    @property
    def needs_input(self) -> bool:
        """False while it has some."""
        return not (self._bytes or self._ended)

    @property
    def eof(self) -> bool:
        """True at the end of the file."""
        return self._ended and not self._bytes

    def unpack(self, data: bytes, most: int) -> bytes:
        """Up to ``most`` bytes more."""
        if data:
            text = self._rest + data
            words = re.split(rb"[\s,]+", text)
            self._rest = words.pop()  # a number may go on in the next piece
            self._parse(words)
        piece, self._bytes = self._bytes[:most], self._bytes[most:]
        return piece

    def end(self) -> None:
        """The last number is whole."""
        words, self._rest, self._ended = [self._rest], b"", True
        self._parse(words)

    def _parse(self, words: list[bytes]) -> None:
        read = float if self._dtype.kind == "f" else int
        word = self._rest
        try:
            if len(word) > _LONGEST:
                raise ValueError
            numbers = []
            for word in words:
                if b"_" in word or len(word) > _LONGEST:  # Python reads 1_000
                    raise ValueError
                if word:
                    numbers.append(read(word))
            with np.errstate(over="ignore"):
                self._bytes += np.array(numbers, self._dtype).tobytes()
        except OverflowError:
            raise ScanError(f"its voxels hold a number that {self._dtype.name} does not have") from None
        except ValueError:
            found = printable(word[:20].decode("latin-1"))
            raise ScanError(f"its voxels are numbers as text, expected {self._dtype.name}, found {found!r}") from None
