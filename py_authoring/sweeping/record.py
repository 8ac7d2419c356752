"""What is known of a sweep: `models/NAME/sweeps/<sweep>/sweep.json`, replaced as a whole after every change.

In: what was asked for, and what became of each trial. Out: the same after a kill at any time. No torch here.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from py_authoring import atomic
from py_authoring.errors import AuthoringError, NotFoundError, RefusedError
from py_authoring.json_text import to_json
from py_authoring.runs import command_name
from py_authoring.sweeping.space import Dimension, parse_form

SWEEPS = "sweeps"
RECORD_FILE = "sweep.json"
FORMAT = 1
Sampler = Literal["tpe", "random", "grid"]
TrialState = Literal["running", "interrupted", "finished", "pruned", "failed"]


class RecordError(AuthoringError, ValueError):
    """A sweep.json that cannot be read."""

    kind = "invalid_input"
    exit_code = 2


@dataclass
class Trial:
    """One training of a sweep.

    Attributes:
        number: from 0, in the order in which they were begun.
        values: varied key → value.
        run: the name of its run.
        state: running, interrupted (goes on with `--resume`), finished, pruned or failed.
        score: of its best epoch, higher is better: the monitored metric, negated where less is better.
        value: the monitored metric as it is.
        epoch: the best one.
        scores: of each epoch, in order.
        seconds: how long its epochs took.
        message: why it failed, or whose result it has.
    """

    number: int
    values: dict[str, Any]
    run: str
    state: TrialState = "running"
    score: float | None = None
    value: float | None = None
    epoch: int | None = None
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    message: str | None = None


@dataclass
class Record:
    """A sweep as it was asked for, and its trials.

    Attributes:
        folder: `models/NAME/sweeps/<sweep>`.
        space: what is varied.
        sampler: tpe, random or grid.
        seed: of the sampler.
        prune: whether trials that lag behind are stopped.
        planned: how many trials there will be.
        overrides: `key=value` texts that hold in every trial.
        monitor: the recipe's training.monitor.
        basis: what must not change while a sweep lasts: the recipe's values, and the digest of model.py.
        trials: by number.
        threads: how many each trial may use, so that one that goes on adds in the same order; None leaves it to torch.
    """

    folder: Path
    space: list[Dimension]
    sampler: Sampler
    seed: int
    prune: bool
    planned: int
    overrides: list[str]
    monitor: str
    basis: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    threads: int | None = None

    def save(self) -> None:
        """Writes it, durably.

        Raises:
            WriteError: the old file is whole.
        """
        document = {
            "format": FORMAT,
            "vary": {dimension.key: dimension.form for dimension in self.space},
            "sampler": self.sampler,
            "seed": self.seed,
            "prune": self.prune,
            "planned": self.planned,
            "threads": self.threads,
            "overrides": self.overrides,
            "monitor": self.monitor,
            "basis": self.basis,
            "trials": [asdict(trial) for trial in self.trials],
        }
        atomic.write_text(self.folder / RECORD_FILE, to_json(document, indent=1) + "\n")


def read_record(folder: Path) -> Record:
    """The record of a sweep.

    Raises:
        RecordError: it is damaged, or of a later format.
    """
    file = folder / RECORD_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["format"] > FORMAT:
            raise RecordError(f"`{file}` has format {document['format']}, this version reads up to {FORMAT}")
        return Record(
            folder=folder,
            space=[parse_form(key, form) for key, form in document["vary"].items()],
            **{key: document[key] for key in ("sampler", "seed", "prune", "planned", "overrides", "monitor", "basis")},
            trials=[Trial(**trial) for trial in document["trials"]],
            threads=document.get("threads"),
        )
    except RecordError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"`{file}` cannot be read: {error}", hint="begin a new sweep; its runs are whole") from error


def find_sweep(directory: Path, name: str | None) -> Path:
    """The folder of a sweep by name, or of the latest one.

    Raises:
        NotFoundError: there is none.
    """
    folders = [path.parent for path in (directory / SWEEPS).glob(f"[!.]*/{RECORD_FILE}")]
    found = sorted(folders, key=lambda path: ((path / RECORD_FILE).stat().st_mtime_ns, path.name))
    if name is not None and directory / SWEEPS / name in found:
        return directory / SWEEPS / name
    shown = directory.resolve().name
    if name is not None:
        known = ", ".join(path.name for path in found[-5:]) or "none"
        raise NotFoundError(f"model `{shown}` has no sweep `{name}`", hint=f"sweeps there: {known}")
    if not found:
        hint = f"`py-authoring sweep {shlex.quote(command_name(directory))} --vary KEY=FORM` begins one"
        raise NotFoundError(f"model `{shown}` has no sweep to go on with", hint=hint)
    return found[-1]


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first difference between two bases: `optimizer.lr is 0.1, was 0.01`."""
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            return f"{key} is {now.get(key)!r}, was {before.get(key)!r}"
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from the same sweep while the block lasts; the kernel ends it with the process.

    Raises:
        RefusedError: one is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RefusedError(
            f"sweep `{folder}` is running in another process", hint="wait for it, or end it: it can be gone on with"
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)
