"""Train, evaluate and export the networks that `monet_edge` runs; needs torch, which is imported by the modules that use it."""
