"""What the gate costs: an archive checked by `rust-host info` (which needs no libtorch) beside `torch.jit.load` of it.

python benches/gate.py            # the examples' sizes, 10, 100 and 500 MB
python benches/gate.py model.pt
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BINARY = ROOT / "target/release/rust-host"
RUNS = 9

#: In a process of its own, so that this one stays small: a child's peak of memory begins at its parent's.
MAKE = """
import sys, torch
for megabytes in map(float, sys.argv[2:]):
    width = 512
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(max(1, round(megabytes * 1e6 / 4 / width**2)))]
    torch.jit.script(torch.nn.Sequential(*layers).eval()).save(f"{sys.argv[1]}/{megabytes:g} MB.pt")
"""
LOAD = """
import sys, time, torch
times = []
for _ in range(5):
    start = time.perf_counter()
    torch.jit.load(sys.argv[1])
    times.append(time.perf_counter() - start)
print(min(times))
"""


def gate(path: Path) -> tuple[float, float, int]:
    """Seconds on the clock and of a processor (the best of some) and peak bytes of checking the file."""
    best, least, peak = 1e9, 1e9, 0
    for _ in range(RUNS):
        start = time.perf_counter()
        process = subprocess.Popen([BINARY, "info", path], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        best, peak = min(best, time.perf_counter() - start), max(peak, used.ru_maxrss * 1024)
        least = min(least, used.ru_utime + used.ru_stime)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, path
    return best, least, peak


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, "-W", "ignore", "-c", MAKE, folder]
        subprocess.run([*make, "0", "10", "100", "500"], check=True)
        nothing = Path(folder) / "0 MB.pt"
        given = [Path(argument) for argument in sys.argv[1:]]
        files = given or sorted((p for p in Path(folder).iterdir()), key=lambda p: p.stat().st_size)
        start, processor, base = gate(nothing)
        print(f"a process that checks the smallest archive: {start * 1e3:.1f} ms, {base / 1e6:.1f} MB; beyond that:")
        print(f"{'archive':28} {'MB':>7} {'gate ms':>9} {'of a CPU':>9} {'gate MB':>9} {'torch.jit.load ms':>18}")
        for path in files:
            seconds, cpu, peak = gate(path)
            load = [sys.executable, "-W", "ignore", "-c", LOAD, path]
            torch = float(subprocess.run(load, check=True, capture_output=True, text=True).stdout)
            size = path.stat().st_size / 1e6
            clock, busy = (seconds - start) * 1e3, (cpu - processor) * 1e3
            checked = f"{clock:9.1f} {busy:9.1f} {(peak - base) / 1e6:9.1f}"
            print(f"{path.name[-28:]:28} {size:7.1f} {checked} {torch * 1e3:18.1f}")


if __name__ == "__main__":
    main()
