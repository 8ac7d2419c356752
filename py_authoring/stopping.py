"""Ctrl-C and SIGTERM: a wish to stop, heard where it can be fulfilled, and the sentence where it comes at once.

No torch here.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from py_authoring.errors import InterruptedRunError
from py_authoring.runs import command_name, list_runs

Say = Callable[[str], None]


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after this iteration; the second ends the process at once.

    Outside the main thread, where Python allows no signal handlers, it never hears anything.
    """

    def __init__(self, say: Say) -> None:
        self.received: signal.Signals | None = None
        self.deferred = False
        self._say = say
        self._heard_at = -math.inf
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGTERM and time.monotonic() - self._heard_at < 1.0:
            return  # `timeout` and some supervisors send one to the process and one to its group
        if not self.deferred or self.received is not None:
            raise KeyboardInterrupt
        self._heard_at = time.monotonic()
        self.received = signal.Signals(number)
        self._say(f"{self.received.name}: saving a checkpoint; once more ends at once")


# Before the first iteration, after the last, and on the second signal, Python's own interrupt comes through.
@contextmanager
def interruptible(directory: Path) -> Iterator[None]:
    """Makes of Python's own interrupt the sentence of `InterruptedRunError`."""
    try:
        yield
    except KeyboardInterrupt as error:
        name = command_name(directory)
        if list_runs(directory):
            hint = f"`py-authoring train {name} --resume` goes on from the last checkpoint of the latest run"
        else:
            hint = f"nothing was written; `py-authoring train {name}` begins anew"
        raise InterruptedRunError("interrupted", hint=hint) from error
