"""monet-edge: segment a medical scan on a CPU, offline, in seconds. Research use only, not a medical device.

Everything is imported when first used, even of the standard library: `import monet_edge` costs nothing, and the command is at
its first line, where it catches Ctrl-C, as soon as Python itself has started.
"""

TYPE_CHECKING = False  # true for mypy; importing typing's own takes 13 ms
if TYPE_CHECKING:
    from . import errors as errors
    from .about import DEFAULT as DEFAULT
    from .about import DISCLAIMER as DISCLAIMER
    from .about import __version__ as __version__
    from .model import Model, load
    from .pipeline import Outcome, segment

__all__ = ["Model", "Outcome", "errors", "load", "segment"]

_HOMES = {
    **dict.fromkeys(("DEFAULT", "DISCLAIMER", "__version__"), "about"),
    **dict.fromkeys(("Model", "load"), "model"),
    **dict.fromkeys(("Outcome", "segment"), "pipeline"),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module(".errors", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'monet_edge' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
