"""What a long life costs in memory: calls, shapes and loads of each kind of file, in the binary's way and the wheel.

usage: soak.py [SECONDS]      the longest that one curve may take (default 60); a slow model then makes fewer calls

Writes docs/pictures/memory.csv and memory.png. One process a curve, one thread; torch itself is not imported in it.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import engine

TOP = Path(__file__).parent.parent
PICTURES = TOP / "docs/pictures"

# Title: what is counted, model, file, how many, the shape of its input with what changes from call to call.
CURVES = {
    "MLP, one shape": ("calls", "mlp", "model.pt", 2_000_000, "1,4"),
    "Net, batch 1 to 32": ("calls", "net", "model.pt", 20_000, "1..32,1,28,28"),
    "ResNet-18, batch 1 to 2, 64 to 128 pixels": ("calls", "resnet", "model.pt", 20_000, "1..2,3,64..128,64..128"),
    "LSTM, batch 1 to 8, length 4 to 64": ("calls", "lstm", "model.pt", 20_000, "1..8,4..64,64"),
    "transformer, batch 1 to 4, length 4 to 64": ("calls", "transformer", "model.pt", 20_000, "1..4,4..64,256"),
    "Net compiled, batch 1 to 32": ("calls", "net", "model.pt2", 20_000, "1..32,1,28,28"),
    "Net, loaded and unloaded": ("loads", "net", "model.pt", 1_000, "1,1,28,28"),
    "Net compiled, loaded and unloaded": ("loads", "net", "model.pt2", 1_000, "1,1,28,28"),
    "Net for ONNX, loaded and unloaded": ("loads", "net", "model.onnx", 1_000, "1,1,28,28"),
}

WHEEL = """
import sys, time
import numpy as np
import rust_host
what, path, count, limit, text = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
ranges = [tuple(map(int, (size.split("..") * 2)[:2])) for size in text.split(",")]
state = 1
def within(first, last):
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return first + (state >> 33) % (last - first + 1)
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
rust_host.set_threads(1)
load = lambda: rust_host.Model(path, device="cpu")
kept = load() if what == "calls" else None
start = last = time.perf_counter()
for done in range(1, count + 1):
    (kept or load())(np.full([within(*r) for r in ranges], 0.5, np.float32))
    now = time.perf_counter()
    over = now - start > limit
    if done == 10 or done % -(-count // 100) == 0 or now - last > limit / 100 or over:
        last = now
        print(done, resident())
    if over:
        break
"""

# What the wheel's user can set, because a process of Python is not ours to change.
BOUNDED = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}


def example() -> Path:
    """The program in rust_host/loader/examples, built, with the backend where it looks for it."""
    build = ["cargo", "build", "--release", "--locked", "--quiet"]
    subprocess.run([*build, "-p", "rust-host-torch-library"], cwd=TOP, check=True)
    subprocess.run([*build, "-p", "rust-host-loader", "--features", "onnx", "--example", "soak"], cwd=TOP, check=True)
    program = TOP / "target/release/examples/soak"
    backend = program.parent / "librust_host_torch_library.so"
    backend.unlink(missing_ok=True)
    backend.symlink_to("../librust_host_torch_library.so")
    return program


def run(command: list[str | Path], setting: dict[str, str]) -> list[tuple[int, int]]:
    """Pairs of what was done and resident bytes."""
    clean = {k: v for k, v in os.environ.items() if k not in BOUNDED}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=clean | setting)
    lines = [line.split() for line in out.stdout.splitlines()]
    return [(int(done), int(size)) for done, size in lines]


def draw(rows: dict[str, dict[str, list[tuple[int, int]]]], path: Path) -> None:
    """A small panel a curve, all on one scale of growth, so that a flat one looks flat."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 3, figsize=(11, 7.5), sharey=True, layout="constrained")
    for panel, (title, ways) in zip(panels.flat, rows.items(), strict=True):
        for way, points in ways.items():
            first = points[0][1]
            panel.plot([n for n, _ in points], [(size - first) / 1e6 for _, size in points], label=way)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("loads" if "loaded" in title else "calls", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        panel.grid(alpha=0.3)
    for panel in panels[:, 0]:
        panel.set_ylabel("MB more than after 10", fontsize=8)
    panels.flat[0].legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)


def main(seconds: float = 60.0) -> None:
    """Runs every curve and writes table, CSV and picture."""
    program = example()
    rows: dict[str, dict[str, list[tuple[int, int]]]] = {}
    print("resident MB after 10 calls, after a quarter of them and at the end\n")
    with tempfile.TemporaryDirectory() as work:
        for title, (what, name, file, count, shape) in CURVES.items():
            path = Path(work) / name / file
            if not path.parent.exists():
                engine.files(name, path.parent)
            if file == "model.pt2" and not path.exists():
                engine.package(name, path.parent)
            words = [what, path, str(count), str(seconds), shape]
            python: list[str | Path] = [sys.executable, "-c", WHEEL, *words]
            rows[title] = {
                "binary": run([program, *words], {}),
                "wheel": run(python, {}),
                "wheel, caches set to 256": run(python, BOUNDED),
            }
            for way, points in rows[title].items():
                sizes = [points[0][1], points[len(points) // 4][1], points[-1][1]]
                shown = " ".join(f"{size / 1e6:8.1f}" for size in sizes)
                print(f"{title:44}{way:26}{points[-1][0]:>10,} {what:6}{shown}", flush=True)
    PICTURES.mkdir(exist_ok=True)
    with (PICTURES / "memory.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["curve", "way", "done", "resident_bytes"])
        writer.writerows((t, w, *p) for t, ways in rows.items() for w, points in ways.items() for p in points)
    draw(rows, PICTURES / "memory.png")


if __name__ == "__main__":
    main(*(float(a) for a in sys.argv[1:2]))
