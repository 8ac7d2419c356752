"""A run's folder → `report.html`, the page that a person looks at.

Order of steps: `evidence_file` and `subject` keep what only a training or an evaluation knows; `collect` reads the
folder; `charts` draws by way of `drawing`; `page` writes. A report that fails is one line, and loses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from py_authoring import atomic
from py_authoring.errors import UnavailableError

if TYPE_CHECKING:
    from py_authoring.evaluation import Evaluation
    from py_authoring.session import Session

REPORT_FILE = "report.html"
Drawn = TypeVar("Drawn")


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run's folder, from what lies there; atomically.

    Args:
        folder: `models/NAME/runs/<run>`, finished or not.

    Returns:
        The file.

    Raises:
        UnavailableError: matplotlib or Jinja2 is not installed.
        WriteError: the old file is untouched.
    """
    check_packages()
    from py_authoring.report.collect import read_run
    from py_authoring.report.page import render_report

    file = folder / REPORT_FILE
    atomic.write_text(file, render_report(read_run(folder)))
    return file


def check_packages() -> None:
    """Raises:
    UnavailableError: a package that draws is not installed; says which, and the command.
    """
    from importlib.util import find_spec

    missing = [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        packages = "package" + "s" * (len(missing) > 1)
        raise UnavailableError(
            f"a report needs the Python {packages} {' and '.join(missing)}, not installed here",
            hint=f"`pip install {' '.join(missing)}`, or with this project `pip install 'rust-host[authoring]'`",
        )


def report_training(session: Session, evaluation: Evaluation | None) -> Path | None:
    """The report of a training that ended, in whatever way; None, and one line, where there is none to write."""
    if not session.history or not session.folder.is_dir():
        return None

    def write() -> Path:
        from py_authoring.report.evidence_file import update_evidence
        from py_authoring.report.subject import describe_data, describe_model

        dataset = None
        with contextlib.suppress(Exception):  # a dataset of a user's own can raise anything: then its part is missing
            classes = session.resolved.recipe.task == "classification"
            if session.lightning is not None:  # its recipe has no loss that would tell
                learnt = session.splits.learnt
                classes = learnt is not None and learnt.class_counts is not None
            dataset = describe_data(session.splits, session.data_sha256, classes)
        splits = _evidence_of("validation", evaluation, "best.pt", session.splits.name, session.epochs_done)
        update_evidence(session.folder, dataset=dataset, model=describe_model(session.model), splits=splits)
        return write_report(session.folder)

    return or_say(write, session.say)


def report_evaluation(
    folder: Path, split: str, evaluation: Evaluation, checkpoint: str, data: str, say: Callable[[str], None]
) -> Path | None:
    """The report of a run after a split was measured; None, and one line, where it could not be written.

    Args:
        folder: the run's.
        split: train, validation or test.
        evaluation: what came of it.
        checkpoint: the name of the file that was measured.
        data: the name of the data, which may be other than what the run saw.
        say: takes the line.
    """

    def write() -> Path:
        from py_authoring.report.evidence_file import update_evidence
        from py_authoring.runs import read_history

        after = len(read_history(folder))
        update_evidence(folder, splits=_evidence_of(split, evaluation, checkpoint, data, after))
        return write_report(folder)

    return or_say(write, say)


def or_say(write: Callable[[], Drawn], say: Callable[[str], None], what: str = "report") -> Drawn | None:
    """What `write` gives, or None and one line: a page to look at is never worth the work that it shows."""
    try:
        return write()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"note: no {what}: {reason}")
        return None


def _evidence_of(
    split: str, evaluation: Evaluation | None, checkpoint: str, data: str, after: int
) -> dict[str, dict[str, object]]:
    if evaluation is None:
        return {}
    seen = evaluation.evidence.to_dict() if evaluation.evidence is not None else {}
    return {split: {**seen, "checkpoint": checkpoint, "data": data, "after": after}}
