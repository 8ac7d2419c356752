"""What one call costs: PyTorch eager, torch.jit, the wheel, the binary and a bare C++ loop, side by side in one run.

The C++ loop and torch.jit run TorchScript as the file has it; wheel and binary run their optimised form of it.

usage: calls.py [ROUNDS] [SECONDS]      one thread; medians over the rounds; the order changes from round to round
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parent
BINARY = TOP / "target/release/rust-host"
LOOP = TOP / "target/bench/loop"

# Model, shape of its one input. The first is so small that a call is almost only overhead.
CASES = {
    "MLP 4-16-3, batch 1": ("mlp", (1, 4)),
    "Net 28x28, batch 1": ("net", (1, 1, 28, 28)),
    "Net 28x28, batch 8": ("net", (8, 1, 28, 28)),
    "Net 28x28, batch 32": ("net", (32, 1, 28, 28)),
    "ResNet-18, batch 1": ("resnet", (1, 3, 224, 224)),
    "ResNet-18, batch 8": ("resnet", (8, 3, 224, 224)),
    "LSTM 2x128, batch 1": ("lstm", (1, 32, 64)),
    "transformer, batch 1": ("transformer", (1, 64, 256)),
    "transformer, batch 8": ("transformer", (8, 64, 256)),
}

PYTHON = """
import sys, time, warnings
warnings.filterwarnings("ignore")
how, path, seconds, shape = sys.argv[1], sys.argv[2], float(sys.argv[3]), tuple(map(int, sys.argv[4].split(",")))
import numpy as np
x = np.random.default_rng(0).random(shape, dtype=np.float32)
if how == "wheel":
    import rust_host
    rust_host.set_threads(1)
    call, argument = rust_host.Model(path, device="cpu"), x
else:
    import torch
    torch.set_num_threads(1)
    torch.inference_mode().__enter__()
    sys.path.insert(0, sys.argv[5])
    if how == "eager":
        from models_of_the_bench import make
        call = make(sys.argv[6]).eval()
    else:
        call = torch.jit.load(path).eval()
    argument = torch.from_numpy(x)
clock, times = time.perf_counter, []
end = clock() + seconds / 5
while clock() < end:
    call(argument)
last = start = clock()
while last - start < seconds:
    call(argument)
    now = clock()
    times.append(now - last)
    last = now
times.sort()
print(times[len(times) // 2] * 1e6)
"""

MODELS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)
    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        x = torch.relu(self.fc1(torch.flatten(torch.max_pool2d(x, 2), 1)))
        return torch.log_softmax(self.fc2(x), dim=1)
class Block(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        conv = lambda i, o, k, s, p: nn.Sequential(nn.Conv2d(i, o, k, s, p, bias=False), nn.BatchNorm2d(o))
        self.one, self.two, self.relu = conv(a, b, 3, stride, 1), conv(b, b, 3, 1, 1), nn.ReLU(inplace=True)
        self.skip = nn.Identity() if a == b else conv(a, b, 1, stride, 0)
    def forward(self, x):
        y = self.two(self.relu(self.one(x)))
        y += self.skip(x)
        return self.relu(y)
def resnet18():
    sizes = [(64, 64, 1)] * 2 + [s for n in (64, 128, 256) for s in ((n, 2 * n, 2), (2 * n, 2 * n, 1))]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*stem, *(Block(*s) for s in sizes), *head)
class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 128, 2, batch_first=True), nn.Linear(128, 10)
    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])
class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = lambda: nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
        self.layers = nn.Sequential(*(layer() for _ in range(4)))
    def forward(self, x):
        return self.layers(x)
def make(name):
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # which tracing does not see
    mlp = lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    return {"net": Net, "resnet": resnet18, "lstm": Lstm, "transformer": Transformer, "mlp": mlp}[name]()
"""


def build_loop() -> None:
    """Compiles loop.cpp against the venv's libtorch, once."""
    source = HERE / "loop.cpp"
    if LOOP.exists() and LOOP.stat().st_mtime > source.stat().st_mtime:
        return
    import torch

    print("compiling the C++ loop (a minute, once) …", file=sys.stderr)
    LOOP.parent.mkdir(parents=True, exist_ok=True)
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    includes = [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
    libraries = [f"-L{torch_folder}/lib", "-ltorch_cpu", "-lc10", "-Wl,--no-as-needed", "-ltorch"]
    rpath = f"-Wl,-rpath,{torch_folder}/lib"
    subprocess.run(["c++", "-O2", "-std=c++17", *includes, source, "-o", LOOP, *libraries, rpath], check=True)


def measure(how: str, name: str, path: Path, shape: tuple[int, ...], seconds: float, folder: Path) -> float:
    """The median of one call in microseconds, in a process of its own."""
    sizes = ",".join(map(str, shape))
    if how == "C++ loop":
        command = [LOOP, path, str(seconds), sizes]
    elif how == "rust-host":
        array = folder / f"{sizes}.npy"
        command = [BINARY, "bench", path, "--input", f"input={array}" if name in ("mlp", "resnet") else f"x={array}"]
        command += ["--threads", "1", "--seconds", str(seconds), "--device", "cpu", "--json"]
    else:
        command = [sys.executable, "-c", PYTHON, how, path, str(seconds), sizes, folder, name]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        sys.exit(f"{how} failed: {out.stderr or out.stdout}")
    if how == "rust-host":
        return float(json.loads(out.stdout)["results"][0]["median_us"])
    return float(out.stdout)


def main(rounds: int = 5, seconds: float = 1.0) -> None:
    """Prints the table."""
    import numpy as np
    import torch

    build_loop()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "models_of_the_bench.py").write_text(MODELS)
        sys.path.insert(0, str(folder))
        from models_of_the_bench import make  # type: ignore[import-not-found]

        ways = ["C++ loop", "rust-host", "wheel", "torch.jit", "eager"]
        print(f"one call, one thread, microseconds: median of {rounds} rounds of {seconds:g} s (more than C++)\n")
        print(f"{'':22}" + "".join(f"{way:>20}" for way in ways))
        for title, (name, shape) in CASES.items():
            path = folder / f"{name}.pt"
            module = make(name).eval()
            traced = name == "transformer"  # TorchScript cannot compile torch's own
            example = torch.zeros(2, *shape[1:])
            script = torch.jit.trace(module, example, check_trace=False) if traced else torch.jit.script(module)
            script.save(str(path))
            np.save(
                folder / f"{','.join(map(str, shape))}.npy", np.random.default_rng(0).random(shape, dtype=np.float32)
            )
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way in random.sample(ways, len(ways)):
                    times[way].append(measure(way, name, path, shape, seconds, folder))
            base = times["C++ loop"]
            cells = []
            for way in ways:
                more = statistics.median(a - b for a, b in zip(times[way], base, strict=True))
                cells.append(f"{statistics.median(times[way]):.1f}" + (f" ({more:+.1f})" if way != "C++ loop" else ""))
            print(f"{title:22}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]), *(float(a) for a in sys.argv[2:3]))
