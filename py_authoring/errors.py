"""Every error that this package raises on purpose: what a person reads, and what a program can test.

Owns the base class and its children; the command line alone turns them into text and exit codes. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class AuthoringError(Exception):
    """Base of all errors of py_authoring.

    Args:
        message: one sentence, small letter, no full stop, names and values in backticks.
        hint: what to do next, best a command that can be pasted.
        problems: single mistakes, where several were found at once; one line each.

    Attributes:
        kind: a stable word for programs, the same words as the Rust half uses.
        exit_code: what the command line exits with; 1 for failed, 2 for misuse.

    Example:
        >>> error = AuthoringError("no run in `models/x/runs`", hint="`py-authoring train x`")
        >>> error.kind, error.exit_code, str(error)
        ('internal', 1, 'no run in `models/x/runs`')
    """

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n  ".join([self.message, *self.problems])


class UsageError(AuthoringError, ValueError):
    """Arguments that cannot be meant, or that do not fit together."""

    kind = "invalid_input"
    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or a value given for it on the command line, is wrong; all mistakes are in `problems`."""


class NotFoundError(AuthoringError, FileNotFoundError):
    """A model, run, checkpoint or data file is not there."""

    kind = "not_found"
    exit_code = 2


class ModelFileError(AuthoringError, ValueError):
    """The model.py of a model does not load, or does not hold what the recipe names."""

    kind = "invalid_input"
    exit_code = 2


class DataError(AuthoringError, ValueError):
    """The data that a recipe names cannot be read, or does not fit the model."""

    kind = "invalid_input"
    exit_code = 2


class CheckpointError(AuthoringError, ValueError):
    """A checkpoint is damaged, or is none."""

    kind = "invalid_input"


class ResumeError(UsageError):
    """A run cannot go on with this recipe."""

    kind = "refused"


class TrainingError(AuthoringError, RuntimeError):
    """Training cannot go on: the loss is not finite, or the model raised."""


class LostProcessError(TrainingError):
    """Another process of the same training has ended, so that this one cannot go on; why is that one's to say."""


class WriteError(AuthoringError, OSError):
    """A file could not be written; what was there before is untouched."""

    kind = "unavailable"


class DeviceError(AuthoringError, RuntimeError):
    """The device that was asked for is not there."""

    kind = "unavailable"


class UnavailableError(AuthoringError, RuntimeError):
    """A compiler or a package that this needs is not installed here."""

    kind = "unavailable"


class InterruptedRunError(AuthoringError):
    """Ctrl-C or SIGTERM ended the work; the hint says how to go on."""

    kind = "interrupted"
    exit_code = 130


class InvalidContractError(AuthoringError, ValueError):
    """A contract that breaks its own rules, or is of a future version."""

    kind = "invalid_contract"


class RefusedError(AuthoringError, ValueError):
    """An export that would lose something: control flow, a batch size, a device."""

    kind = "refused"


class ParityError(AuthoringError, RuntimeError):
    """The exported model does not compute what the eager one does."""

    kind = "mismatch"


def not_installed(error: Exception) -> AuthoringError | None:
    """A package that is missing, in a sentence: the wheel alone brings NumPy only. None for every other error.

    Args:
        error: of an import; a name with a dot is a part of a package that is there, and a mistake.
    """
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if not name or "." in name:
        return None
    return AuthoringError(f"the package `{name}` is not installed", hint="`pip install 'rust-host[authoring]'`")
