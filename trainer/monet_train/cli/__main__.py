"""The command ``monet-train`` as ``python -m monet_train.cli``, which torchrun needs."""

from . import main

if __name__ == "__main__":
    main()
