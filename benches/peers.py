"""rust-host beside other engines, in one run, on the same inputs and threads; every figure is a ratio within that run.

usage: peers.py [ROUNDS] [SECONDS] [MODEL,…]      default 3 rounds of 0.5 s a cell, every model; about 35 minutes

Each engine lives in a process of its own and is measured in blocks: one engine at a time, a pause before each (pools
that spin would disturb the next one), in another order each round; a cell is the median of the blocks' medians.
Before that its output is compared with eager PyTorch's. The peers are installed into target/bench/venv, which sees the
project's packages; the project's own .venv stays as it is. Writes docs/peers.md, and docs/pictures/peers.csv and .png.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peers_page

HERE = Path(__file__).parent
TOP = HERE.parent
PICTURES = TOP / "docs/pictures"
BENCH = TOP / "target/bench"
FILES = BENCH / "files"
PYTHON = BENCH / "venv/bin/python"
BINARY = TOP / "target/release/rust-host"
LOOP = BENCH / "loop"
RTEN = BENCH / "rten/release/bench-rten"

PAUSE = 0.2
BATCHES = (1, 8, 32)
MODELS = {
    "mlp": ("MLP 4-16-3", (4,)),
    "net": ("Net 28x28", (1, 28, 28)),
    "resnet": ("ResNet-18", (3, 224, 224)),
    "lstm": ("LSTM 2x128", (32, 64)),
    "transformer": ("transformer, 4 layers", (64, 256)),
}
OURS = ("binary", "wheel", "binary .pt2", "wheel .pt2", "binary .onnx", "wheel .onnx")
PEERS = ("C++ loop", "eager", "torch.jit", "torch.compile", "ONNX Runtime", "OpenVINO", "rten")
WITHIN = 1e-3
"""How far an engine's output may lie from eager's: of the largest number."""

Cell = tuple[str, int, int]
"""Model, batch, threads."""


def say(text: str) -> None:
    """Progress, which is no result."""
    print(text, file=sys.stderr, flush=True)


def build() -> None:
    """What is not there yet: the peers, the C++ loop, the Rust program."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(BENCH / "inductor")
    BENCH.mkdir(parents=True, exist_ok=True)
    installed = BENCH / "venv/installed"
    if not installed.exists() or installed.read_text() != (HERE / "peers.txt").read_text():
        say("installing onnxruntime, openvino and what exports to ONNX into target/bench/venv …")
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, BENCH / "venv"], check=True)
        wanted = ["uv", "pip", "install", "--quiet", "--python", PYTHON, "-r", HERE / "peers.txt"]
        subprocess.run(wanted, check=True)
        # Behind its own packages, so that torch is not installed a second time.
        (site,) = (BENCH / "venv").glob("lib/python3*/site-packages")
        (project,) = (Path(sys.prefix)).glob("lib/python3*/site-packages")
        (site / "project.pth").write_text(f"{project}\n")
        installed.write_text((HERE / "peers.txt").read_text())
    source = HERE / "loop.cpp"
    if not LOOP.exists() or LOOP.stat().st_mtime < source.stat().st_mtime:
        say("compiling the C++ loop (a minute, once) …")
        find = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
        torch = Path(subprocess.run([PYTHON, "-c", find], check=True, capture_output=True, text=True).stdout.strip())
        includes = [f"-isystem{torch}/include", f"-isystem{torch}/include/torch/csrc/api/include"]
        libraries = [f"-L{torch}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch}/lib"]
        subprocess.run(["c++", "-O2", "-std=c++17", *includes, source, "-o", LOOP, *libraries], check=True)
    say("building bench-rten (two minutes, once) …")
    rten = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", BENCH / "rten"]
    if subprocess.run(rten, cwd=HERE / "rten", check=False).returncode:
        RTEN.unlink(missing_ok=True)


