"""Recipe → Run: one Ignite Engine, and the list of its handlers.

In: a model's folder and what was given on the command line. Out: `runs/<run>/` with checkpoints from which the training
goes on bit for bit, wherever it was stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping, TerminateOnNan

from py_authoring import atomic, checkpoint, resuming, run_record
from py_authoring.data_workers import name_the_dead
from py_authoring.errors import AuthoringError, InterruptedRunError
from py_authoring.evaluation import evaluate, run_evaluator
from py_authoring.handlers import Progress, Say, StopSignal, print_to_stderr
from py_authoring.learnt import learnt_of
from py_authoring.lightning import OWN_SECTIONS
from py_authoring.recipe import find_model, load_recipe
from py_authoring.run_folder import Row, Run, write_history, write_metrics, write_start
from py_authoring.session import Session, checkpoint_handler, open_session

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Handler:
    """What happens at an event; handlers of one event run in the order of the list."""

    name: str
    event: Events
    call: Callable[[Engine], None]


def train(
    model: str | Path,
    *,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    say: Say | None = None,
) -> Run:
    """Trains a model by its recipe, or goes on with its latest run.

    Seeds torch's, NumPy's and Python's global generators. In the main thread, Ctrl-C and SIGTERM end it after the
    iteration that is going on, with a checkpoint.

    Args:
        model: a name in ./models, or a path to a model's folder.
        epochs: goes before the recipe and `overrides`, as do `lr`, `seed` and `device`.
        lr: learning rate.
        seed: of weights, dropout and order.
        device: auto, cpu, cuda or cuda:N.
        resume: go on with the latest run; the end is the same, bit for bit, as without a stop.
        overrides: `key=value` texts.
        say: takes each line for a person; default: stderr.

    Raises:
        RecipeError, NotFoundError, ModelFileError, DataError: what is wrong, before anything is written.
        ResumeError: the recipe or the data is not what the run began with.
        TrainingError: the loss is not finite, or the model raised.
        WriteError: a checkpoint could not be written; the one before is whole.
        InterruptedRunError: stopped by a signal; the hint says how to go on.
    """
    say = say or print_to_stderr
    started = time.monotonic()
    flags = {"--epochs": epochs, "--lr": lr, "--seed": seed, "--device": device}
    directory = find_model(model)
    with StopSignal(say) as stop, _interruptible(directory):
        if not resume:
            resolved = load_recipe(model, overrides=overrides, flags=flags)
            checkpoint.clear_stale(directory)
            session = open_session(resolved, directory / checkpoint.RUNS / checkpoint.new_run_name(directory), say)
            saved = None
        else:
            folder = checkpoint.find_run(directory)
            checkpoint.clear_stale(directory)
            saved = checkpoint.load_checkpoint(checkpoint.find_checkpoint(directory, which="last"))
            remembered = resuming.remembered_values(saved)
            resolved = load_recipe(model, overrides=overrides, flags=flags, remembered=remembered)
            changes = resuming.compare_recipes(checkpoint.recipe_of(saved, directory), resolved)
            session = open_session(resolved, folder, say, learnt_of(saved))
            for change in changes:
                say(f"changed: {change}")
        with run_record.recorded(session):
            _run(session, stop, saved)
            run = _finish(session, time.monotonic() - started)
        return run_record.finished(session, run)


def build_handlers(session: Session, stop: StopSignal) -> tuple[list[Handler], dict[str, Any]]:
    """The handlers of a training, in order, and those among them whose state a checkpoint keeps, by name."""
    training = session.resolved.recipe.training
    progress = Progress(session.say, training.epochs, session.running_loss)
    best = checkpoint_handler(
        session,
        "best.pt",
        session.objects_to_save(),
        score_function=lambda trainer: session.score(session.history[-1]),
        score_name="score",
    )
    stateful: dict[str, Any] = {"best": best}
    early_stopping: EarlyStopping | None = None
    if training.patience is not None:
        early_stopping = EarlyStopping(
            training.patience, lambda trainer: session.score(session.history[-1]), session.trainer
        )
        stateful["early_stopping"] = early_stopping
    objects = {**session.objects_to_save(), **session.objects_to_resume(), **stateful}
    save_last = checkpoint_handler(session, "last.pt", objects, greater_or_equal=True)
    # a LightningModule may skip a step: then there is no loss
    terminate_on_nan = TerminateOnNan(output_transform=lambda loss: 0.0 if loss is None else loss)
    terminate_on_nan.logger.setLevel(logging.CRITICAL)  # train() says it
    clock = {"saved": time.monotonic(), "epoch": time.monotonic()}

    def start_epoch(trainer: Engine) -> None:
        clock["epoch"] = time.monotonic()

    def save_within_epoch(trainer: Engine) -> None:
        done = trainer.state.iteration % len(session.batches)
        if trainer.should_terminate or done == 0:  # not finite; or the epoch's end saves, after the validation
            return
        if training.checkpoint_every is not None:
            due = done % training.checkpoint_every == 0
        else:
            due = time.monotonic() - clock["saved"] > _SECONDS_BETWEEN_CHECKPOINTS
        if due or stop.received is not None:
            save(trainer)
        if stop.received is not None:
            trainer.terminate()

    def save(trainer: Engine) -> None:
        session.check_finite()
        save_last(trainer)
        clock["saved"] = time.monotonic()

    def validate(trainer: Engine) -> None:
        row: Row = {"epoch": trainer.state.epoch, "iteration": trainer.state.iteration}
        row["loss"] = session.running_loss.take()
        if session.lightning is not None:
            session.check_finite()
            row |= session.lightning.end_epoch()
        elif session.evaluator is not None:
            session.check_finite()
            metrics = run_evaluator(session.evaluator, session.splits.validation, session.resolved)
            row |= {f"val_{name}": value for name, value in metrics.items()}
        if not math.isfinite(row.get("val_loss") or 0.0):
            raise session.not_finite("the validation loss")
        row.setdefault("lr", session.optimizer.param_groups[0]["lr"])
        row |= {name: None for name, value in row.items() if value is not None and not math.isfinite(value)}
        row["seconds"] = round(time.monotonic() - clock["epoch"], 3)
        session.history.append(row)

    def save_best(trainer: Engine) -> None:
        if math.isfinite(session.score(session.history[-1])):
            best(trainer)

    def show(trainer: Engine) -> None:
        progress.show_epoch(session.history[-1], session.lightning.shown if session.lightning is not None else ())

    def stop_after_epoch(trainer: Engine) -> None:
        if stop.received is not None or (session.lightning is not None and session.lightning.stopped):
            trainer.terminate()

    handlers = [
        Handler("clock", Events.EPOCH_STARTED, start_epoch),
        *([Handler("hooks", Events.EPOCH_STARTED, session.lightning.start_epoch)] if session.lightning else []),
        Handler("terminate on NaN", Events.ITERATION_COMPLETED, terminate_on_nan),
        Handler("running loss", Events.ITERATION_COMPLETED, session.running_loss),
        Handler("progress", Events.ITERATION_COMPLETED, progress.show_iteration),
        Handler("checkpoint within the epoch", Events.ITERATION_COMPLETED, save_within_epoch),
        Handler("validation", Events.EPOCH_COMPLETED, validate),
        Handler("best checkpoint", Events.EPOCH_COMPLETED, save_best),
        Handler("schedule", Events.EPOCH_COMPLETED, lambda trainer: session.scheduler.step()),
    ]
    if early_stopping is not None:
        handlers.append(Handler("early stopping", Events.EPOCH_COMPLETED, early_stopping))
    handlers += [
        Handler("last checkpoint", Events.EPOCH_COMPLETED, save),
        Handler("history", Events.EPOCH_COMPLETED, lambda trainer: write_history(session.folder, session.history)),
        Handler("line", Events.EPOCH_COMPLETED, show),
        Handler("stop", Events.EPOCH_COMPLETED, stop_after_epoch),
    ]
    progress.attach(session.trainer)
    return handlers, stateful


# Before the first iteration, after the last, and on the second signal, Python's own interrupt comes through.
@contextmanager
def _interruptible(directory: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        name = checkpoint.command_name(directory)
        if checkpoint.list_runs(directory):
            hint = f"`py-authoring train {name} --resume` goes on from the last checkpoint of the latest run"
        else:
            hint = f"nothing was written; `py-authoring train {name}` begins anew"
        raise InterruptedRunError("interrupted", hint=hint) from error


# The folder appears with a checkpoint of iteration 0 in it, so that every run there is can be resumed.
def _begin(session: Session, stateful: Mapping[str, Any]) -> None:
    with atomic.write_folder(session.folder) as folder:
        write_start(folder, session.resolved, session.device, OWN_SECTIONS if session.lightning is not None else ())
        write_history(folder, [])
        (folder / checkpoint.CHECKPOINTS).mkdir()
        objects = {**session.objects_to_save(), **session.objects_to_resume(), **stateful}
        first = {name: each.state_dict() for name, each in objects.items()}
        checkpoint.save_checkpoint(first, folder / checkpoint.CHECKPOINTS / "last.pt")


def _run(session: Session, stop: StopSignal, saved: Mapping[str, Any] | None) -> None:
    handlers, stateful = build_handlers(session, stop)
    if session.lightning is not None:
        session.lightning.begin(saved)
    if saved is None:
        _begin(session, stateful)
    else:
        session.restore(saved, stateful)
        write_history(session.folder, session.history)  # a kill may have come between checkpoint and history
    _say_start(session, saved)
    for handler in handlers:
        session.trainer.add_event_handler(handler.event, handler.call)
    training = session.resolved.recipe.training
    stopped = session.lightning is not None and session.lightning.stopped
    if session.epochs_done >= training.epochs or stopped or _stopped_early(stateful, training.patience):
        return
    stop.deferred = True
    try:
        session.trainer.run(session.batches, max_epochs=training.epochs, epoch_length=len(session.batches))
    except RuntimeError as error:
        died = None if isinstance(error, AuthoringError) else name_the_dead(error)
        if died is None:
            raise
        raise died from error
    finally:
        stop.deferred = False
    if stop.received is not None:
        name = checkpoint.command_name(session.resolved.directory)
        state, last = session.trainer.state, session.folder / checkpoint.CHECKPOINTS / "last.pt"
        raise InterruptedRunError(
            f"interrupted at iteration {state.iteration}, {session.epochs_done} of {training.epochs} epochs done; "
            f"saved `{last}`",
            hint=f"`py-authoring train {name} --resume` goes on from there",
        )
    if session.trainer.state.output is not None and not math.isfinite(session.trainer.state.output):
        raise session.not_finite("the loss")
    if session.lightning is not None:
        session.lightning.finish()


def _stopped_early(stateful: Mapping[str, Any], patience: int | None) -> bool:
    return patience is not None and stateful["early_stopping"].counter >= patience


def _finish(session: Session, seconds: float) -> Run:
    write_history(session.folder, session.history)
    best = session.best_row()
    evaluation = None
    epoch = int(best["epoch"] or 0) if best is not None else None
    if session.evaluator is not None and epoch is not None:
        file = session.folder / checkpoint.CHECKPOINTS / "best.pt"
        session.model.load_state_dict(checkpoint.load_checkpoint(file)["model"])
        evaluation = evaluate(
            session.model, session.splits.validation, session.resolved, session.device, session.splits.labels
        )
        extra = {"best_epoch": epoch, "epochs": session.epochs_done}
        write_metrics(session.folder, "validation", evaluation, extra, session.say)
    metrics = evaluation.metrics if evaluation is not None else {}
    history = list(session.history)
    return Run(session.folder, session.resolved.name, session.epochs_done, history, epoch, metrics, seconds, evaluation)


def _say_start(session: Session, saved: Mapping[str, Any] | None) -> None:
    splits, training = session.splits, session.resolved.recipe.training
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    session.say(
        f"{session.resolved.name}: {parameters:,} parameters on {session.device}, {splits.name} with "
        f"{len(splits.train):,} samples to train on, {len(splits.validation):,} to validate"
    )
    if saved is None:
        return
    done, within = divmod(saved["iteration"], len(session.batches))
    position = f"iteration {within + 1} of epoch {done + 1}" if within else f"epoch {done + 1}"
    if done >= training.epochs:
        session.say(f"run {session.folder.name} is complete: {done} of {training.epochs} epochs done")
    else:
        session.say(f"run {session.folder.name} goes on at {position}")
    for what, now in (("torch", str(torch.__version__)), ("threads", torch.get_num_threads())):
        if saved[what] != now:
            session.say(f"note: {what} was {saved[what]}, is now {now}: the result may differ in the last bits")
