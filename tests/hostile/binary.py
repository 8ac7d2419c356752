"""Runs the binary on bytes, and says how it went. (Without torch: a child's peak is seen only above its parent's.)"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BINARY = Path(os.environ.get("RUST_HOST", Path(__file__).parents[2] / "target/release/rust-host"))


@dataclass
class Answer:
    """What the binary did."""

    code: int
    out: str
    seconds: float
    #: Seconds of a processor, on however busy a machine.
    cpu: float
    #: Bytes; 0 where it is hidden, because a child's peak begins at its parent's.
    peak: int
    files: list[str]


def ask(data: bytes, *arguments: str, seconds: float = 10, command: str = "run") -> Answer:
    """Runs the binary on the bytes, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.pt"
        path.write_bytes(data)
        start = time.monotonic()
        with (Path(folder) / "out").open("wb+") as out:
            process = subprocess.Popen(
                [BINARY, command, "m.pt", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            timer_ended = False
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - start > seconds:
                    process.kill()
                    _, status, used = os.wait4(process.pid, 0)
                    timer_ended = True
                    break
                time.sleep(0.002)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read(100_000).decode(errors="replace")
        names = sorted(p.name for p in Path(folder).iterdir() if p.name not in ("m.pt", "out"))
        code = 1000 if timer_ended else process.returncode
        cpu = used.ru_utime + used.ru_stime
        hidden = used.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Answer(code, text, time.monotonic() - start, cpu, 0 if hidden else used.ru_maxrss * 1024, names)


ONES = "[[1,1,1,1],[1,1,1,1],[1,1,1,1],[1,1,1,1.5]]"
