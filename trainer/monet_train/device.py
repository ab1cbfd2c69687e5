"""Where a training runs: its device, PyTorch's switches for it, and this machine's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch

from monet_edge.errors import MonetError, ResourceError
from monet_edge.spec import infer_shapes

from .config import Settings, training_spec

_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "start new thread")  # in the words of PyTorch and Python


@contextmanager
def out_of_memory() -> Iterator[None]:
    """What NumPy, PyTorch and the system say when memory runs out, as a ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error).partition("\n")[0]
        # PyTorch has a class of its own for a GPU's memory only
        if not isinstance(error, MemoryError) and not any(words in message.lower() for words in _NO_MEMORY):
            raise
        raise ResourceError(f"the memory ran out while training: {message or 'no more can be had'}") from None


def step_memory(settings: Settings, batch: int, place: torch.device) -> int:
    """Bytes of this machine's memory that a step on so many slices takes at least: none on a GPU."""
    size, spec = settings.preprocess.size, training_spec(settings)
    # a step's values wait for their gradients: the U-Nets keep 0.84 to 0.96 of these bytes, MoNet twice as many
    return 4 * batch * sum(prod(shape) for shape in infer_shapes(spec, size, size).values()) if place.type == "cpu" else 0


def choose_device(name: str = "", rank: int = 0) -> torch.device:
    """The device of a name: cpu, cuda:0, cuda:1, ...; cuda is this process's own GPU, nothing that one or else the CPU.

    Raises
    ------
    MonetError
        If there is no such device.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    # a GPU with its index, without which torch.cuda.set_device refuses it
    meant = f"cuda:{rank}" if name == "cuda" or (not name and gpus) else name or "cpu"
    if meant not in ("cpu", *gpus):
        raise MonetError(f"device {name}: expected one of {', '.join(('cpu', *gpus))}, which PyTorch finds here")
    return torch.device(meant)


def set_up_torch(settings: Settings, place: torch.device) -> None:
    """Torch's global switches for a training."""
    torch.use_deterministic_algorithms(settings.deterministic)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
