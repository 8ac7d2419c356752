# ruff: noqa: E501 - lists of what is given
"""Every operator that a file may use, with arguments at random: none may end the process.

    python tests/hostile/schemas.py --calls 200 --seed 1
    python tests/hostile/schemas.py --only aten::embedding_bag --calls 5000

libtorch says what each operator takes; a model of one call is written for each, loaded by rust_host (so what the gate refuses
is left out, and what it weaves in is there), and called in a child that may die. A finding is the operator and the call.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import rust_host

MORE_MEMORY = 3 << 30
SHAPES = [
    (), (0,), (1,), (4,), (4,), (0, 4), (4, 0), (2, 2), (4, 4), (4, 4), (1, 4, 4), (2, 3, 4), (2, 0, 3), (1, 1, 4, 4), (2, 2, 3, 3), (1, 1, 2, 4, 4), (1, 1, 1, 1, 1, 1),
]  # fmt: skip
DTYPES = [torch.float32] * 8 + [torch.int64] * 5 + [torch.float64, torch.int32, torch.int32, torch.uint8, torch.int8, torch.int16, torch.bool, torch.float16, torch.bfloat16]  # fmt: skip
INTS = [0, 0, 1, 1, 1, 2, 2, 3, 4, -1, -1, -2, 5, 9, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 1.0, 1.0, 0.5, -1.0, 2.0, 1e-3, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf"), 1e19]
WORDS = ["", "mean", "sum", "none", "trunc", "floor", "ij,jk->ik", "ii->i", "constant", "reflect", "L", "U", "complete", "reduced", "prod", "amax", "same", "right", "fro", "nuc", "gels", "gelss", "gelsd", "ortho", "forward", "tanh", "ij", "xy", "é"]  # fmt: skip


class Chance:
    """Arguments of one call: most fit together, or all would be refused at the first look."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.shape = self.random.choice(SHAPES)
        self.dtype = self.random.choice(DTYPES)
        self.wild = self.random.random() < 0.3

    def tensor(self) -> torch.Tensor:
        r = self.random
        shape = r.choice(SHAPES) if r.random() < (0.6 if self.wild else 0.25) else self.shape
        dtype = r.choice(DTYPES) if r.random() < 0.3 else self.dtype
        generator = torch.Generator().manual_seed(r.getrandbits(60))
        kind = r.random()
        if kind < 0.35:
            made = torch.randint(-1, 5, shape, generator=generator).clamp(min=0 if r.random() < 0.7 else -1).to(dtype)
        elif kind < 0.6:
            made = torch.randn(shape, generator=generator).to(dtype)
        elif kind < 0.7:
            made = torch.full(shape, r.choice([0, 1, 2, 4])).to(dtype)
        else:
            made = torch.ones(shape).to(dtype)
            flat = made.reshape(-1)
            ends = (
                torch.finfo(dtype) if dtype.is_floating_point else None if dtype == torch.bool else torch.iinfo(dtype)
            )
            for _ in range(r.choice([1, 2, flat.numel()])):
                if flat.numel() and ends:
                    some = [0, 1, ends.min, ends.max, 5] + ([float("nan"), float("inf"), -float("inf"), -0.0] if dtype.is_floating_point else [])  # fmt: skip
                    some += [] if dtype == torch.uint8 else [-1, -2]
                    flat[r.randrange(flat.numel())] = r.choice(some)
            made = flat.reshape(shape)
        layout = r.random()
        if layout < 0.08 and made.dim() > 1:
            made = made.transpose(0, -1)
        elif layout < 0.12 and made.dim() > 0 and made.size(0):
            made = made[:1].expand(4, *made.shape[1:])
        return made

    def value(self, type_: str) -> Any:
        r = self.random
        if type_.startswith("Optional["):
            return None if r.random() < 0.4 else self.value(type_[9:-1])
        if type_.startswith("List["):
            small = type_ == "List[int]" and r.random() < 0.75
            count = r.choice([0, 1, 1, 2, 2, 3, 4])
            return [r.choice([0, 1, 1, 2, 3, 4]) if small else self.value(type_[5:-1]) for _ in range(count)]
        match type_:
            case "Tensor":
                return self.tensor()
            case "int":
                return r.choice(INTS) if r.random() < 0.4 else r.choice([0, 1, 1, 2, 3, 4, -1])
            case "float":
                return r.choice(FLOATS)
            case "bool":
                return r.random() < 0.5
        return r.choice(WORDS)


KNOWN = ("Tensor", "int", "float", "bool", "str")


def declared(type_: str, chance: random.Random) -> str | None:
    """The type of a model's input for an argument of that type."""
    type_ = type_.replace("Union[complex, float, int]", "number").replace("number", chance.choice(["int", "float"]))
    inner = type_
    for _ in range(2):
        for outer in ("Optional[", "List["):
            if inner.startswith(outer):
                inner = inner[len(outer) : -1]
    return type_ if inner in KNOWN else None


