"""What state a run is in: running, finished, interrupted, failed or killed. No torch here.

`state.json` says what the training said last; a lock on the run's folder, which the kernel takes from a process that
ends in any way, says whether one still runs.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from py_authoring import atomic

STATE_FILE = "state.json"
State = Literal["running", "finished", "interrupted", "failed", "killed"]
_ENDED: tuple[State, ...] = ("finished", "interrupted", "failed")


@dataclass(frozen=True)
class RunState:
    """The state of a run; `message` and `hint` of what ended it, `changed` as RFC 3339 text."""

    state: State
    message: str | None = None
    hint: str | None = None
    changed: str | None = None


def write_state(folder: Path, state: State, message: str | None = None, hint: str | None = None) -> None:
    """Says in `state.json` what a training does now.

    Raises:
        WriteError: the old file is untouched.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    document = asdict(RunState(state, message, hint, now))
    atomic.write_text(folder / STATE_FILE, json.dumps(document, indent=2) + "\n")


def read_state(folder: Path) -> RunState:
    """The state of a run.

    Where `state.json` is missing or unreadable, as in runs of earlier versions, the other files tell: one with
    `metrics.json` finished.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_state(folder, "running")
        >>> read_state(folder).state  # nobody holds the lock: the process is gone
        'killed'
    """
    document: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        read = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        document = read if isinstance(read, dict) else {}
    if _is_locked(folder):
        return RunState("running", changed=document.get("changed"))
    state: State = "finished" if (folder / "metrics.json").is_file() else "killed"
    for known in _ENDED:
        state = known if document.get("state") == known else state
    if document.get("state") == "running":
        state = "killed"
    return RunState(state, document.get("message"), document.get("hint"), document.get("changed"))


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Marks a run as running while the block lasts; where the file system knows no locks, it does nothing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing leaves the lock with processes that inherited it
        os.close(descriptor)


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
