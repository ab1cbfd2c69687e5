"""The command ``monet-edge``, also as ``python -m monet_edge``."""

import sys

# Seconds that a thread in Python keeps others waiting: kernels and inflating need it for an instant only, but several times a slice of
# 2 ms; with Python's own 0.005 a scan is hardly read while modules are imported.
SWITCH = 0.0001


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends without a traceback, too."""
    try:
        from .terminal import steady_streams

        steady_streams()
        sys.setswitchinterval(SWITCH)
        from .cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        import gc

        gc.freeze()  # the process ends: to look for circles in all that was imported would take 25 ms


if __name__ == "__main__":
    main()
