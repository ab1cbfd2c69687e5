"""The command ``monet-edge``, also as ``python -m monet_edge``."""

import io
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends without a traceback, too.

    What the terminal's encoding does not have is printed as an escape, as on stderr: a mask that is written is no failure
    because its name, or an arrow, cannot be shown.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from .cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
