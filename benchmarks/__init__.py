"""Measures monet-edge beside its peers and writes what it found: `python -m benchmarks`. Imports monet_edge, trainer and every peer."""
