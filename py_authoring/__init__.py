"""Author and train models with PyTorch-Ignite, export them as files that describe and check themselves.

The version and nothing else: what is imported here is paid for by every `--help`.
"""

__version__ = "0.1.0"
