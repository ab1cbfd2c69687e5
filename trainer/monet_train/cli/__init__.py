"""The command line `monet-train`: parse, call one library function, print. Torch is imported when a command needs it."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from monet_edge.errors import MonetError
from monet_edge.terminal import flag, make_app, steady_streams
from monet_edge.text import printable

from ..federated.commands import federated, federated_server, federated_site
from ..quality.commands import calibrate
from ..synth.commands import synth
from .data import check, join, prepare
from .measure import evaluate, figures
from .train import fit
from .weights import export, import_nnunet

__all__ = ["app", "main"]

EXTRAS = {
    "torch": "train",
    "scipy": "train",
    "matplotlib": "train",
    "flwr": "federated",
    "onnx": "onnx",
    "onnxruntime": "onnx",
}

OLD_OPTIONS = {"channel": "volume"}  # what options were called before: still understood, no longer shown

app = make_app("Train, evaluate and export networks for monet-edge.")
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command, with the option that every command has."""

    @wraps(function)
    def run(*, debug: bool, **given: Any) -> None:
        try:
            function(**given)
        except Exception:
            if debug:
                traceback.print_exc()
            raise

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption)
    parameters = [*signature.parameters.values(), option]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(context_settings={"token_normalize_func": lambda name: OLD_OPTIONS.get(name, name)})(run)
    return function


for function in (
    check,
    join,
    prepare,
    fit,
    federated,
    federated_server,
    federated_site,
    synth,
    evaluate,
    export,
    calibrate,
    import_nnunet,
    figures,
):
    command(function)


def main() -> None:
    """Entry point of the console script; what a user can mend is one line on stderr and exit status 2."""
    steady_streams()
    try:
        app()
        return
    except MemoryError as error:
        message = f"the memory ran out: {error}"
    except MonetError as error:
        message = error.text(flag)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        message = f"{error.name} is not installed: pip install 'monet-edge[{extra}]'"
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}. Run again with --debug, and report what it shows."
    print(f"monet-train: {printable(' '.join(message.split()))}", file=sys.stderr)  # file names cannot steer the terminal
    sys.exit(2)