def run(command: list[str | Path]) -> str:
    """A command's output.

    Raises:
        RuntimeError: with the last line that it said, if it fails.
    """
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        raise RuntimeError(reason(out.stderr or out.stdout))
    return out.stdout


def reason(said: str) -> str:
    """The line of it that says what went wrong: ours, else the last one."""
    lines = said.strip().splitlines() or ["it ended without a word"]
    ours = [line for line in lines if line.startswith(("error:", "rust_host."))]
    return (ours[-1] if ours else lines[-1]).partition(": ")[2] or lines[-1]


def folder_of(name: str) -> Path:
    """Where a model's files lie, as a version of it."""
    return FILES / name / "1"


class Worker:
    """An engine in a Python process of its own, or a program that is started for each block."""

    def __init__(self, engine: str, name: str, threads: int) -> None:
        self.engine, self.name, self.threads = engine, name, threads
        self.process: subprocess.Popen[str] | None = None
        if engine in ("C++ loop", "rten") or engine.startswith("binary"):
            return
        command = [PYTHON, "-W", "ignore", HERE / "engine.py", engine, name, folder_of(name), str(threads)]
        errors = BENCH / "errors.txt"
        with errors.open("w") as file:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, text=True)
        if self.answer() != "ready":
            raise RuntimeError(reason(errors.read_text()))

    def answer(self) -> str:
        """The next line."""
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        """One line for another."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        if answer := self.answer():
            return answer
        raise RuntimeError("it ended while it was measured")

    def command(self, batch: int, seconds: float) -> list[str | Path]:
        """What measures one block, for an engine that is a program."""
        folder, shape = folder_of(self.name), ",".join(map(str, (batch, *MODELS[self.name][1])))
        if self.engine == "C++ loop":
            return [LOOP, folder / "model.pt", str(seconds), shape, str(self.threads)]
        if self.engine == "rten":
            inputs, outputs = folder / f"input.{batch}.raw", folder / f"output.rten.{batch}.raw"
            return [RTEN, folder / "model.onnx", str(seconds), shape, inputs, outputs, str(self.threads)]
        words = ["--seconds", str(max(seconds, 0.001)), "--threads", str(self.threads), "--batch", str(batch), "--json"]
        return [BINARY, "bench", self.file(), "--input", folder / f"input.{batch}.npy", "--sandbox", "off", *words]

    def file(self) -> Path:
        """The file that `rust-host` runs."""
        return folder_of(self.name) / f"model.{self.engine.partition(' .')[2] or 'pt'}"

    def median(self, batch: int, seconds: float) -> float:
        """Microseconds of a call, in one block."""
        if self.process is not None:
            return float(self.ask(f"{batch} {seconds}"))
        out = run(self.command(batch, seconds))
        return float(json.loads(out)["results"][0]["median_us"] if self.engine.startswith("binary") else out)

    def output(self, batch: int) -> Path | None:
        """A file with what it computes; `None` for the loop, which is libtorch itself."""
        if self.process is not None:
            return Path(self.ask(str(batch)))
        if self.engine == "C++ loop":
            return None
        if self.engine == "rten":
            run(self.command(batch, 0.0))
            return folder_of(self.name) / f"output.rten.{batch}.raw"
        path = folder_of(self.name) / f"output.{self.engine.replace(' ', '-')}.{batch}.npy"
        words = ["--input", folder_of(self.name) / f"input.{batch}.npy", "--sandbox", "off", "--output", "-"]
        out = subprocess.run([BINARY, "run", self.file(), *words], capture_output=True, check=False)
        if out.returncode:
            raise RuntimeError(reason(out.stderr.decode()))
        path.write_bytes(out.stdout)
        return path

    def close(self) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.communicate()


DISTANCE = """
import sys, numpy as np
a, b = (np.load(p) if p.endswith("npy") else np.fromfile(p, np.float32) for p in sys.argv[1:])
print(abs(a.ravel() - b.ravel()).max() / abs(a).max())
"""


def workers_of(name: str, threads: int, skipped: dict[str, dict[str, str]]) -> list[Worker]:
    """Every engine that runs this model and computes what eager does; for the others, why not."""
    workers: list[Worker] = []
    for engine in (*PEERS[1:2], *OURS, PEERS[0], *PEERS[2:]):
        try:
            if engine == "rten" and not RTEN.exists():
                raise RuntimeError("its program could not be built")
            worker = Worker(engine, name, threads)
            output = worker.output(8)
            if workers and output is not None:
                distance = float(run([PYTHON, "-c", DISTANCE, workers[0].output(8) or "", output]))
                if not distance <= WITHIN:
                    raise RuntimeError(f"its numbers are not eager's: {distance:.1e} of the largest apart")
            workers.append(worker)
        except (RuntimeError, OSError) as error:
            skipped.setdefault(engine, {}).setdefault(MODELS[name][0], str(error))
    return workers


def files(names: list[str]) -> dict[str, str]:
    """Writes what is not there, and packages that are older than the export. Returns why models have no `.pt2`; the
    first tells whether this host reads any.
    """
    sources = [
        path for path in (TOP / "py_authoring/export").rglob("*") if path.suffix in (".py", ".cpp", ".h", ".inc")
    ]
    exported_by = max(source.stat().st_mtime for source in sources)
    for name in {"mlp": None} | dict.fromkeys(names):
        if not (folder_of(name) / "model.onnx").exists():
            say(f"exporting {name} …")
            run([PYTHON, HERE / "engine.py", "files", name, folder_of(name)])
    missing: dict[str, str] = {}
    for name in {"mlp": None} | dict.fromkeys(names):
        path = folder_of(name) / "model.pt2"
        try:
            if not path.exists() or path.stat().st_mtime < exported_by:
                say(f"compiling {name} ahead of time …")
                run([PYTHON, HERE / "engine.py", "package", name, folder_of(name)])
            run([BINARY, "info", path])
        except RuntimeError as error:
            path.unlink(missing_ok=True)
            missing[f".pt2 of {MODELS[name][0]}"] = str(error)
            if name == "mlp":
                break
    return missing


def measure(
    names: list[str], threads: tuple[int, ...], rounds: int, seconds: float
) -> tuple[dict[Cell, dict[str, float]], dict[str, str]]:
    """The median of each cell and engine in microseconds, and why engines are missing."""
    cells: dict[Cell, dict[str, float]] = {}
    skipped: dict[str, dict[str, str]] = {}
    for count, name in itertools.product(threads, names):
        say(f"{MODELS[name][0]}, {count} thread{'s' * (count > 1)} …")
        workers = workers_of(name, count, skipped)
        for batch in BATCHES:
            times: dict[str, list[float]] = {w.engine: [] for w in workers}
            for _ in range(rounds):
                for worker in random.sample(workers, len(workers)):
                    time.sleep(PAUSE)
                    times[worker.engine].append(worker.median(batch, seconds))
            cells[name, batch, count] = {engine: statistics.median(t) for engine, t in times.items()}
        for worker in workers:
            worker.close()
    why = {f"{engine} ({', '.join(by)})": next(iter(by.values())) for engine, by in skipped.items()}
    return cells, why


def watched(command: list[str | Path]) -> tuple[float, float, float]:
    """Seconds of a whole process, the most memory that it had, and the size of the files that it had mapped, in MB.

    This process must stay small: a child's largest memory begins with its parent's.
    """
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    mapped = {str(command[0]): Path(command[0]).stat().st_size}
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        try:
            lines = Path(f"/proc/{child.pid}/maps").read_text().splitlines()
        except OSError:
            lines = []
        found = {line[line.index("/") :] for line in lines if "/" in line}
        mapped |= {path: Path(path).stat().st_size for path in found if Path(path).is_file()}
        time.sleep(0.02)
    elapsed = time.perf_counter() - start
    if status:
        raise RuntimeError(f"exit code {os.waitstatus_to_exitcode(status)}")
    weights = sum(size for path, size in mapped.items() if path.startswith(str(FILES)))
    return elapsed, usage.ru_maxrss / 1024, (sum(mapped.values()) - weights) / 1e6


def first(engines: list[str], rounds: int) -> dict[str, tuple[float, float, float]]:
    """From the start of the process to the end of one prediction of `Net`, in turn: medians of [`watched`]."""
    folder, found = folder_of("net"), {}
    for engine in engines:
        worker = object.__new__(Worker)
        worker.engine, worker.name, worker.threads, worker.process = engine, "net", 1, None
        if engine.startswith("binary"):
            inputs = ["--input", folder / "input.1.npy", "--sandbox", "off", "--threads", "1"]
            found[engine] = [BINARY, "run", worker.file(), *inputs]
        elif engine in ("C++ loop", "rten"):
            found[engine] = worker.command(1, 0.0)
        else:
            found[engine] = [PYTHON, "-W", "ignore", HERE / "engine.py", "once", engine, "net", folder]
    results: dict[str, list[tuple[float, float, float]]] = {engine: [] for engine in found}
    for engine, command in [*found.items(), *(pair for _ in range(rounds) for pair in found.items())]:
        results[engine].append(watched(command))
    middle = statistics.median
    shown = {}
    for engine, rows in results.items():
        seconds, memory, mapped = zip(*rows[1:], strict=True)
        shown[engine] = (middle(seconds), middle(memory), max(mapped))  # a short life is looked at rarely
    return shown


VERSIONS = """
import importlib.metadata, platform
of = importlib.metadata.version
print(*(f"{p} {of(p)}" for p in ("torch", "onnxruntime", "openvino", "numpy")), end=", ")
print("Python", platform.python_version())
"""


def machine() -> str:
    """Processor, cores, memory, load."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wide = next((f for f in ("avx512f", "avx2") if any(f in line.split() for line in lines)), "no AVX2")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{cores} cores of {model} ({wide}), {memory:.0f} GB, load {load:.1f} at the start"


