"""Flower messages to and from named arrays, believing nothing: names, shapes, dtypes, sizes and values are checked.

No header of an array that came from outside is parsed: it must be, byte for byte, the one that NumPy writes for the shape and
dtype that belong there. So nothing is allocated for a message but what the network needs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from monet_edge.errors import MonetError

from .compress import Layout, Tensors, decode

MAX_NAME = 64  # characters of a site's name


class MessageError(MonetError):
    """A message is not what it should be; the text holds no name that came with it, so it can be shown to the other side."""


@dataclass(frozen=True)
class Update:
    """What a site sent, checked.

    Attributes
    ----------
    site : str
        Its name, as it calls itself.
    examples : int
        Slices it trained on.
    loss : float
        Mean training loss.
    change : dict of str to float32 array
        Trained minus received, finite.
    norm : float
        L2 norm of all of it.
    """

    site: str
    examples: int
    loss: float
    change: Tensors
    norm: float


def pack(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Arrays as a Flower record."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def unpack(content: RecordDict, expected: Layout) -> Tensors:
    """The tensors of a message's record ``arrays``, decoded to float32.

    Raises
    ------
    MessageError
        If anything but exactly the expected arrays is in it, or a value is not finite.
    """
    record = content.get("arrays")
    if not isinstance(record, ArrayRecord) or len(content.array_records) != 1:
        raise MessageError(f"expected one record of arrays, found {len(content.array_records)}")
    if record.keys() != expected.keys():
        missing = expected.keys() - record.keys()
        raise MessageError(f"its arrays are not the network's: {len(missing)} of {len(expected)} are missing, there are {len(record)}")
    arrays = {}
    for name, (shape, dtype) in expected.items():
        header, data = _header(shape, dtype), record[name].data
        length = len(header) + prod(shape) * np.dtype(dtype).itemsize
        if record[name].stype != "numpy.ndarray" or len(data) != length or not data.startswith(header):
            raise MessageError(f"array {name} is not {dtype[1:]} of shape {shape} ({length} bytes expected, {len(data)} found)")
        arrays[name] = np.frombuffer(data, dtype, offset=len(header)).reshape(shape)
    tensors = decode(arrays)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise MessageError(f"array {name} holds NaN or infinite values")
    return tensors


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def read_update(message: Message, expected: Layout, most_examples: int) -> Update:
    """Check a site's reply.

    Raises
    ------
    MessageError
        Saying why it cannot be used.
    """
    if message.has_error():
        raise MessageError(f"it reports: {_printable(message.error.reason, 200)}")
    content = message.content
    metrics, about = content.get("metrics"), content.get("site")
    if not isinstance(metrics, MetricRecord) or not isinstance(about, ConfigRecord):
        raise MessageError("its records of metrics and site are missing")
    examples, loss, name = metrics.get("num-examples"), metrics.get("loss"), about.get("name")
    if type(examples) is not int or not 0 < examples <= most_examples:
        raise MessageError(f"it claims {examples!r:.40} slices; expected a whole number from 1 to {most_examples}")
    if type(loss) is not float or not math.isfinite(loss):
        raise MessageError(f"its training loss is {loss!r:.40}")
    if type(name) is not str or name != _printable(name, MAX_NAME):
        raise MessageError(f"its name is not text of at most {MAX_NAME} printable characters")
    change = unpack(content, expected)
    norm = math.sqrt(sum(float(np.square(tensor, dtype=np.float64).sum()) for tensor in change.values()))
    return Update(name, examples, loss, change, norm)


def read_scores(message: Message, most: int = 20) -> dict[str, float]:
    """Check a site's reply to an evaluation: finite figures by name, nothing else.

    Raises
    ------
    MessageError
        Saying why it cannot be used.
    """
    if message.has_error():
        raise MessageError(f"it reports: {_printable(message.error.reason, 200)}")
    metrics = message.content.get("metrics")
    if not isinstance(metrics, MetricRecord) or len(metrics) > most:
        raise MessageError("its record of metrics is missing or too long")
    for name, value in metrics.items():
        if name != _printable(name, MAX_NAME) or type(value) not in (int, float) or not math.isfinite(value):
            raise MessageError("a metric is not a finite number")
    return {name: float(value) for name, value in metrics.items()}


def size(message: Message) -> int:
    """Bytes of a message's records, as Flower counts them; an error has none."""
    return sum(record.count_bytes() for record in message.content.values()) if message.has_content() else 0


def _printable(text: str, most: int) -> str:
    return "".join(character for character in text[:most] if character.isprintable())
