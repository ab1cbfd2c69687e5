"""monet-edge: segment a medical scan on a CPU, offline, in seconds. Research use only, not a medical device.

Everything is imported when first used, even of the standard library: `import monet_edge` costs nothing, and the command is at
its first line, where it catches Ctrl-C, as soon as Python itself has started.
"""

TYPE_CHECKING = False  # true for mypy; importing typing's own takes 13 ms
if TYPE_CHECKING:
    from . import errors as errors
    from .model import Model, load
    from .pipeline import Outcome, segment

__version__ = "0.1.0"
DISCLAIMER = "Research use only, not a medical device."
DEFAULT = "brain-flair"  # the model that is used unless another is named
__all__ = ["Model", "Outcome", "errors", "load", "segment"]

_HOMES = {"Model": "model", "Outcome": "pipeline", "load": "model", "segment": "pipeline"}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module(".errors", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'monet_edge' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
