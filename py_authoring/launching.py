"""One training in several processes of this machine: starting them, listening to them, and ending all with one of them.

In: what `train` was given. Out: the `Run` of rank 0, or one sentence about what ended it. Each process finds its place
in the environment variables that torchrun sets too, so that both ways start the same training. No torch here.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from py_authoring.errors import AuthoringError, InterruptedRunError, LostProcessError, TrainingError, UsageError
from py_authoring.recipe import find_model
from py_authoring.runs import command_name
from py_authoring.stopping import Say, StopSignal, interruptible

#: How long the others may take to notice that one has ended, and to say what they must, before they are killed.
SECONDS_TO_END = 10.0
#: The same where one has ended by itself: rank 0 may still be writing a checkpoint and the report.
SECONDS_TO_WRITE = 60.0
_STORE = "PY_AUTHORING_STORE"  # where processes that `launch` started find each other
_START = "from py_authoring.launching import work; work()"


def rank() -> int:
    """The number of this process among those of its training; 0 where it is alone."""
    return int(os.environ.get("RANK", 0))


def size() -> int:
    """How many processes train together: 1, unless `launch` or torchrun started this one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def store() -> str | None:
    """The address at which the processes of `launch` meet; None under torchrun, which has a way of its own."""
    return os.environ.get(_STORE)


@dataclass
class _Process:
    """A process of the training, what it has written to stderr (rank 0 writes to ours), and its last word."""

    rank: int
    popen: subprocess.Popen[bytes]
    reader: Connection
    stderr: IO[bytes] | None
    outcome: Any = None
    trace: str | None = None
    asked_to_end: bool = False
    open: bool = True


def launch(nproc: int, model: str | Path, arguments: Mapping[str, Any], say: Say) -> Any:
    """Trains in `nproc` processes of this machine.

    Args:
        nproc: how many, at least 2.
        model: as `train` takes it.
        arguments: the other arguments of `train`; JSON values.
        say: takes each line for a person.

    Returns:
        What `train` returned in rank 0.

    Raises:
        UsageError: this process is itself one of several.
        TrainingError: a process was killed; names its rank and the signal.
        InterruptedRunError: a signal ended it; all stopped after the same iteration, with a checkpoint.
        AuthoringError: what a process raised, once.
    """
    if size() > 1:
        raise UsageError(f"`--nproc {nproc}` in a process that torchrun started", hint="leave one of the two away")
    directory = find_model(model)
    with (
        interruptible(directory),
        StopSignal(say) as stop,
        tempfile.TemporaryDirectory(prefix="py-authoring-") as folder,
        contextlib.ExitStack() as stack,
    ):
        given = json.dumps({"model": str(model), **arguments, "argv": sys.argv}) + "\n"
        processes: list[_Process] = []
        stack.callback(_kill, processes)
        for number in range(nproc):
            processes.append(_start(number, nproc, folder, given))
        stop.deferred = True
        _listen(processes, stop, say)
        return _judge(processes, directory, interrupted=stop.received is not None)


