"""Microseconds of a call from C: a library of `rust-host build --header`, beside rust-host and ONNX Runtime.

usage: calls.py [ROUNDS] [SECONDS]      default 3 rounds of 0.5 s a cell; about 5 minutes

Models, inputs, blocks and pauses are those of peers.py, whose files are taken, or made where they are not there.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from peers import BATCHES, BENCH, BINARY, HERE, MODELS, PAUSE, Worker, build, files, folder_of, machine, versions

PEERS = ("binary .pt2", "ONNX Runtime")


def library(name: str) -> Path:
    """The program that measures the model's library, compiled anew."""
    folder = BENCH / "libraries" / name
    words = [BINARY, "build", folder_of(name) / "model.pt2", "-o", folder, "--header"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    defined = [f'-DHEADER="{name}.h"', f"-DRUN={name}_run", f"-DERROR={name}_error"]
    program = folder / "calls"
    words = ["cc", "-O2", *defined, HERE / "calls.c", f"-I{folder}", f"-L{folder}", f"-l{name}", "-o", program]
    subprocess.run(words, check=True)
    return program


class Library(Worker):
    """A program that is started for each block."""

    def __init__(self, program: Path, name: str, threads: int) -> None:
        self.engine, self.name, self.threads, self.process = "C library", name, threads, None
        self.program = program
        with zipfile.ZipFile(folder_of(name) / "model.pt2") as package:
            member = next(each for each in package.namelist() if each.endswith("contract.json"))
            contract = json.loads(package.read(member))
        self.numbers = [math.prod(contract[part][0]["shape"][1:]) for part in ("inputs", "outputs")]

    def command(self, batch: int, seconds: float) -> list[str | Path]:
        """What measures one block."""
        return ["env", f"OMP_NUM_THREADS={self.threads}", self.program, *map(str, (batch, *self.numbers, seconds))]


def main(rounds: int = 3, seconds: float = 0.5) -> None:
    """Prints a table."""
    where = machine()
    build()
    files(list(MODELS))
    programs = {name: library(name) for name in MODELS}
    print(f"{where}; {versions()}\n")
    heads = [f"{batch} row{'s' * (batch > 1)}, {threads}" for threads in (1, 2) for batch in BATCHES]
    print(f"{'µs, rows and threads':36}" + "".join(f"{head:>14}" for head in heads))
    for name, (title, _) in MODELS.items():
        engines = ("C library", *PEERS)
        cells: dict[str, list[float]] = {engine: [] for engine in engines}
        for threads in (1, 2):
            workers = [Library(programs[name], name, threads), *(Worker(engine, name, threads) for engine in PEERS)]
            for batch in BATCHES:
                times: dict[str, list[float]] = {engine: [] for engine in engines}
                for _ in range(rounds):
                    for worker in random.sample(workers, len(workers)):
                        time.sleep(PAUSE)
                        times[worker.engine].append(worker.median(batch, seconds))
                for engine in engines:
                    cells[engine].append(statistics.median(times[engine]))
            for worker in workers:
                worker.close()
        for engine in engines:
            print(f"{title + ', ' + engine:36}" + "".join(f"{us:14,.2f}" for us in cells[engine]), flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:1]), *map(float, given[1:2]))
