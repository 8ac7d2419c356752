"""Where a training's time goes: reading data, computing, validating, everything else.

Four looks at the clock an iteration. Ignite's profilers keep every time of every handler in tensors, which costs a
small model several percent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ignite.engine import Engine, Events

_MUCH_DATA = 0.3
_WORTH_A_HINT = 5.0  # seconds of waiting for data; starting workers costs some too


class TimeProfile:
    """Adds up the seconds of each part of a training, of this call alone.

    Attributes:
        seconds: part → seconds: `data` (waiting for batches), `compute` (forward, backward, the optimizer's step),
            `validation`, and `other` (checkpoints, loggers, what Ignite itself does).
    """

    def __init__(self) -> None:
        self.seconds = {"data": 0.0, "compute": 0.0, "validation": 0.0, "other": 0.0}
        self._last = math.nan

    def attach(self, trainer: Engine, first: bool) -> None:
        """Looks at the clock before all other handlers of an event, or after them.

        Args:
            trainer: the Engine.
            first: call it with True before the other handlers are attached, and with False after.
        """
        if first:
            trainer.add_event_handler(Events.GET_BATCH_STARTED, self._mark("other"))
            trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._mark("data"))
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._mark("compute"))
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._mark("other"))
        else:
            trainer.add_event_handler(Events.ITERATION_STARTED, self._mark("other"))
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._mark("other"))

    def validated(self) -> None:
        """The time since the epoch's end was the validation's."""
        self._mark("validation")()

    def line(self, workers: int) -> str | None:
        """`time: data 12 %, forward and backward 80 %, …`, with a hint where data takes much; None if nothing ran.

        Args:
            workers: how many processes read ahead.
        """
        total = math.fsum(self.seconds.values())
        if not total:
            return None
        names = {
            "data": "data",
            "compute": "forward and backward",
            "validation": "validation",
            "other": "checkpoints and other handlers",
        }
        parts = ", ".join(f"{names[key]} {seconds / total:.0%}" for key, seconds in self.seconds.items())
        line = f"time: {parts.replace('%', ' %')}"
        if self.seconds["data"] > max(_MUCH_DATA * total, _WORTH_A_HINT):
            more = "training.workers" if workers == 0 else f"more than {workers} training.workers"
            line += f"; {more} would read ahead while the model computes"
        return line

    def _mark(self, part: str) -> Callable[[], None]:
        def mark() -> None:
            now = time.perf_counter()
            if not math.isnan(self._last):  # not the first look
                self.seconds[part] += now - self._last
            self._last = now

        return mark
