"""Recipe → Run: one Ignite Engine, and the list of its handlers.

In: a model's folder and what was given on the command line. Out: `runs/<run>/` with checkpoints from which the training
goes on bit for bit, wherever it was stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping, TerminateOnNan

from py_authoring import atomic, checkpoint, resuming, run_record, runs
from py_authoring.data_workers import name_the_dead
from py_authoring.distributed import group_of_this_process, name_the_lost
from py_authoring.errors import AuthoringError, InterruptedRunError
from py_authoring.evaluation import evaluate, run_evaluator
from py_authoring.handlers import Progress, Say, print_to_stderr
from py_authoring.launching import launch
from py_authoring.learnt import learnt_of
from py_authoring.lightning import OWN_SECTIONS
from py_authoring.lightning.evaluation import NothingLoggedError
from py_authoring.loggers import logged
from py_authoring.recipe import find_model, load_recipe
from py_authoring.run_folder import Row, Run, write_history, write_metrics, write_start
from py_authoring.session import Session, checkpoint_handler, open_session
from py_authoring.stopping import StopSignal, interruptible

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Handler:
    """What happens at an event; handlers of one event run in the order of the list.

    One that `writes` files or speaks has no part in the training itself: of several processes, rank 0 alone has it.
    """

    name: str
    event: Events
    call: Callable[[Engine], None]
    writes: bool = False


def train(
    model: str | Path,
    *,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    resume: bool = False,
    run: str | None = None,
    overrides: Sequence[str] = (),
    nproc: int = 1,
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
        run: the name of the new run, default: date and time; with `resume` the one to go on with, default: the latest.
        overrides: `key=value` texts.
        nproc: in how many processes of this machine; the result is that of one, but for rounding and dropout.
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
    if nproc > 1:
        values = {"epochs": epochs, "lr": lr, "seed": seed, "device": device, "resume": resume}
        done: Run = launch(nproc, model, {**values, "run": run, "overrides": list(overrides)}, say)
        return done
    group = group_of_this_process()
    if not group.leads:
        say = _say_nothing
    flags = {"--epochs": epochs, "--lr": lr, "--seed": seed, "--device": device}
    directory = find_model(model)
    with group.stop_signal(say) as stop, interruptible(directory):
        saved, learnt, changes = None, None, []
        if not resume:
            resolved = load_recipe(model, overrides=overrides, flags=flags)
            checkpoint.clear_stale(directory)
            folder = checkpoint.new_run_folder(directory, run)
        else:
            folder = checkpoint.find_run(directory, run)
            checkpoint.clear_stale(directory)
            saved = checkpoint.load_checkpoint(checkpoint.find_checkpoint(directory, run=folder.name, which="last"))
            learnt = learnt_of(saved)
            remembered = resuming.remembered_values(saved)
            resolved = load_recipe(model, overrides=overrides, flags=flags, remembered=remembered)
            changes = resuming.compare_recipes(checkpoint.recipe_of(saved, directory), resolved)
        chosen = group.choose_device(resolved.recipe.training.device)
        with group.joined(chosen):
            session = open_session(resolved, folder, say, learnt, group, chosen, resumed=saved is not None)
            for change in changes:
                say(f"changed: {change}")
            with run_record.recorded(session), logged(session) if group.leads else nullcontext():
                _run(session, stop, saved)
                group.leave()
                done = _finish(session, time.monotonic() - started)
        return run_record.finished(session, done)


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
    kept: Checkpoint | None = None
    if training.keep is not None:
        kept = checkpoint_handler(
            session,
            "epoch-{global_step}.pt",
            session.objects_to_save(),
            training.keep,
            score_function=lambda trainer: session.score(session.history[-1]),
            score_name="score",
            global_step_transform=lambda trainer, event: trainer.state.epoch,
        )
        stateful["kept"] = kept
    early_stopping: EarlyStopping | None = None
    if training.patience is not None:
        early_stopping = EarlyStopping(
            training.patience,
            lambda trainer: session.score(session.history[-1]),
            session.trainer,
            threshold=training.min_delta,
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
        row["loss"] = loss = session.running_loss.take()
        session.check_finite()
        if session.lightning is not None:
            row |= session.lightning.end_epoch(loss)
        elif session.evaluator is not None:
            metrics = run_evaluator(
                session.evaluator, session.splits.validation, session.resolved, *session.share_of_validation
            )
            row |= {f"val_{name}": value for name, value in metrics.items()}
        if not math.isfinite(row.get("val_loss") or 0.0):
            raise session.not_finite("the validation loss")
        session.profile.validated()
        row.setdefault("lr", session.optimizer.param_groups[0]["lr"])
        row |= {name: None for name, value in row.items() if value is not None and not math.isfinite(value)}
        row["seconds"] = round(time.monotonic() - clock["epoch"], 3)
        session.history.append(row)

    def save_best(trainer: Engine) -> None:
        if math.isfinite(session.score(session.history[-1])):
            best(trainer)
            if kept is not None:
                kept(trainer)

    def plateau(trainer: Engine) -> None:
        session.scheduler.after_epoch(trainer, session.score(session.history[-1]))

    def show(trainer: Engine) -> None:
        progress.show_epoch(session.history[-1], session.lightning.shown if session.lightning is not None else ())

    def record(trainer: Engine) -> None:
        write_history(session.folder, session.history)

    def stop_after_epoch(trainer: Engine) -> None:
        if session.group.agree_to_stop(stop) or (session.lightning is not None and session.lightning.stopped):
            trainer.terminate()

    handlers = [
        Handler("clock", Events.EPOCH_STARTED, start_epoch),
        *([Handler("hooks", Events.EPOCH_STARTED, session.lightning.start_epoch)] if session.lightning else []),
        Handler("terminate on NaN", Events.ITERATION_COMPLETED, terminate_on_nan),
        Handler("running loss", Events.ITERATION_COMPLETED, session.running_loss),
        Handler("progress", Events.ITERATION_COMPLETED, progress.show_iteration, writes=True),
        Handler("checkpoint within the epoch", Events.ITERATION_COMPLETED, save_within_epoch),
        Handler("validation", Events.EPOCH_COMPLETED, validate),
        Handler("best checkpoint", Events.EPOCH_COMPLETED, save_best),
        Handler("plateau", Events.EPOCH_COMPLETED, plateau),
    ]
    if session.scheduler.moves:
        handlers.insert(0, Handler("schedule", Events.ITERATION_STARTED, session.scheduler.before_iteration))
    if session.average is not None:
        handlers.insert(0, Handler("weight average", Events.ITERATION_COMPLETED, session.average))
    if early_stopping is not None:
        handlers.append(Handler("early stopping", Events.EPOCH_COMPLETED, early_stopping))
    handlers += [
        Handler("last checkpoint", Events.EPOCH_COMPLETED, save),
        Handler("history", Events.EPOCH_COMPLETED, record, writes=True),
        Handler("line", Events.EPOCH_COMPLETED, show, writes=True),
        Handler("stop", Events.EPOCH_COMPLETED, stop_after_epoch),
    ]
    if not session.group.leads:
        return [handler for handler in handlers if not handler.writes], stateful
    progress.attach(session.trainer)
    return handlers, stateful


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
    if saved is not None:
        session.check(saved)
    if session.lightning is not None:
        session.lightning.begin(saved)
    if saved is not None:
        session.restore(saved, stateful)
    if session.group.leads and saved is None:
        _begin(session, stateful)
    elif session.group.leads:
        write_history(session.folder, session.history)  # a kill may have come between checkpoint and history
    _say_start(session, saved)
    session.profile.attach(session.trainer, first=True)
    for handler in handlers:
        session.trainer.add_event_handler(handler.event, handler.call)
    session.profile.attach(session.trainer, first=False)
    training = session.resolved.recipe.training
    stopped = session.lightning is not None and session.lightning.stopped
    if session.epochs_done >= training.epochs or stopped or _stopped_early(stateful, training.patience):
        return
    stop.deferred = True
    try:
        session.trainer.run(session.batches, max_epochs=training.epochs, epoch_length=len(session.batches))
    except RuntimeError as error:
        died = None if isinstance(error, AuthoringError) else name_the_dead(error) or name_the_lost(error)
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


def _say_nothing(text: str) -> None:
    pass


def _stopped_early(stateful: Mapping[str, Any], patience: int | None) -> bool:
    return patience is not None and stateful["early_stopping"].counter >= patience


def _finish(session: Session, seconds: float) -> Run:
    if session.group.leads:
        write_history(session.folder, session.history)
    line = session.profile.line(session.resolved.recipe.training.workers)
    if line is not None:
        session.say(line)
    best = session.best_row()
    evaluation = None
    epoch = int(best["epoch"] or 0) if best is not None else None
    if session.evaluator is not None and epoch is not None and session.group.leads:
        file = session.folder / checkpoint.CHECKPOINTS / "best.pt"
        saved = checkpoint.load_checkpoint(file)
        if session.lightning is not None:
            session.lightning.go_back(saved)
        checkpoint.load_weights_into(session.model, saved, file)
        with suppress(NothingLoggedError):  # a validation_step that looks without measuring
            evaluation = evaluate(
                session.model, session.splits.validation, session.resolved, session.device, session.splits.labels
            )
    if evaluation is not None:
        parts = {part: round(each, 3) for part, each in session.profile.seconds.items()}
        extra = {"best_epoch": epoch, "epochs": session.epochs_done, "seconds": parts}
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
    share = -(-training.batch_size // session.group.size)
    parts = -(-share // training.micro_batch_size)
    micro = f" in {parts} micro-batches of at most {training.micro_batch_size}" if parts > 1 else ""
    of_module = session.lightning is not None
    lr = session.optimizer.param_groups[0]["lr"] if of_module else session.resolved.recipe.optimizer.lr
    session.say(
        f"batch {training.batch_size}{micro}, {len(session.batches):,} iterations an epoch, "
        f"learning rate {lr:g}{session.scheduler.describe()}"
    )
    if training.monitor in session.resolved.recipe.metric_functions:
        which = "smallest" if runs.lower_is_better(training.monitor) else "largest"
        session.say(f"the best checkpoint is that of the {which} {training.monitor}")
    for line in session.group.describe(session.model, training.batch_size):
        session.say(line)
    if saved is None:
        return
    done, within = divmod(saved["iteration"], len(session.batches))
    position = f"iteration {within + 1} of epoch {done + 1}" if within else f"epoch {done + 1}"
    if done >= training.epochs:
        session.say(f"run {session.folder.name} is complete: {done} of {training.epochs} epochs done")
    else:
        session.say(f"run {session.folder.name} goes on at {position}")
    facts = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "processes": session.group.size}
    for what, now in facts.items():
        if saved.get(what, now) != now:
            session.say(f"note: {what} was {saved[what]}, is now {now}: the result may differ in the last bits")
