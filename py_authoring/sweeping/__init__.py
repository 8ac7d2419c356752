"""Recipe + values to vary → trials, each an ordinary run in its own process, and which of them is best.

read the space → check it → record → propose, start, wait, judge, until all trials are done → result. The record is
written after every step, so a sweep goes on after whatever ended it. No torch here.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from py_authoring import atomic, recipe_toml, run_state, runs
from py_authoring.errors import DataError, InterruptedRunError, RefusedError, TrainingError, UsageError
from py_authoring.model_file import MODEL_FILE
from py_authoring.recipe import ResolvedRecipe, find_model, flatten, load_recipe
from py_authoring.sweeping import search
from py_authoring.sweeping.process import TrialProcess
from py_authoring.sweeping.record import SWEEPS, Record, Trial, find_sweep, first_change, locked, read_record
from py_authoring.sweeping.space import Dimension, SpaceError, as_overrides, check_space, read_space

__all__ = ["Sweep", "sweep"]

#: Trials where nobody says how many and there is no grid.
TRIALS = 20
_MOST_TRIALS = 10_000
#: Its runs are named after it, with a time before and a number behind.
_LONGEST_NAME = 70
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_SAVE = 120.0
_ALIKE = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep that is done.

    Attributes:
        path: `models/NAME/sweeps/<sweep>`.
        model: the model's name.
        monitor: the metric that was compared.
        trials: best first; those without a result last.
        importance: key → its share in how much the results differ; None where that cannot be said.
        command: trains with the best values.
        best_runs: at most three runs of the best trials, as `compare` takes them.
    """

    path: Path
    model: str
    monitor: str
    trials: list[Trial]
    importance: dict[str, float] | None
    command: str
    best_runs: list[str]

    @property
    def best(self) -> Trial:
        """The best trial."""
        return self.trials[0]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "sweep": self.path.name,
            "path": str(self.path),
            "model": self.model,
            "monitor": self.monitor,
            "best": asdict(self.best),
            "trials": [asdict(trial) for trial in self.trials],
            "importance": self.importance,
            "command": self.command,
        }

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_sweep(self)


def sweep(
    model: str | Path,
    *,
    vary: Sequence[str] = (),
    trials: int | None = None,
    jobs: int = 1,
    sampler: str | None = None,
    seed: int | None = None,
    prune: bool = False,
    name: str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    say: Say = lambda text: None,
) -> Sweep:
    """Trains a model with many values of some recipe keys, each in a process of its own.

    In the main thread, Ctrl-C and SIGTERM end it with a checkpoint of each running trial.

    Args:
        model: a name in ./models, or a path to a model's folder.
        vary: `KEY=FORM` texts, over those of the model's sweep.toml; see `sweeping.space`.
        trials: how many at most; default: the whole grid, or 20. With `resume`: how many in all.
        jobs: processes at once.
        sampler: tpe, random or grid; default: a grid where every key has a list, else tpe.
        seed: of the sampler; default 0. With one job, equal seeds give equal trials.
        prune: stop trials that are worse than the median of the finished ones at the same epoch.
        name: of the sweep; default: date and time, or the latest with `resume`.
        resume: go on with a sweep: finished trials are kept, those that were running go on from their checkpoints.
        overrides: `key=value` texts that hold in every trial.
        say: takes each line for a person.

    Raises:
        RecipeError, SpaceError, NotFoundError, UnavailableError: what is wrong, before anything is written.
        RefusedError: it or one of its trials runs already, or recipe or model.py changed since it began.
        TrainingError: no trial has a result, or the first three failed alike.
        InterruptedRunError: stopped by a signal; the hint says how to go on.
    """
    directory = find_model(model)
    if resume:
        if vary or sampler is not None or seed is not None or overrides or prune:
            raise UsageError(
                "a sweep that goes on keeps what it began with", hint="beside --resume: --name --trials --jobs"
            )
        folder = find_sweep(directory, name)
    else:
        folder = _begin(directory, vary, trials, sampler, seed or 0, prune, name, overrides, jobs)
    with locked(folder), _Stop(say) as stop:
        record = read_record(folder)
        if resume:
            _check_that_it_can_go_on(record, directory)
            if trials is not None:
                most = search.size_of(record.space) if record.sampler == "grid" else trials
                record.planned = max(min(trials, most), len(record.trials))
        _run(record, directory, jobs, stop, say)
    return _result(record, directory)