def _start(number: int, nproc: int, folder: str, given: str) -> _Process:
    environment = {
        **os.environ,
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        _STORE: f"file://{folder}/store",
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    # all are on this machine: its own name, which gloo would look up, may lead anywhere
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    reader, writer = Pipe(duplex=False)
    errors = tempfile.TemporaryFile() if number else None  # noqa: SIM115 (closed with its process)
    popen = subprocess.Popen(
        [sys.executable, "-c", _START, str(writer.fileno())],
        env=environment,
        stdin=subprocess.PIPE,  # stays open: its end tells the process that we are gone
        stdout=subprocess.DEVNULL if number else 2,
        stderr=errors,
        pass_fds=[writer.fileno()],
        start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on
    )
    writer.close()
    assert popen.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once: seen below
        popen.stdin.write(given.encode())
        popen.stdin.flush()
    return _Process(number, popen, reader, errors)


def _listen(processes: list[_Process], stop: StopSignal, say: Say) -> None:
    deadline = None
    while any(process.popen.poll() is None for process in processes):
        _hear(processes, say)
        if stop.received is not None:
            _ask_to_end(processes)
        codes = [process.popen.poll() for process in processes]
        ended = [code for code in codes if code not in (None, 0, InterruptedRunError.exit_code)]
        if ended:
            seconds = SECONDS_TO_END if any(code < 0 for code in ended if code is not None) else SECONDS_TO_WRITE
            deadline = deadline or time.monotonic() + seconds
            if time.monotonic() > deadline:
                return  # the caller kills those that are left
    _hear(processes, say)


def _hear(processes: list[_Process], say: Say) -> None:
    by_reader: dict[Any, _Process] = {process.reader: process for process in processes if process.open}
    if not by_reader:
        time.sleep(0.05)
        return
    for reader in wait(list(by_reader), timeout=0.1):
        process = by_reader[reader]
        try:
            while process.reader.poll():
                word, value, trace = pickle.loads(process.reader.recv_bytes())
                if word == "say":
                    say(value)
                else:
                    process.outcome, process.trace = value, trace
        except (EOFError, OSError):
            process.open = False


def _ask_to_end(processes: list[_Process]) -> None:
    for process in processes:
        if not process.asked_to_end:
            process.asked_to_end = True
            process.popen.terminate()


def _kill(processes: list[_Process]) -> None:
    for process in processes:
        if process.popen.poll() is None:
            process.asked_to_end = True
            process.popen.kill()
            process.popen.wait()
        process.reader.close()
        if process.popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.popen.stdin.close()
        if process.stderr is not None:
            process.stderr.close()


# The first cause is what to say: that another process is gone is all that the rest can tell of it.
def _judge(processes: list[_Process], directory: Path, *, interrupted: bool) -> Any:
    codes = [process.popen.poll() for process in processes]
    if all(code == 0 for code in codes):
        return processes[0].outcome
    for process, code in zip(processes, codes, strict=True):
        if code is not None and code < 0 and not process.asked_to_end:
            raise TrainingError(
                f"rank {process.rank} of {len(processes)} (process {process.popen.pid}) was killed by "
                f"{signal.Signals(-code).name}",
                hint=f"`py-authoring train {command_name(directory)} --resume` goes on from the last checkpoint, with "
                "any `--nproc`; out of memory: fewer processes",
            )
    raised = [process for process in processes if isinstance(process.outcome, AuthoringError)]
    for kind in (InterruptedRunError, AuthoringError):
        for process in raised:
            if isinstance(process.outcome, kind) and not isinstance(process.outcome, LostProcessError):
                raise process.outcome from _Remote(process.trace)
    if interrupted:
        raise KeyboardInterrupt
    for process, code in zip(processes, codes, strict=True):
        if code not in (0, None) and process.outcome is None and not process.asked_to_end:
            raise TrainingError(f"rank {process.rank} ended with exit code {code}{_last_line(process)}")
    for process in raised:
        raise process.outcome from _Remote(process.trace)
    raise TrainingError("the processes of this training ended without a word")


def _last_line(process: _Process) -> str:
    if process.stderr is None:
        return ""
    process.stderr.seek(0)
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


class _Remote(Exception):
    """The traceback of another process, for `--debug`."""


def work() -> None:
    """What a process does that `launch` started: trains, and tells the other end of its pipe how it went."""
    parent = Connection(int(sys.argv[1]), readable=False)
    arguments = json.loads(sys.stdin.readline())
    sys.argv[:] = arguments.pop("argv")
    orphaned = threading.Event()
    threading.Thread(target=_end_with_parent, args=(orphaned,), daemon=True).start()

    def tell(word: str, value: Any, trace: str | None = None) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            parent.send_bytes(pickle.dumps((word, value, trace)))

    try:
        from py_authoring.training import train

        run = train(**arguments, say=lambda text: tell("say", text))
    except AuthoringError as error:
        tell("end", error, traceback.format_exc())
        sys.exit(error.exit_code)
    except Exception as error:
        text = (str(error).strip() or "no message").splitlines()[0]
        tell("end", AuthoringError(f"{type(error).__name__}: {text}"), traceback.format_exc())
        sys.exit(1)
    else:
        tell("end", run if rank() == 0 else None)
    finally:
        if orphaned.is_set():  # the one who made the folder cannot remove it
            shutil.rmtree(Path(os.environ[_STORE].removeprefix("file://")).parent, ignore_errors=True)


def _end_with_parent(orphaned: threading.Event) -> None:
    while os.read(0, 1):
        pass
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(1)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Under torchrun, lets one process alone say what went wrong: the first to fail, or rank 0 before they have met.

    The others exit with the same code and say nothing.
    """
    try:
        yield
    except KeyboardInterrupt:
        if rank() > 0:
            sys.exit(130)
        raise
    except AuthoringError as error:
        if size() > 1 and not _speaks(error):
            sys.exit(error.exit_code)
        raise


def _speaks(error: AuthoringError) -> bool:
    if isinstance(error, InterruptedRunError) or "torch" not in sys.modules:  # all say it, and at the same time
        return rank() == 0
    if isinstance(error, LostProcessError):
        time.sleep(1)  # for the one that knows more
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", 0))
    try:
        shared = TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=5))
        return bool(shared.add("py_authoring/failed", 1) == 1)
    except RuntimeError:  # it went with rank 0
        return True
