"""``python -m monet_edge`` is the command ``monet-edge``."""

from .cli import main

main()