def source(schema: Any, chance: random.Random) -> tuple[str, list[str]] | None:
    """`forward` that calls the operator, and the types of its inputs."""
    inputs, types, call = [], [], []
    for argument in schema.arguments:
        type_ = declared(argument.type.annotation_str, chance)
        if type_ is None:
            if argument.has_default_value():
                continue
            return None
        name = f"a{len(inputs)}"
        inputs.append(f"{name}: {type_}")
        types.append(type_)
        if schema.name.startswith("quantized::") and type_ == "Tensor" and chance.random() < 0.8:
            dtype = chance.choice(["quint8", "qint8"])
            name = f"torch.quantize_per_tensor({name}.to(torch.float32), 0.1, 3, torch.{dtype})"
        call.append(f"{argument.name}={name}" if argument.kwarg_only else name)
    space, name = schema.name.split("::")
    return f"def forward(self, {', '.join(inputs)}):\n    return torch.ops.{space}.{name}({', '.join(call)})\n", types


def allowed(only: str) -> list[Any]:
    found = [s for s in torch._C._jit_get_all_schemas() if s.name.split("::")[0] in ("aten", "quantized")]
    found = [s for s in found if s.name == only or not only]
    return sorted(found, key=str)


def attempt(schema: Any, seed: int, calls: int, at: mmap.mmap, path: Path) -> str:
    """In the child: as many calls of the operator."""
    written = source(schema, random.Random(f"{seed}/{schema}"))
    if written is None:
        return "not tried"
    text, types = written
    try:
        module = type("M", (torch.jit.ScriptModule,), {})()
        module._c._define(module._concrete_type, text, {"torch": torch}.get)
        path.write_bytes(module.save_to_buffer())
    except Exception:
        return "not written"
    try:
        model = rust_host.Model(path, "cpu")
    except rust_host.Error:
        return "refused"
    for number in range(struct.unpack("<q", at[:8])[0], calls):
        at[:8] = struct.pack("<q", number)
        chance = Chance(f"{seed}/{schema}/{number}")
        given = {f"a{i}": chance.value(t) for i, t in enumerate(types)}
        try:
            model.run(given, to="torch")
        except rust_host.Error:
            continue
        except (TypeError, OverflowError):
            continue
    return "held"


def shown(schema: Any, seed: int, number: int) -> str:
    written = source(schema, random.Random(f"{seed}/{schema}"))
    assert written is not None
    chance = Chance(f"{seed}/{schema}/{number}")
    words = []
    for t in written[1]:
        value = chance.value(t)
        if isinstance(value, torch.Tensor):
            words.append(f"{str(value.dtype)[6:]}{list(value.shape)}{value.flatten()[:6].tolist()}")
        else:
            words.append(
                str(value)
                if "Tensor" not in t or value is None
                else f"{[list(v.shape) for v in value if v is not None]}"
            )
    return ", ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--number", type=int, help="with --only: this call alone, of every overload")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bad, states = 0, dict.fromkeys(("held", "refused", "not written", "not tried"), 0)
    at = mmap.mmap(-1, 256)
    with tempfile.TemporaryDirectory() as folder:
        for schema in allowed(options.only):
            next_call, deaths = options.number or 0, 0
            while next_call < options.calls and deaths < 3:
                at[:8] = struct.pack("<q", next_call)
                pid = os.fork()
                if pid == 0:
                    try:
                        os.chdir(folder)
                        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                        resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY, size + MORE_MEMORY))
                        quiet = os.open(os.devnull, os.O_WRONLY)
                        os.dup2(quiet, 1)
                        os.dup2(quiet, 2)
                        said = attempt(schema, options.seed, options.calls, at, Path(folder) / "m.pt")
                        at[8:40] = said.encode().ljust(32)
                    finally:
                        os._exit(0)
                last, since, hung = -1, time.monotonic(), False
                while True:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        break
                    now = struct.unpack("<q", at[:8])[0]
                    if now != last:
                        last, since = now, time.monotonic()
                    elif time.monotonic() - since > 10:
                        hung = True
                        os.kill(pid, signal.SIGKILL)
                    time.sleep(0.002)
                if os.WIFEXITED(status):
                    states[at[8:40].decode().strip()] += 1
                    break
                number = struct.unpack("<q", at[:8])[0]
                deaths += 1
                bad += 1
                how = "hangs" if hung else f"signal {os.WTERMSIG(status)}"
                print(f"{how}: {schema} --number {number}: {shown(schema, options.seed, number)}"[:900], flush=True)
                next_call = number + 1
                if options.number is not None:
                    break
    print(f"{bad} ended or hung; operators that {', '.join(f'{k}: {v}' for k, v in states.items())}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
