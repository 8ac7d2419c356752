"""`models/NAME/trusted.toml`: which packages of machine code may be opened, by the SHA-256 of the whole file.

Export writes an entry for what it made itself; `rust-host` and `py-authoring verify` open nothing else. No torch here.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from py_authoring import atomic
from py_authoring.errors import AuthoringError, WriteError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

TRUSTED_FILE = "trusted.toml"
_HEAD = "# Native code that rust-host may open: one entry a package, by the SHA-256 of the whole file\n"


class InvalidTrustError(AuthoringError, ValueError):
    """A trusted.toml that cannot be read: nothing is trusted by it, and nothing is added."""

    kind = "invalid_input"
    exit_code = 2


def list_of(path: Path) -> Path:
    """Where a package is trusted: beside the versions of its model, or beside a file that lies in no version.

    Example:
        >>> str(list_of(Path("models/mnist/1/model.pt2"))), str(list_of(Path("a/model.pt2")))
        ('models/mnist/trusted.toml', 'a/trusted.toml')
    """
    folder = path.absolute().parent if str(path.parent) in ("", ".") else path.parent
    return (folder.parent if folder.name.isdecimal() else folder) / TRUSTED_FILE


def add(path: Path, data: bytes, created: str) -> Path:
    """Appends an entry for a package that was just made; what the list held stays as it was.

    Returns:
        The list.

    Raises:
        InvalidTrustError: the list is no TOML of this form.
        WriteError: it cannot be written; it is as before.
    """
    file = list_of(path)
    with _locked(file.parent):
        before = _text(file)
        _read(file, before)
        entry = f"""[[package]]
sha256 = "{hashlib.sha256(data).hexdigest()}"
file = "{path.relative_to(file.parent).as_posix()}"
created = "{created}"
"""
        atomic.write_text(file, f"{before.rstrip()}\n\n{entry}" if before.strip() else _HEAD + entry)
    return file


def is_trusted(path: Path, data: bytes) -> bool:
    """Whether these bytes are in the list of their model.

    Raises:
        InvalidTrustError: there is a list, and it cannot be read.
    """
    file = list_of(path)
    digest = hashlib.sha256(data).hexdigest()
    return any(str(entry.get("sha256", "")).lower() == digest for entry in _read(file, _text(file)))


def check(file: Path) -> None:
    """Reads a list, if it is there.

    Raises:
        InvalidTrustError: it cannot be read.
    """
    _read(file, _text(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise InvalidTrustError(f"cannot read `{file}`: {reason}") from error


def _read(file: Path, text: str) -> list[dict[str, Any]]:
    try:
        entries = tomllib.loads(text).get("package", [])
    except tomllib.TOMLDecodeError as error:
        raise InvalidTrustError(
            f"`{file}` is no TOML: {error}", hint="mend it, or remove it and export anew"
        ) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidTrustError(f"`{file}`: `package` is no list of tables", hint="entries begin with `[[package]]`")
    return entries


# Two exports at once: each must see what the other added.
@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise WriteError(f"cannot write in `{folder}`: {(error.strerror or str(error)).lower()}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
