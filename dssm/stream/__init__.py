"""See the module docstrings; the packages' order and walls are in docs/design.md."""
