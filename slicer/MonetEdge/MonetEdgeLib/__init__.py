"""What the module does that needs no 3D Slicer."""