def versions() -> str:
    """Of everything that was measured."""
    manifest = (HERE / "rten/Cargo.toml").read_text().splitlines()
    rten = next(line.split('"')[1] for line in manifest if line.startswith("rten ="))
    return f"{run([PYTHON, '-c', VERSIONS]).strip()}, rten {rten}, {run([BINARY, '--version']).strip()}"


def main(rounds: int = 3, seconds: float = 0.5, only: str = ",".join(MODELS)) -> None:
    """Measures and writes."""
    where, began = machine(), time.perf_counter()
    names = only.split(",")
    build()
    no_package = files(names)
    threads = (1, 2) if len(os.sched_getaffinity(0)) > 1 else (1,)
    cells, skipped = measure(names, threads, rounds, seconds)
    skipped |= no_package
    engines = [e for e in (*OURS, *PEERS) if any(e in times for times in cells.values())]
    say("first predictions …")
    starts = first([e for e in engines if e in cells["net", 1, 1]], rounds) if "net" in names else {}
    PICTURES.mkdir(exist_ok=True)
    with (PICTURES / "peers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "batch", "threads", "engine", "microseconds"])
        writer.writerows([*cell, engine, f"{us:.2f}"] for cell, times in cells.items() for engine, us in times.items())
    titled = {(MODELS[name][0], batch, count): times for (name, batch, count), times in cells.items()}
    peers_page.draw(titled, engines, PICTURES / "peers.png")
    command = f"python benches/peers.py {rounds} {seconds:g} {only}"
    text = peers_page.page(titled, engines, starts, skipped, machine=where, versions=versions(), command=command)
    (TOP / "docs/peers.md").write_text(text)
    print(text)
    say(f"{(time.perf_counter() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:1]), *map(float, given[1:2]), *given[2:3])
