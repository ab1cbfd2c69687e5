"""The command ``monet-edge``, also as ``python -m monet_edge``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends without a traceback, too."""
    try:
        from .terminal import steady_streams

        steady_streams()
        from .cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        import gc

        gc.freeze()  # the process ends: to look for circles in all that was imported would take 25 ms


if __name__ == "__main__":
    main()
