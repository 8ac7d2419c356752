"""Training → TensorBoard and MLflow (`training.loggers`), through Ignite's handlers.

In: the loss of some iterations, the row of each epoch. Out: `tensorboard/` in the run's folder, a run of MLflow. What
they cannot take never ends a training: one line says so, and the logger is left out from then on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from ignite.handlers.base_logger import BaseLogger, BaseOutputHandler

from py_authoring import atomic
from py_authoring.errors import InterruptedRunError, UnavailableError
from py_authoring.recipe import flatten
from py_authoring.run_folder import Row
from py_authoring.runs import read_json

if TYPE_CHECKING:
    from py_authoring.session import Session

TENSORBOARD = "tensorboard"
MLFLOW_FILE = "mlflow.json"
_ITERATIONS_BETWEEN_LOSSES = 50
# A server that is gone would hold up the training for minutes: 7 retries of 120 s each are MLflow's own.
_PATIENCE_WITH_A_SERVER = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def check_installed(names: Sequence[str]) -> None:
    """Finds out before a training what its recipe's loggers lack.

    Raises:
        UnavailableError: a package is not installed; names the extra that brings it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UnavailableError(
                f'training.loggers has "{name}", and the Python package {name} is not installed here',
                hint=f"`pip install 'rust-host[{name}]'`",
            )


@contextlib.contextmanager
def logged(session: Session) -> Iterator[None]:
    """Logs what the block trains; a resumed run goes on in its own log."""
    loggers: list[_Guarded] = []

    def begin() -> None:
        # only now, since a run that is complete logs nothing; and after validation, whose row an epoch's event takes
        for name in session.resolved.recipe.training.loggers:
            loggers.append(_Guarded(name, session))
            loggers[-1].open(_OPEN[name])

    session.trainer.add_event_handler(Events.STARTED, begin)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (InterruptedRunError, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        for logger in loggers:
            logger.close(status)


class _Guarded:
    """A logger of which no failure gets through: after the first it is silent, and that is said."""

    def __init__(self, name: str, session: Session) -> None:
        self.name, self.session = name, session
        self._failed = False
        self._close: Callable[[str], None] | None = None
        self._stack = contextlib.ExitStack()

    def open(self, how: Callable[[Session, contextlib.ExitStack], _Opened]) -> None:
        with self._guard():
            logger, handler_class, self._close = how(self.session, self._stack)
            trainer = self.session.trainer
            every = Events.ITERATION_COMPLETED(every=_ITERATIONS_BETWEEN_LOSSES)
            loss = handler_class("training", output_transform=lambda loss: {"batch_loss": loss})
            trainer.add_event_handler(every, self._log, logger, loss, Events.ITERATION_COMPLETED)
            for tag, keys in (("training", _of_training), ("validation", _of_validation)):
                row = handler_class(
                    tag,
                    output_transform=lambda _, keys=keys: keys(self.session.history[-1]),
                    global_step_transform=lambda *_: trainer.state.iteration,
                )
                trainer.add_event_handler(Events.EPOCH_COMPLETED, self._log, logger, row, Events.EPOCH_COMPLETED)

    def close(self, status: str) -> None:
        with self._guard():
            if self._close is not None:
                self._close(status)
        with contextlib.suppress(Exception):
            self._stack.close()

    def _log(self, trainer: Engine, logger: BaseLogger, handler: BaseOutputHandler, event: Events) -> None:
        if self._failed:
            return
        with self._guard():
            handler(trainer, logger, event)
            if event == Events.EPOCH_COMPLETED and hasattr(logger, "writer"):
                logger.writer.flush()  # a page that is open shows the epoch, and a full disk is noticed

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            told, self._failed = self._failed, True
            if told:
                return
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.session.say(f"note: {self.name} logs no more of this training: {reason}")


_Opened = tuple[Any, Callable[..., BaseOutputHandler], Callable[[str], None]]


def _of_training(row: Row) -> dict[str, float]:
    return {key: row[key] for key in ("loss", "lr", "seconds") if row.get(key) is not None}  # type: ignore[misc]


def _of_validation(row: Row) -> dict[str, float]:
    return {key[4:]: value for key, value in row.items() if key.startswith("val_") and value is not None}


def _open_tensorboard(session: Session, stack: contextlib.ExitStack) -> _Opened:
    from ignite.handlers.tensorboard_logger import OutputHandler, TensorboardLogger

    stack.enter_context(_without_tracebacks_of_its_threads())
    # What was logged after the checkpoint from which a run goes on is dropped by who reads the files.
    done = session.trainer.state.iteration
    folder = session.folder / TENSORBOARD
    logger = TensorboardLogger(log_dir=str(folder), purge_step=done + 1 if done else None)
    return logger, OutputHandler, lambda status: logger.close()


def _open_mlflow(session: Session, stack: contextlib.ExitStack) -> _Opened:
    stack.enter_context(_environment({**_PATIENCE_WITH_A_SERVER, "MLFLOW_ALLOW_FILE_STORE": "true"}))
    import mlflow
    from ignite.handlers.mlflow_logger import MLflowLogger, OutputHandler

    file = session.folder / MLFLOW_FILE
    before = read_json(file)
    own = mlflow.active_run() is None  # a program that trains within a run of its own keeps it
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if before:
        stack.enter_context(_tracking_to(before["tracking_uri"]))
    elif own and "MLFLOW_TRACKING_URI" not in os.environ:
        stack.enter_context(_tracking_to(Path("mlruns").resolve().as_uri()))
    if own and before:
        mlflow.start_run(run_id=before["run_id"])
    elif own:
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            mlflow.set_experiment(session.resolved.name)
        mlflow.start_run(run_name=session.folder.name)
    logger = MLflowLogger()
    assert logger.active_run is not None
    if not before:
        values = flatten(session.resolved.to_dict())
        mlflow.log_params({key: value for key, value in values.items() if value is not None})
        place = {"run_id": logger.active_run.info.run_id, "tracking_uri": mlflow.get_tracking_uri()}
        atomic.write_text(file, json.dumps(place, indent=2) + "\n")

    def close(status: str) -> None:
        if own:
            mlflow.end_run(status)

    return logger, OutputHandler, close


_OPEN: dict[str, Callable[[Session, contextlib.ExitStack], _Opened]] = {
    "tensorboard": _open_tensorboard,
    "mlflow": _open_mlflow,
}


@contextlib.contextmanager
def _tracking_to(uri: str) -> Iterator[None]:
    import mlflow

    before = mlflow.get_tracking_uri() if "MLFLOW_TRACKING_URI" in os.environ else None
    mlflow.set_tracking_uri(uri)  # sets the variable too
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    added = [key for key in values if key not in os.environ]
    os.environ.update({key: values[key] for key in added})
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


# TensorBoard writes from a thread that prints what it raises; the same exception reaches the next call, and is told.
@contextlib.contextmanager
def _without_tracebacks_of_its_threads() -> Iterator[None]:
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
