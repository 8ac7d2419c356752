"""`models/NAME/trusted.toml`: which packages of machine code may be opened, by the SHA-256 of the whole file.

Export writes an entry for what it made itself; `rust-host` and `py-authoring verify` open nothing else. No torch here.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def lists_for(path: Path) -> list[Path]:
    """Where a host looks for a package's entry: beside the file, and beside its folder, as `rust-host` does.

    Example:
        >>> [file.name for file in lists_for(Path("models/mnist/1/model.pt2"))]
        ['trusted.toml', 'trusted.toml']
    """
    return [folder / TRUSTED_FILE for folder in list(path.resolve().parents)[:2]]


def digest_of(data: bytes) -> str:
    """By what a package is trusted: 64 hexadecimal digits, as `sha256sum` prints them."""
    return hashlib.sha256(data).hexdigest()


def add(path: Path, data: bytes, created: str) -> Path:
    """Appends an entry for a package that was just made; what the list held stays as it was.

    Returns:
        The list.

    Raises:
        InvalidTrustError: the list is no TOML of this form, or of one that no entry can be added to.
        WriteError: it cannot be written; it is as before.
    """
    file = list_of(path)
    with _locked(file.parent):
        before = _text(file)
        _read(file, before)
        entry = f"""[[package]]
sha256 = "{digest_of(data)}"
file = "{path.relative_to(file.parent).as_posix()}"
created = "{created}"
"""
        after = f"{before.rstrip()}\n\n{entry}" if before.strip() else _HEAD + entry
        try:
            _read(file, after)
        except InvalidTrustError as error:
            raise InvalidTrustError(
                f"`{file}`: `package` is written as one list, to which no entry can be added",
                hint="write each entry as a `[[package]]` of its own; an empty list can be removed",
            ) from error
        atomic.write_text(file, after)
    return file


def is_trusted(path: Path, data: bytes) -> bool:
    """Whether these bytes are in one of their lists; spaces, upper case and `sha256:` before the digits do not matter.

    Raises:
        InvalidTrustError: there is a list, and it cannot be read.
    """
    digest = digest_of(data)
    return any(
        entry.strip().lower().removeprefix("sha256:") == digest
        for file in lists_for(path)
        for entry in _read(file, _text(file))
    )


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


def _read(file: Path, text: str) -> list[str]:
    try:
        entries: Any = tomllib.loads(text).get("package", [])
    except tomllib.TOMLDecodeError as error:
        raise InvalidTrustError(
            f"`{file}` is no TOML: {error}", hint="mend it, or remove it and export anew"
        ) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidTrustError(f"`{file}`: `package` is no list of tables", hint="entries begin with `[[package]]`")
    digests = [entry.get("sha256") for entry in entries]
    for number, digest in enumerate(digests, start=1):
        if not isinstance(digest, str):
            raise InvalidTrustError(
                f"`{file}`: entry {number} has no `sha256`, or one that is no string",
                hint="each `[[package]]` has one, as `sha256sum` prints it",
            )
    return digests


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
        with suppress(OSError):  # NFS and others lock no folder: two exports at once there are rarer than one
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
