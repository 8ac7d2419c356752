"""What it takes to answer once: programs of `rust-host build` beside other ways to run the same network. In turn.

Size on disk of all that is needed, wall time from start to end of a process that loads the model and answers one row,
and the memory that it had at most (by GNU time). ONNX Runtime takes part where the extra `onnx` is installed.

usage: program.py [ROUNDS]
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BINARY = ROOT / "target/release/rust-host"
PACKAGES = Path(sysconfig.get_path("purelib"))
#: What the binary opens for TorchScript.
LIBTORCH = ("libtorch_cpu.so", "libc10.so", "libtorch.so", "libgomp.so.1", "libshm.so")

EAGER = """
import sys; sys.path.insert(0, {benches!r})
import torch, models, numpy as np
torch.set_num_threads(1)
with torch.inference_mode():
    print(models.make({name!r})(torch.from_numpy(np.load({x!r}))).sum())
"""
WHEEL = """
import numpy as np, rust_host
rust_host.set_threads(1)
print(rust_host.Model({package!r})(np.load({x!r})).sum())
"""
ONNX = """
import numpy as np, onnxruntime as ort
options = ort.SessionOptions(); options.intra_op_num_threads = 1
session = ort.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
print(session.run(None, {{session.get_inputs()[0].name: np.load({x!r})}})[0].sum())
"""


def size(*paths: Path) -> int:
    """Bytes of files and whole folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def taken(command: list[str | Path]) -> float:
    """Milliseconds of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1e3


def resident(command: list[str | Path]) -> float:
    """Its largest resident memory in MB, by GNU time: that of a child of this process begins with this one's own."""
    timed = ["time", "--quiet", "--format=%M", *command]
    ran = subprocess.run(timed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return int(ran.stderr.split()[-1]) / 1024


def ways(name: str, folder: Path) -> dict[str, tuple[list[str | Path], int]]:
    """Way → its command and what it needs on disk."""
    import engine
    import numpy as np

    from models import SHAPES, save

    package, x = folder / "1", folder / "x.npy"
    package.mkdir(parents=True)
    engine.package(name, package)
    script = save(name, folder)
    np.save(x, np.random.default_rng(0).random((1, *SHAPES[name]), np.float32))
    program = folder / name
    subprocess.run([BINARY, "build", package / "model.pt2", "-o", program], check=True, stdout=subprocess.DEVNULL)
    torch, onnx = PACKAGES / "torch", package / "model.onnx"
    numpy = (PACKAGES / "numpy", PACKAGES / "numpy.libs")
    lib = [torch / "lib" / file for file in LIBTORCH if (torch / "lib" / file).exists()]
    words = {"benches": str(ROOT / "benches"), "name": name, "x": str(x), "model": str(onnx)}
    words["package"] = str(package / "model.pt2")
    python: list[str | Path] = [sys.executable, "-W", "ignore", "-c"]
    found: dict[str, tuple[list[str | Path], int]] = {
        "program": ([program, x, "--threads", "1"], size(program)),
        "rust-host, libtorch": (
            [BINARY, "run", script, "--input", x, "--threads", "1"],
            size(BINARY, BINARY.with_name("librust_host_torch_library.so"), script, *lib),
        ),
        "Python, wheel": (
            [*python, WHEEL.format(**words)],
            size(PACKAGES / "rust_host", PACKAGES / "rust_host.libs", *numpy, package / "model.pt2"),
        ),
        "Python, torch": ([*python, EAGER.format(**words)], size(torch, *numpy)),
    }
    if all(importlib.util.find_spec(each) for each in ("onnxruntime", "onnxscript")):
        engine.files(name, package)
        size_of_all = size(PACKAGES / "onnxruntime", *numpy, onnx)
        found["Python, ONNX Runtime"] = ([*python, ONNX.format(**words)], size_of_all)
    return found


def main(rounds: int = 15) -> None:
    """Prints a table for each model of the benches."""
    sys.path.insert(0, str(ROOT / "benches"))
    from models import MAKERS

    with tempfile.TemporaryDirectory() as work:
        prepared = {name: ways(name, Path(work) / name) for name in MAKERS}
        empty = statistics.median(taken(["/bin/true"]) for _ in range(rounds))
        print(f"start to answer, one row, one thread; median of {rounds}; /bin/true takes {empty:.1f} ms\n")
        print(f"{'':12} {'':21} {'on disk':>10} {'start to end':>13} {'resident':>10}")
        for name, commands in prepared.items():
            times: dict[str, list[float]] = {way: [] for way in commands}
            for _ in range(rounds):
                for way, (command, _bytes) in commands.items():
                    times[way].append(taken(command))
            for way, (command, on_disk) in commands.items():
                columns = (
                    f"{on_disk / 1e6:7.1f} MB {statistics.median(times[way]):10.1f} ms {resident(command):7.1f} MB"
                )
                print(f"{name:12} {way:21} {columns}", flush=True)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
