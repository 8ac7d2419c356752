"""The errors of rust_host: one base, one child for each kind, each child also a builtin where one fits."""

from __future__ import annotations

import builtins


class Error(Exception):
    """Base of all errors of rust_host.

    Attributes:
        kind: the kind as a stable word, for example ``"invalid_input"``; the same words as in ``rust-host … --json``.
        hint: what to do about it, best as something that can be pasted; ``None`` if there is nothing to say.
        cause: the error below this one, as text; ``None`` if there is none.
    """

    kind: str = "internal"
    hint: str | None = None
    cause: str | None = None

    def __init__(self, message: str = "", *, hint: str | None = None, cause: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.cause = cause

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else ""
        return f"{text}\nhint: {self.hint}" if self.hint else text


class NotFoundError(Error, FileNotFoundError):
    """A file, folder or device number that is not there."""

    kind = "not_found"


class InvalidInputError(Error, ValueError):
    """An argument that does not fit what the model takes."""

    kind = "invalid_input"


class InvalidModelError(Error, ValueError):
    """A file that is not a model, or a damaged one."""

    kind = "invalid_model"


class InvalidContractError(Error, ValueError):
    """A contract that cannot be read, contradicts itself or the model, or is of a later format."""

    kind = "invalid_contract"


class RefusedError(Error):
    """A file that asks for what a model has no business with."""

    kind = "refused"


class MismatchError(Error):
    """A result that is not what the contract says."""

    kind = "mismatch"


class FailedError(Error, RuntimeError):
    """The model's own code raised an error, or libtorch did while running it."""

    kind = "failed"


class UnavailableError(Error, RuntimeError):
    """Something this machine lacks: CUDA, memory, permission to read a file."""

    kind = "unavailable"


class OverloadedError(Error, RuntimeError):
    """More requests than can be queued."""

    kind = "overloaded"


class TimeoutError(Error, builtins.TimeoutError):
    """The time that was given is over."""

    kind = "timeout"


class InternalError(Error, RuntimeError):
    """A mistake in rust_host."""

    kind = "internal"
