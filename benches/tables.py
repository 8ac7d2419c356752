# ruff: noqa: E501 (the lines of a table)
"""Files in, files out: rows a second of a table against pandas with torch and against the bare forward pass, and pictures
a second against torchvision with as many workers as cores.

usage: tables.py [ROWS] [PICTURES]      needs pandas for the first and torchvision for the second; each is left out without
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

BINARY = Path(os.environ.get("RUST_HOST", Path(__file__).parent.parent / "target/release/rust-host"))
CORES = len(os.sched_getaffinity(0))
ROUNDS = 3


class Mlp(nn.Module):
    """4 → 16 → 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Score each row."""
        return self.second(torch.relu(self.first(features)))


class Wide(nn.Module):
    """64 → 256 → 256 → 10: about 2 µs a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, features: Tensor) -> Tensor:
        """Score each row."""
        return self.layers(features)


class Small(nn.Module):
    """A picture of any size, made 224 × 224 in the graph, then hardly any work: what is measured is the way to it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Score each picture."""
        small = nn.functional.interpolate(image, size=[224, 224], mode="bilinear", antialias=True)
        return self.linear(small.mean((2, 3)))


def tensor(name: str, dims: list[str | int], **more: object) -> dict[str, object]:
    """One tensor of a contract."""
    return {
        "name": name,
        "datatype": "FP32",
        "shape": [d if isinstance(d, int) else -1 for d in dims],
        "dims": dims,
        **more,
    }


def save(model: nn.Module, path: Path, inputs: list, outputs: list, **more: object) -> None:
    """A scripted file with a contract."""
    contract = {
        "format_version": 1,
        "name": path.stem,
        "platform": "pytorch_torchscript",
        "inputs": inputs,
        "outputs": outputs,
        "returns": outputs[0]["name"],
        "dims": {"batch": {"min": 0}},
        "golden": {"file": "golden.safetensors", "count": 0},
        "producer": {"name": "tables.py", "version": "1"},
        **more,
    }
    torch.jit.script(model.eval()).save(str(path), _extra_files={"contract.json": json.dumps(contract)})


