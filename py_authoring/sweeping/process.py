"""One training in a process of its own, which any crash of it leaves the sweep untouched by.

In: a model, a run's name, values. Out: a process that can be asked how it went. No torch here.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import py_authoring
from py_authoring.errors import WriteError

_PR_SET_PDEATHSIG = 1


class TrialProcess:
    """`py-authoring train` of one run.

    It is in a process group of its own, so that Ctrl-C reaches it through `stop` alone, and the kernel stops it, with a
    checkpoint, if the sweep's process is killed.

    Args:
        directory: the model's folder.
        run: the run's name.
        overrides: `key=value` texts; None goes on with a run that is there.
        log: takes what it says, its error, and what model.py prints.
        threads: how many torch may use; None leaves it to torch.

    Raises:
        WriteError: the log cannot be written.
    """

    def __init__(
        self, directory: Path, run: str, overrides: Sequence[str] | None, log: Path, threads: int | None
    ) -> None:
        words = [word for override in overrides or () for word in ("--set", override)]
        if overrides is None:
            words = ["--resume"]
        command = [sys.executable, "-m", "py_authoring", "train", str(directory), "--run", run, *words, "--json"]
        self._log = log
        self._answer = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, closed when the process is gone
        try:
            with log.open("a", encoding="utf-8") as said:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._answer,
                    stderr=said,
                    env=_environment(threads),
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                )
        except OSError as error:
            self._answer.close()
            raise WriteError(f"a trial cannot be started: {error.strerror or error}") from error

    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Asks it to save a checkpoint and end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, with the processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def message(self) -> str | None:
        """Why it failed, once it is gone; None if it did not. Writes into the log what stdout has."""
        code = self._process.wait()
        self._answer.seek(0)
        printed, error = _parse(self._answer.read())
        self._answer.close()
        hint = error.get("hint")
        said = [printed, f"error: {error['message']}" if error else "", f"hint: {hint}" if hint else ""]
        with suppress(OSError), self._log.open("a", encoding="utf-8") as log:  # the trial's result does not hang on it
            log.write("".join(f"{text}\n" for text in said if text))
        if code == 0:
            return None
        if code < 0:
            with suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name}"
        return str(error["message"]) if error else f"its process ended with exit code {code}"


# What model.py prints is on the same stdout as the one document, which begins at the last `{` with keys two deep.
def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """What was printed beside the document, and the document's error: message and hint; empty without one."""
    start = text.rfind('{\n  "')
    try:
        document, length = json.JSONDecoder().raw_decode(text[start:] if start >= 0 else "")
    except ValueError:
        return text.strip(), {}
    printed = (text[:start] + text[start + length :]).strip()
    error = document.get("error") if isinstance(document, dict) else None
    return printed, error if isinstance(error, dict) and "message" in error else {}


def _environment(threads: int | None) -> dict[str, str]:
    environment = dict(os.environ)
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    root = Path(py_authoring.__file__).resolve().parents[1]
    if root.name != "site-packages":  # not installed: the child must find the same package as this process
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return environment


# Between fork and exec only this one call is made, of a library that is loaded already.
def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent, arguments = os.getpid(), (_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    def ask() -> None:
        prctl(*arguments)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return ask