def _begin(
    directory: Path,
    vary: Sequence[str],
    trials: int | None,
    sampler: str | None,
    seed: int,
    prune: bool,
    name: str | None,
    overrides: Sequence[str],
    jobs: int,
) -> Path:
    space, mistakes = read_space(directory, vary)
    base = check_space(directory, space, overrides, mistakes)
    if base.recipe.data.kind == "none":
        raise DataError(f'model `{base.name}` has no data to train on: data.kind is "none"')
    chosen = search.choose_sampler(space, sampler, prune)
    most = search.size_of(space) if chosen == "grid" else None
    planned = min(trials or most or TRIALS, most or trials or TRIALS)
    if planned > _MOST_TRIALS:
        raise SpaceError(
            f"the grid has {planned:,} points, and a sweep has at most {_MOST_TRIALS:,} trials",
            hint="`--trials N` takes its first N points, `--sampler random --trials N` any N",
        )
    if name is not None and len(name) > _LONGEST_NAME:
        raise UsageError(f"the sweep's name has {len(name)} characters; expected at most {_LONGEST_NAME}")
    folder = directory / SWEEPS / (runs.check_name(name) if name is not None else runs.new_name(directory / SWEEPS))
    if folder.exists():
        raise UsageError(f"sweep `{folder}` is there already", hint="`--resume` goes on with it; or another `--name`")
    record = Record(
        folder=folder,
        space=space,
        sampler=chosen,
        seed=seed,
        prune=prune,
        planned=planned,
        overrides=_with_absolute_path(overrides, base),
        monitor=base.recipe.training.monitor,
        basis=_basis(base, space),
        threads=None if jobs == 1 else max(1, _cores() // jobs),
    )
    atomic.clear_stale(folder.parent)
    with atomic.write_folder(folder) as temporary:
        record.folder = temporary
        record.save()
    return folder


def _check_that_it_can_go_on(record: Record, directory: Path) -> None:
    search.choose_sampler(record.space, record.sampler, record.prune)
    now = _basis(load_recipe(directory, overrides=record.overrides), record.space)
    change = first_change(record.basis, now)
    if change is not None:
        raise RefusedError(
            f"sweep `{record.folder}` cannot go on, its trials could not be compared: {change}",
            hint="take the change back, or begin a new sweep",
        )


def _basis(base: ResolvedRecipe, space: Sequence[Dimension]) -> dict[str, Any]:
    file = base.directory / MODEL_FILE
    code = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    varied = {dimension.key for dimension in space}
    values = flatten(base.to_dict())
    # neither what is varied nor what is exported later makes another training
    kept = {key: value for key, value in values.items() if key not in varied and not key.startswith("export.")}
    return {**kept, MODEL_FILE: code}


# A path is meant from where it was typed; the sweep may go on from another folder.
def _with_absolute_path(overrides: Sequence[str], base: ResolvedRecipe) -> list[str]:
    path = getattr(base.recipe.data, "path", None)
    return [
        f"data.path={recipe_toml.format_value(path)}" if text.partition("=")[0].strip() == "data.path" else text
        for text in overrides
    ]


def _run(record: Record, directory: Path, jobs: int, stop: _Stop, say: Say) -> None:
    running: dict[int, TrialProcess] = {}
    waiting = [trial for trial in record.trials if trial.state in ("running", "interrupted")]
    if record.trials:
        say(f"sweep {record.folder.name} goes on: {len(record.trials) - len(waiting)} of {record.planned} trials done")
    try:
        while stop.received is None:
            while len(running) < jobs and stop.received is None:
                trial = waiting.pop(0) if waiting else _next(record, directory, say)
                if trial is None:
                    break
                process = _start(record, directory, trial, stop, say)
                if process is not None:
                    running[trial.number] = process
            if not running and not waiting and len(record.trials) >= record.planned:
                return
            _refuse_if_all_fail_alike(record)
            _look(record, directory, running, say)
            time.sleep(_SECONDS_BETWEEN_LOOKS if running else 0)
    finally:
        _stop_all(record, directory, running, stop, say)
    done = sum(trial.state not in ("running", "interrupted") for trial in record.trials)
    words = ["py-authoring", "sweep", runs.command_name(directory), "--resume", "--name", record.folder.name]
    words += ["--jobs", str(jobs)] if jobs > 1 else []
    raise InterruptedRunError(
        f"interrupted: {done} of {record.planned} trials done, recorded in `{record.folder}`",
        hint=f"`{shlex.join(words)}` goes on, also within the trials",
    )


def _next(record: Record, directory: Path, say: Say) -> Trial | None:
    """The next trial that has to be trained; one with the values of a finished trial has its result at once."""
    while len(record.trials) < record.planned:
        values = search.propose(record)
        number = len(record.trials)
        # the time first, so that runs stay in order; the rest keeps two sweeps that run at once apart
        run = f"{runs.new_name(directory / runs.RUNS)}-{record.folder.name}-{number}"
        trial = Trial(number, values, runs.check_name(run))
        same = next((other for other in record.trials if other.values == values and other.state == "finished"), None)
        record.trials.append(trial)
        if same is None:
            record.save()
            return trial
        for attribute in ("run", "score", "value", "epoch", "scores"):
            setattr(trial, attribute, getattr(same, attribute))
        trial.state, trial.message = "finished", f"has the values of trial {same.number}, and so its result"
        record.save()
        say(f"trial {trial.number}  {_shown(trial.values)}  as trial {same.number}")
    return None


def _start(record: Record, directory: Path, trial: Trial, stop: _Stop, say: Say) -> TrialProcess | None:
    """Starts a trial, or goes on with it; None if its run has ended and was only not written down, or at a signal."""
    folder = directory / runs.RUNS / trial.run
    begun = (folder / runs.CHECKPOINTS / "last.pt").is_file()
    if begun:
        # of a sweep that was killed: the training saves its last checkpoint
        until = time.monotonic() + _SECONDS_TO_SAVE
        while (state := run_state.read_state(folder)).state == "running":
            if stop.received is not None:
                return None
            if time.monotonic() > until:
                raise RefusedError(
                    f"trial {trial.number} still trains in another process, which holds `{folder}`",
                    hint="wait for it, or end it: the sweep then goes on with `--resume`",
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if state.state in ("finished", "failed"):
            _judge(record, directory, trial, None if state.state == "finished" else state.message or "failed", say)
            return None
    trial.state, trial.message = "running", None
    record.save()
    overrides = None if begun else [*record.overrides, *as_overrides(trial.values)]
    say(f"trial {trial.number}  {_shown(trial.values)}  {'goes on' if begun else 'begins'}")
    return TrialProcess(directory, trial.run, overrides, record.folder / f"trial-{trial.number}.log", record.threads)


def _look(record: Record, directory: Path, running: dict[int, TrialProcess], say: Say) -> None:
    """Writes down which trials have ended, and stops those that lag behind."""
    for number, process in [*running.items()]:
        trial = record.trials[number]
        if process.ended():
            del running[number]
            _judge(record, directory, trial, process.message(), say)
        elif record.prune and trial.state == "running":
            looked_at = len(trial.scores)
            _read_scores(record, directory, trial)
            for count in range(looked_at + 1, len(trial.scores) + 1):
                seen = Trial(number, trial.values, trial.run, scores=trial.scores[:count])
                if search.lags_behind(record, seen):
                    trial.state, trial.scores = "pruned", seen.scores
                    process.stop()
                    break


def _read_scores(record: Record, directory: Path, trial: Trial) -> None:
    scores = [runs.score(row, record.monitor) for row in runs.read_history(directory / runs.RUNS / trial.run)]
    trial.scores = [score for score in scores if math.isfinite(score)]


def _judge(record: Record, directory: Path, trial: Trial, message: str | None, say: Say) -> None:
    """Writes down what became of a trial whose process is gone."""
    folder = directory / runs.RUNS / trial.run
    history = runs.read_history(folder)
    state = run_state.read_state(folder).state if folder.is_dir() else "failed"
    pruned = trial.state == "pruned"
    if pruned:
        history = history[: len(trial.scores)]
    best = runs.best_row(history, record.monitor)
    trial.seconds = round(math.fsum(row.get("seconds") or 0.0 for row in history), 3)
    if not pruned:
        _read_scores(record, directory, trial)
    trial.message = message
    if pruned and best is not None:
        trial.message = None
    elif message is None and best is not None:
        trial.state = "finished"
    elif state == "interrupted":
        trial.state = "interrupted"
    else:
        trial.state, trial.message = "failed", message or "no epoch has a finite training.monitor"
    if trial.state in ("finished", "pruned") and best is not None:
        trial.score, trial.epoch = runs.score(best, record.monitor), int(best["epoch"])
        trial.value = best.get(runs.monitored_key(best, record.monitor))
    record.save()
    result = trial.message if trial.value is None else f"{record.monitor} {trial.value:.4g} in epoch {trial.epoch}"
    say(f"trial {trial.number}  {trial.state}: {result}")


def _refuse_if_all_fail_alike(record: Record) -> None:
    ended = [trial for trial in record.trials if trial.state != "running"]
    messages = {trial.message for trial in ended}
    if len(ended) >= _ALIKE and len(messages) == 1 and all(trial.state == "failed" for trial in ended):
        raise TrainingError(
            f"the first {len(ended)} trials failed alike: {messages.pop()}",
            hint=f"`{record.folder}/trial-0.log` has all that was said",
        )


def _stop_all(record: Record, directory: Path, running: dict[int, TrialProcess], stop: _Stop, say: Say) -> None:
    for process in running.values():
        process.stop()
    until = time.monotonic() + _SECONDS_TO_SAVE
    while not all(process.ended() for process in running.values()):
        if stop.again or time.monotonic() > until:
            for process in running.values():
                process.kill()
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    for number, process in running.items():
        message, trial = process.message(), record.trials[number]
        if trial.state == "pruned" or message is None:
            _judge(record, directory, trial, message, say)
        else:
            trial.state = "interrupted"
            record.save()


def _result(record: Record, directory: Path) -> Sweep:
    def place(trial: Trial) -> tuple[int, float, int]:
        order = {"finished": 0, "pruned": 1}.get(trial.state, 2)
        return order, -(trial.score if trial.score is not None else -math.inf), trial.number

    ordered = sorted(record.trials, key=place)
    name = runs.command_name(directory)
    if not ordered or ordered[0].state != "finished":
        reasons = {trial.message for trial in ordered if trial.message}
        raise TrainingError(
            f"none of {len(ordered)} trials has a result: {'; '.join(sorted(reasons)[:3])}",
            hint=f"`{record.folder}` has a log of each",
        )
    best = ordered[0]
    words = [word for text in [*record.overrides, *as_overrides(best.values)] for word in ("--set", text)]
    finished = list(dict.fromkeys(trial.run for trial in ordered if trial.state == "finished"))
    return Sweep(
        path=record.folder,
        model=directory.resolve().name,
        monitor=record.monitor,
        trials=ordered,
        importance=search.importance(record),
        command=shlex.join(["py-authoring", "train", name, *words]),
        best_runs=[f"{name}/{run}" for run in finished[:3]],
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(values: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else recipe_toml.format_value(value)

    return "  ".join(f"{key.rpartition('.')[2]} {text(value)}" for key, value in values.items())


class _Stop:
    """Notes Ctrl-C and SIGTERM while a sweep runs, so that no record is half written and no process forgotten."""

    def __init__(self, say: Say) -> None:
        self.received: int | None = None
        self.again = False
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.again = self.received is not None
        self.received = number
        self._say(
            "ending the trials" if self.again else "each running trial saves a checkpoint; once more ends at once"
        )