def bare(path: Path, rows: int, width: int = 4, threads: int = 1) -> float:
    """Rows a second of nothing but the forward pass, at its best batch size."""
    torch.set_num_threads(threads)
    model = torch.jit.load(str(path))
    best = 0.0
    with torch.inference_mode():
        for batch in (1024, 4096, 16384, 65536):
            x = torch.rand(batch, width)
            for _ in range(20):
                model(x)
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for _ in range(max(1, rows // batch)):
                    model(x)
                best = max(best, max(1, rows // batch) * batch / (time.perf_counter() - start))
    return best


# A child's largest memory begins with its parent's at the fork, and this process has torch in it.
WATCH = """
import json, os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def ours(model: Path, source: Path, target: Path) -> tuple[float, float, float]:
    """Seconds of the run itself, of the whole process, and its largest memory in MB."""
    runs, whole, memory = [], [], 0.0
    command = [str(BINARY), "run", str(model), "--input", str(source), "--output", str(target), "--json"]
    for _ in range(ROUNDS):
        watched = subprocess.run([sys.executable, "-S", "-c", WATCH, *command], capture_output=True, text=True)
        if watched.returncode:
            raise SystemExit(watched.stdout + watched.stderr)
        summary, largest = watched.stdout.splitlines()
        runs.append(json.loads(summary)["seconds"])
        memory = max(memory, float(largest))
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole.append(time.perf_counter() - start)
    return statistics.median(runs), statistics.median(whole), memory


PANDAS = """
import sys, time
import pandas, torch
model, source, target = sys.argv[1:]
start = time.perf_counter()
table = pandas.read_{kind}(source)
model = torch.jit.load(model)
with torch.inference_mode():
    out = model(torch.from_numpy(table[["a", "b", "c", "d"]].to_numpy("float32")))
for i in range(3):
    table[f"logits.{{i}}"] = out[:, i].numpy()
table.drop(columns=["a", "b", "c", "d"]).to_{kind}(target, index=False)
print(time.perf_counter() - start)
"""


def tables(work: Path, rows: int) -> None:
    """A line a way."""
    model = work / "mlp.pt"
    save(Mlp(), model, [tensor("features", ["batch", 4])], [tensor("logits", ["batch", 3], rtol=0.0, atol=0.0)])
    values = torch.rand(rows, 4).tolist()
    lines = (f"{i},{a:.6g},{b:.6g},{c:.6g},{d:.6g}\n" for i, (a, b, c, d) in enumerate(values))
    source = work / "rows.csv"
    with source.open("w") as out:
        out.write("id,a,b,c,d\n")
        out.writelines(lines)
    forward = bare(model, rows)
    print(f"\n{rows:,} rows through the MLP 4-16-3; median of {ROUNDS}, {CORES} cores\n")
    print(f"{'bare forward pass, best batch, 1 thread':44}{forward:14,.0f} rows/s")
    small = work / "small.csv"
    with source.open() as table, small.open("w") as out:
        out.writelines(line for _, line in zip(range(rows // 10 + 1), table, strict=False))
    kinds = [("csv", source)]
    try:
        import pandas

        path = work / "rows.parquet"
        pandas.read_csv(source).astype(dict.fromkeys("abcd", "float32")).to_parquet(path, index=False)
        run = subprocess.run(
            [BINARY, "run", model, "-i", path, "-o", work / "out.parquet"], capture_output=True, text=True
        )
        if run.returncode == 0:
            kinds.append(("parquet", path))
        else:
            print(run.stderr.splitlines()[0].removeprefix("error: "))
    except ImportError:
        pandas = None
        print("pandas is not installed: no comparison with it")
    for kind, path in kinds:
        seconds, whole, memory = ours(model, path, work / f"out.{kind}")
        print(
            f"{'rust-host run, ' + kind:44}{rows / seconds:14,.0f} rows/s  {rows / seconds / forward:5.2f} x bare   {memory:6.0f} MB   whole process {whole:.2f} s"
        )
        if pandas is not None:
            script = [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                PANDAS.format(kind=kind),
                str(model),
                str(path),
                str(work / f"p.{kind}"),
            ]
            times = [
                float(subprocess.run(script, check=True, capture_output=True, text=True).stdout) for _ in range(ROUNDS)
            ]
            print(
                f"{'pandas + torch, ' + kind:44}{rows / statistics.median(times):14,.0f} rows/s  {statistics.median(times) / seconds:5.1f} x slower (without its imports)"
            )
    _, _, memory = ours(model, small, work / "out.csv")
    print(f"{'memory with a tenth of the rows, csv':44}{'':35}{memory:6.0f} MB")


def wide(work: Path, rows: int) -> None:
    """Files through a model of about 1 µs a row."""
    model, source = work / "wide.pt", work / "wide.csv"
    save(Wide(), model, [tensor("features", ["batch", 64])], [tensor("logits", ["batch", 10], rtol=0.0, atol=0.0)])
    values = torch.rand(2000, 64)
    lines = [",".join(f"{v:.6g}" for v in row) + "\n" for row in values.tolist()]
    with source.open("w") as out:
        out.write("id," + ",".join(f"features.{i}" for i in range(64)) + "\n")
        out.writelines(f"{i},{lines[i % 2000]}" for i in range(rows))
    forward = bare(model, rows, 64)
    print(f"\n{rows:,} rows through the MLP 64-256-256-10; median of {ROUNDS}, {CORES} cores\n")
    print(f"{'bare forward pass, best batch, 1 thread':44}{forward:14,.0f} rows/s")
    kinds = [("csv", source)]
    try:
        import numpy
        import pyarrow
        import pyarrow.parquet

        columns = numpy.tile(values.numpy(), (rows // 2000 + 1, 1))[:rows]
        table = pyarrow.table({"id": numpy.arange(rows), **{f"features.{i}": columns[:, i] for i in range(64)}})
        pyarrow.parquet.write_table(table, work / "wide.parquet")
        kinds.append(("parquet", work / "wide.parquet"))
    except ImportError:
        print("pyarrow is not installed: no Parquet")
    for kind, path in kinds:
        try:
            seconds, _, memory = ours(model, path, work / f"out.{kind}")
        except SystemExit as e:
            print(json.loads(str(e).splitlines()[0])["error"]["message"])
            continue
        print(
            f"{'rust-host run, ' + kind:44}{rows / seconds:14,.0f} rows/s  {rows / seconds / forward:5.2f} x bare   {memory:6.0f} MB"
        )


# A table in memory, as both have it; the largest memory is what the process has at the end beyond the table.
MAPPED = """
import resource, statistics, sys, time
import pandas, pyarrow, numpy, torch, {library}
model, rows, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
values = numpy.random.default_rng(0).random((width, rows), dtype=numpy.float32)
table = pyarrow.table(dict(id=numpy.arange(rows), **{{f"features.{{i}}": values[i] for i in range(width)}}))
if "{library}" == "torch":
    model = torch.jit.load(model)
    table = table.to_pandas(split_blocks=True)
    names = [f"features.{{i}}" for i in range(width)]
    def run():
        with torch.inference_mode():
            out = model(torch.from_numpy(table[names].to_numpy("float32"))).numpy()
        return table.drop(columns=names).assign(**{{f"logits.{{i}}": out[:, i] for i in range(out.shape[1])}})
else:
    model = rust_host.Model(model, "cpu")
    rust_host.set_threads(1)
    def run():
        return model.map(table)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
times = []
for _ in range(5):
    start = time.perf_counter()
    out = run()
    times.append(time.perf_counter() - start)
    first = first if len(times) > 1 else peak() - before
print(statistics.median(times), first, table.nbytes / 1e6 if hasattr(table, "nbytes") else table.memory_usage().sum() / 1e6)
"""


def in_memory(work: Path, rows: int) -> None:
    """`Model.map` of the wheel and pandas + torch, both in one thread."""
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        print("\npandas and pyarrow are not installed: no tables in memory")
        return
    for module, width, outputs in ((Mlp(), 4, 3), (Wide(), 64, 10)):
        model = work / "memory.pt"
        save(
            module,
            model,
            [tensor("features", ["batch", width])],
            [tensor("logits", ["batch", outputs], rtol=0.0, atol=0.0)],
        )
        forward = bare(model, rows, width)
        print(f"\n{rows:,} rows in memory through {module.__doc__.split(':')[0].rstrip('.')}; median of 5, 1 thread\n")
        print(f"{'bare forward pass, best batch':44}{forward:14,.0f} rows/s")
        for library, name in (("rust_host", "Model.map"), ("torch", "pandas + torch")):
            script = [sys.executable, "-W", "ignore", "-c", MAPPED.format(library=library), str(model), str(rows)]
            run = subprocess.run([*script, str(width)], check=True, capture_output=True, text=True)
            seconds, memory, table = map(float, run.stdout.split())
            print(
                f"{name:44}{rows / seconds:14,.0f} rows/s  {rows / seconds / forward:5.2f} x bare  + {memory:4.0f} MB beside a table of {table:.0f} MB"
            )


TORCHVISION = """
import sys, time
from pathlib import Path
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F
model, folder, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
class Pictures(Dataset):
    def __init__(self): self.paths = sorted(folder.iterdir())
    def __len__(self): return len(self.paths)
    def __getitem__(self, i):
        with Image.open(self.paths[i]) as picture:
            return F.to_dtype(F.pil_to_tensor(picture.convert("RGB")), torch.float32, scale=True)
if __name__ == "__main__":
    model = torch.jit.load(model)
    start = time.perf_counter()
    with torch.inference_mode():
        out = torch.cat([model(batch) for batch in DataLoader(Pictures(), batch_size=32, num_workers=workers)])
    print(time.perf_counter() - start)
"""


def pictures(work: Path, count: int) -> None:
    """JPEGs of 640 × 480, as a camera makes them: smooth, with some noise."""
    try:
        import torchvision  # noqa: F401
        from PIL import Image
    except ImportError:
        print("\ntorchvision is not installed: no pictures")
        return
    folder = work / "pictures"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        coarse = torch.rand(1, 3, 12, 16, generator=generator)
        fine = (
            nn.functional.interpolate(coarse, size=[480, 640], mode="bicubic")
            + torch.randn(1, 3, 480, 640, generator=generator) * 0.02
        )
        pixels = (fine.clamp(0, 1)[0].permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i:05}.jpg", quality=90)
    model = work / "pictures.pt"
    image = {"input": "image", "color": "RGB", "layout": "NCHW", "rescale_factor": 1 / 255}
    inputs = [tensor("image", ["batch", 3, "height", "width"])]
    save(Small(), model, inputs, [tensor("scores", ["batch", 10], rtol=0.0, atol=0.0)], image=image)
    print(f"\n{count} JPEGs of 640 x 480, resized in the graph; median of {ROUNDS}, {CORES} cores\n")
    seconds, whole, memory = ours(model, folder, work / "out.csv")
    print(f"{'rust-host run':44}{count / seconds:14,.0f} pictures/s   {memory:6.0f} MB   whole process {whole:.2f} s")
    script = [sys.executable, "-W", "ignore", "-c", TORCHVISION, str(model), str(folder), str(CORES)]
    times = [float(subprocess.run(script, check=True, capture_output=True, text=True).stdout) for _ in range(ROUNDS)]
    print(
        f"{f'torchvision, DataLoader, {CORES} workers':44}{count / statistics.median(times):14,.0f} pictures/s  {statistics.median(times) / seconds:5.2f} x slower"
    )


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        tables(Path(folder), given[0] if given else 1_000_000)
        wide(Path(folder), (given[0] if given else 1_000_000) // 5)
        in_memory(Path(folder), given[0] if given else 1_000_000)
        pictures(Path(folder), given[1] if given[1:] else 400)
