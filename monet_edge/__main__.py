"""The command ``monet-edge``, also as ``python -m monet_edge``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends without a traceback, too."""
    import gc
    import os

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's has 3x3 matrices to multiply here, and its threads spin for 0.1 s once they start
    # A thread that reads a scan while others import asks for Python a thousand times, and every time waits so long: of a scan of 80 MB
    # that is 20 ms with 5 ms, which is the default
    sys.setswitchinterval(1e-4)
    gc.disable()  # what is imported stays: to look for circles in it takes 10 ms; see `cli.shared`
    try:
        from .terminal import steady_streams

        steady_streams()
        from .cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # the process ends: to look for circles in all that was imported would take 25 ms


if __name__ == "__main__":
    main()
