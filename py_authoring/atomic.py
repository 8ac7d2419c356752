"""Files and folders that appear whole or not at all.

Write beside the target, fsync, rename, fsync the folder: a kill or a full disk leaves the old file or the new one. What
a killed process left carries its process number, so that the next start can tell it from a write that is going on.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from py_authoring.errors import AuthoringError, WriteError

_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")


def write_bytes(path: Path | str, data: bytes | memoryview) -> None:
    """Replaces `path` by a file with exactly `data`, durably.

    Raises:
        WriteError: the disk is full, the folder is not writable, …; the old file is whole, no temporary file stays.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_bytes(folder / "a.bin", b"new")
        >>> [(file.name, file.read_bytes()) for file in folder.iterdir()]
        [('a.bin', b'new')]
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise _cannot_write(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def write_text(path: Path | str, text: str) -> None:
    """Replaces `path` by a UTF-8 file with exactly `text`; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def write_folder(path: Path | str) -> Iterator[Path]:
    """Yields a hidden folder that becomes `path` when the block ends well, and vanishes when it does not.

    `path` must not exist, except as an empty folder.

    Raises:
        WriteError: the folder cannot be made, written, or renamed.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "1"
        >>> with write_folder(target) as folder:
        ...     _ = (folder / "model.pt").write_bytes(b"...")
        ...     target.exists()
        False
        >>> [file.name for file in target.iterdir()]
        ['model.pt']
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        _remove(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync_file(Path(folder) / name)
            _sync_folder(Path(folder))
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        if isinstance(error, AuthoringError):
            raise
        raise _cannot_write(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def clear_stale(folder: Path | str, *, recursive: bool = False) -> list[Path]:
    """Removes what killed processes left in `folder`: temporary files and folders whose process is gone.

    Returns:
        What was removed. A folder that does not exist gives an empty list.
    """
    removed = []
    for parent, folders, files in os.walk(folder):  # which goes on where a folder vanishes meanwhile
        for name in [*folders, *files]:
            match = _TEMPORARY.match(name)
            if match is not None and not _is_alive(int(match[1])):
                _remove(Path(parent, name))
                removed.append(Path(parent, name))
        if not recursive:
            break
    return removed


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A folder's entry is durable once the folder itself is synced; Windows cannot open folders, and needs no such call.
def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        _sync_file(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _cannot_write(path: Path, error: OSError) -> WriteError:
    reason = error.strerror or str(error)
    return WriteError(
        f"cannot write `{path}`: {reason[:1].lower()}{reason[1:]}",
        hint="what was there before is untouched; free the disk or make the folder writable, then try again",
    )
