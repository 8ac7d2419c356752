"""Finds libtorch before the native half needs it: the version that is installed, and where its libraries lie.

torch itself is not imported.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

BUILT_FOR = "2.13.0"
"""The torch whose libtorch the native half is linked against; a test compares it with pyproject.toml."""

_REMEDY = f"hint: `pip install torch=={BUILT_FOR}`"


def prepare(package: Path) -> None:
    """Checks the installed torch and loads its libraries for the native half of `package`.

    Raises:
        ImportError: with one sentence and the remedy. The command `rust-host` prints that and exits, because its user
            asked for no import.
    """
    try:
        check_version()
        load_libraries(package)
    except ImportError as error:
        program = sys.argv[0] if sys.argv else ""  # "-m" until the module to run is found
        if Path(program).name == "rust-host" or (program == "-m" and "rust_host" in sys.orig_argv):
            sys.exit(f"error: {error}")
        raise


def check_version() -> None:
    """Compares the installed torch with the one that the native half was linked against.

    Raises:
        ImportError: if torch is missing or of another version; libtorch's C++ is stable between no two versions.
    """
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        message = f"rust_host needs the libtorch of torch {BUILT_FOR}, but torch is not installed\n{_REMEDY}"
        raise ImportError(message, name="torch") from None
    if installed.partition("+")[0] != BUILT_FOR:
        message = f"rust_host was built for torch {BUILT_FOR}, but torch {installed} is installed\n{_REMEDY}"
        raise ImportError(message, name="torch")


def load_libraries(package: Path) -> None:
    """Loads libtorch by path unless torch lies beside `package`, where the native half finds it by itself.

    That is so for an editable install, or when the two lie in different site folders.
    """
    if (package.parent / "torch" / "lib").is_dir():
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        message = f"rust_host needs the libtorch of torch {BUILT_FOR}, but the package torch cannot be found\n{_REMEDY}"
        raise ImportError(message, name="torch")
    library = Path(spec.origin).parent / "lib" / "libtorch_cpu.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise ImportError(f"`{library}` cannot be loaded: {error}\n{_REMEDY}", name="torch") from None
