"""Runs the cells of test_values.py in children that may die: `ours|theirs FOLDER PART PARTS SECONDS`.

`ours` calls the files with rust_host, `theirs` with torch.jit; each writes one pickled answer a cell into FOLDER. Two
programs, because the checks that rust_host puts into libtorch hold for the whole process.
"""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import value_models

#: Not less: the virtual memory of libtorch with CUDA's libraries is some gigabytes.
MOST_MEMORY = 24 << 30

Cell = tuple[str, str, Any]  # file, words, given


def cells(folder: Path, part: int, parts: int) -> Iterator[Cell]:
    """Every model with every input, or each `parts`th of them."""
    given = {kind: value_models.inputs(kind) for kind in "xnfs"}
    number = 0
    for i, (kind, expression) in enumerate(value_models.kinds()):
        for words, value in given[kind]:
            number += 1
            if number % parts == part:
                yield str(folder / f"{i}.pt"), f"{expression} with {words}", value


def plain(value: Any) -> Any:
    """An answer without tensors, that can be compared."""
    if isinstance(value, torch.Tensor):
        whole = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        data = whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""
        return (str(value.dtype), tuple(value.shape), data)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def ours() -> Callable[[str], Callable[[Any], Any]]:
    import rust_host

    def load(path: str) -> Callable[[Any], Any]:
        model = rust_host.Model(path, "cpu", to="torch")

        def call(value: Any) -> Any:
            try:
                return plain(model(value))
            except rust_host.Error as e:
                return e

        return call

    return load


def theirs() -> Callable[[str], Callable[[Any], Any]]:
    def load(path: str) -> Callable[[Any], Any]:
        model = torch.jit.load(path, map_location="cpu").eval()

        def call(value: Any) -> Any:
            try:
                with torch.inference_mode():
                    return plain(model(value))
            except Exception as e:
                return e

        return call

    return load


def child(load: Callable[[str], Any], todo: list[Cell], first: int, at: mmap.mmap, out: Path) -> None:
    """Answers from the first cell on, and says before each where it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # what dies says so there
    torch.set_num_threads(1)
    opened = ""
    call: Any = None
    with out.open("ab") as file:
        for i in range(first, len(todo)):
            path, _, value = todo[i]
            at[:8] = struct.pack("<q", i)
            if path != opened:
                try:
                    call = load(path)
                except Exception as e:
                    call = e
                opened = path
            given = value.clone() if isinstance(value, torch.Tensor) else value
            answer = call if isinstance(call, Exception) else call(given)
            if isinstance(answer, Exception):
                answer = ("raises", type(answer).__module__ + "." + type(answer).__name__, str(answer)[-300:])
            else:
                answer = ("answers", answer)
            pickle.dump((i, answer), file)
            file.flush()


def main() -> None:
    side, folder, part, parts, seconds = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    warnings.simplefilter("ignore")
    load = {"ours": ours, "theirs": theirs}[side]()
    todo = list(cells(folder, part, parts))
    out = folder / f"{side}.pickles"
    out.unlink(missing_ok=True)
    at = mmap.mmap(-1, 8)
    next_cell = 0
    while next_cell < len(todo):
        at[:8] = struct.pack("<q", next_cell)
        pid = os.fork()
        if pid == 0:
            try:
                child(load, todo, next_cell, at, out)
            finally:
                os._exit(0)
        last, since, killed = -1, time.monotonic(), False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            now = struct.unpack("<q", at[:8])[0]
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > seconds:
                killed = True
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        reached = struct.unpack("<q", at[:8])[0]
        if os.WIFEXITED(status) and reached == len(todo) - 1:
            break
        how = "hangs" if killed else f"died of {os.WTERMSIG(status) if os.WIFSIGNALED(status) else status}"
        with out.open("ab") as file:
            pickle.dump((reached, (how,)), file)
        next_cell = reached + 1


if __name__ == "__main__":
    main()
