"""Our own handlers for Ignite's Events: mean loss and progress.

Those that a resumed run needs have `state_dict` and `load_state_dict`, as Ignite's own.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Engine
from ignite.handlers.tqdm_logger import ProgressBar

from py_authoring.data import count_samples
from py_authoring.stopping import Say as Say

_SECONDS_BETWEEN_LINES = 30.0
# the first of these that was measured stands in the epoch's line
_SHOWN = ("val_accuracy", "val_f1", "val_mae", "val_rmse")


class RunningLoss:
    """The mean training loss of the epoch so far, weighted by the number of samples.

    It is emptied when it is read at an epoch's end, not when one starts: an epoch that is resumed goes on counting.

    Args:
        count: the number of samples of which the last loss is the mean; default: those of the engine's batch.
    """

    def __init__(self, count: Callable[[Any], int] = count_samples) -> None:
        self.count = count
        self.total = 0.0
        self.samples = 0

    def __call__(self, engine: Engine) -> None:
        """Adds the loss of the iteration that has just ended."""
        batch: Any = engine.state.batch
        loss: Any = engine.state.output
        if loss is None:
            return
        samples = self.count(batch)
        self.total += loss * samples
        self.samples += samples

    @property
    def mean(self) -> float:
        """NaN before the first iteration."""
        return self.total / self.samples if self.samples else math.nan

    def take(self) -> float:
        """The mean, and a fresh start."""
        mean, self.total, self.samples = self.mean, 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"total": self.total, "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.total, self.samples = state["total"], state["samples"]


class Progress:
    """A bar in a terminal; elsewhere one line an epoch, and one at least every 30 seconds.

    Args:
        say: writes a line for a person.
        epochs: how many there will be.
        loss: the mean loss so far.
    """

    def __init__(self, say: Say, epochs: int, loss: RunningLoss) -> None:
        self.say = say
        self.epochs = epochs
        self.loss = loss
        self.last_line = time.monotonic()
        self.seconds: list[float] = []
        self.bar: ProgressBar | None = None

    def attach(self, trainer: Engine) -> None:
        """Shows a bar if stderr is a terminal that can draw one."""
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self.bar = ProgressBar(bar_format="{desc} {n_fmt}/{total_fmt} |{bar}|{postfix} {remaining}")
            self.bar.attach(trainer, output_transform=lambda loss: {} if loss is None else {"loss": loss})

    def show_iteration(self, trainer: Engine) -> None:
        """Says a line when there was none for a while and there is no bar."""
        now = time.monotonic()
        if self.bar is None and now - self.last_line > _SECONDS_BETWEEN_LINES:
            state = trainer.state
            length = state.epoch_length or 1
            position = f"epoch {state.epoch}/{self.epochs}  iteration {(state.iteration - 1) % length + 1}/{length}"
            self._line(f"{position}  loss {self.loss.mean:.4g}")

    def show_epoch(self, row: Mapping[str, Any], also: Sequence[str] = ()) -> None:
        """Says the epoch's line: `epoch 3/10  loss 0.081  val_accuracy 0.974  2.1 s  left 0:15`.

        Args:
            row: the history's.
            also: further columns to show.
        """
        self.seconds.append(row["seconds"])
        left = (self.epochs - row["epoch"]) * sum(self.seconds) / len(self.seconds)
        parts = [f"epoch {row['epoch']}/{self.epochs}"]
        if row["loss"] is not None:
            parts.append(f"loss {row['loss']:.3g}")
        # under whatever name model.py measures or logs it
        own = [key for key in row if key.startswith("val_") and key != "val_loss"]
        shown = next((key for key in (*_SHOWN, *own, "val_loss") if row.get(key) is not None), None)
        names = dict.fromkeys([*also, *([] if shown is None else [shown])])
        parts += [f"{name} {row[name]:.3g}" for name in names if row.get(name) is not None]
        parts += [f"{row['seconds']:.1f} s", f"left {clock(left)}"]
        self._line("  ".join(parts))

    def _line(self, text: str) -> None:
        self.last_line = time.monotonic()
        if self.bar is not None:
            self.bar.log_message(text)
        else:
            self.say(text)


def print_to_stderr(text: str) -> None:
    """The `Say` of a program that gives none."""
    print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as `0:15` or `1:02:03`.

    Example:
        >>> clock(15.2), clock(3723)
        ('0:15', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
