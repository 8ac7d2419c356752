"""What a training leaves for people besides its numbers: the state of its run, and a report however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ignite.engine import Events

from py_authoring import report
from py_authoring.errors import AuthoringError, InterruptedRunError, WriteError
from py_authoring.run_folder import Run
from py_authoring.run_state import State, hold, write_state

if TYPE_CHECKING:
    from py_authoring.session import Session


@contextlib.contextmanager
def recorded(session: Session) -> Iterator[None]:
    """Keeps `state.json` right while the block trains; after an error that leaves an epoch, writes the report too.

    A run that was there and is not gone on with, as it is refused or complete, keeps its state whatever is raised.
    """
    if not session.group.leads:  # rank 0 does it
        yield
        return
    ours = not session.folder.exists()
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            nonlocal ours
            ours = True
            stack.enter_context(hold(session.folder))
            write_state(session.folder, "running")

        session.trainer.add_event_handler(Events.STARTED, begin)
        try:
            yield
        except AuthoringError as error:
            state: State = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
            if ours:
                _end(session, state, error.message, error.hint)
                stack.close()  # or the report would call it running
                report.report_training(session, None)
            raise
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if ours:
                _end(session, "interrupted" if interrupted else "failed", type(error).__name__, None)
            raise
        write_state(session.folder, "finished")


def finished(session: Session, run: Run) -> Run:
    """The same run with the path of its report, which is written now."""
    if not session.group.leads:
        return run
    return replace(run, report=report.report_training(session, run.evaluation))


def _end(session: Session, state: State, message: str, hint: str | None) -> None:
    with contextlib.suppress(WriteError):  # the error that ended the training is the one to read
        if session.folder.is_dir():
            write_state(session.folder, state, message, hint)
