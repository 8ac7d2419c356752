"""What the native half asks Python about torch: its number of threads, and where libtorch lies when a model needs it.

torch itself is not imported.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def own_libraries() -> Path:
    """The folder of the library that is linked to libtorch: beside this package, in which it would be a module."""
    return Path(__file__).parent.with_name("rust_host.libs")


def libraries() -> Path | None:
    """The folder of torch's libraries; None if torch is not installed."""
    try:
        spec = importlib.util.find_spec("torch")
    except ValueError:  # a module that somebody put into sys.modules by hand
        spec = None
    origin = spec.origin if spec else None
    return Path(origin).parent / "lib" if origin else None


def threads(count: int | None = None) -> int | None:
    """The number of threads of the torch that is imported, after setting it to `count` if given; None without."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "set_num_threads"):
        return None
    if count is not None:
        torch.set_num_threads(count)
    return int(torch.get_num_threads())
