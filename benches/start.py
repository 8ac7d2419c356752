"""From process start to the first prediction: the binary against Python with torch and against the wheel, in turn.

usage: start.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = Path(__file__).parent.parent / "target/release/rust-host"


def seconds(command: list[str | Path]) -> float:
    """Wall time of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(rounds: int = 7) -> None:
    """Prints a line a way, with the ratio to Python and torch pair by pair."""
    import torch

    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "mlp.pt"
        torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))).save(
            str(path)
        )
        python = "import torch; m = torch.jit.load({0!r}); print(m(torch.zeros(1, 4)))"
        wheel = "import numpy as np, rust_host; print(rust_host.Model({0!r})(np.zeros((1, 4), np.float32)))"
        run = [BINARY, "run", path, "--input", "[[0.0, 0.0, 0.0, 0.0]]"]
        ways: dict[str, list[str | Path]] = {
            "python, torch": [sys.executable, "-W", "ignore", "-c", python.format(str(path))],
            "python, rust_host": [sys.executable, "-c", wheel.format(str(path))],
            "rust-host run": run,
            "rust-host info": [BINARY, "info", path],
            "rust-host --help": [BINARY, "--help"],
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for command in ways.values():
            seconds(command)
        for _ in range(rounds):
            for way, command in ways.items():
                times[way].append(seconds(command))
        print(f"\nfrom process start to exit, one prediction: median of {rounds} rounds\n")
        for way, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, times["python, torch"], strict=True))
            print(f"{way:20} {statistics.median(values) * 1e3:9.1f} ms   {ratio:6.3f} x python, torch")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
