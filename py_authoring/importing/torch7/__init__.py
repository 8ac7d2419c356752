"""Torch7 files: reading them, and their `nn` modules as PyTorch."""
