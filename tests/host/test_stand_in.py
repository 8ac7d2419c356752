"""Calls on a GPU without one: the backend's C++, as it was built, on a stand-in for CUDA that does what is queued only
when somebody waits for it. What a GPU itself does is for `pytest -m cuda`."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
BACKEND = HERE.parents[1] / "rust_host/backends/torch/csrc"
BUILDS = HERE.parents[1] / "target/release/build"
TORCH = Path(torch.__file__).parent


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor):
        return self.b(torch.relu(self.a(x)))


class Several(Net):
    def forward(self, x: Tensor):
        h = self.a(x)
        return (
            h[:, ::2],
            {"turned": h.t(), "repeated": h.sum(1, keepdim=True).expand(-1, 3)},
            [h, h, h.t()[:, ::2], self.b.bias],
        )


class Shared(Net):
    def forward(self, x: Tensor):
        return x, self.a.weight, self.b(torch.relu(self.a(x)))


class OnBoth(Net):
    def forward(self, x: Tensor):
        y = self.b(torch.relu(self.a(x)))
        return y.to("cpu"), y, torch.ones(2), y.to("cpu", non_blocking=True)


def twice(x: Tensor) -> Tensor:
    return torch.relu(x) * 2


class Forks(Net):
    def forward(self, x: Tensor):
        later = torch.jit.fork(twice, self.a(x))
        return self.b(self.a(x) + 1) + self.b(torch.jit.wait(later))


class Remembers(Net):
    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.h = torch.zeros(2, 16)

    def forward(self, x: Tensor):
        self.h = torch.tanh(self.a(x) + self.h.to(x.device))  # no buffer: it stays where it was made
        return self.b(self.h)


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(3))

    def forward(self, x: Tensor):
        y = self.b(torch.relu(self.a(x)))
        self.sums.add_(y.sum(0))
        return y + self.sums


def test_calls_on_a_stand_in_for_a_gpu_give_the_numbers_of_the_processor(tmp_path: Path) -> None:
    built = sorted(BUILDS.glob("rust-host-torch-*/out/librust_host_shim.a"), key=lambda p: p.stat().st_mtime)
    if not built:
        pytest.skip("the backend was not built here")
    torch.manual_seed(0)
    for kind in (Net, Several, Shared, OnBoth, Forks, Remembers, Counts):
        torch.jit.script(kind().eval()).save(str(tmp_path / f"{kind.__name__}.pt"))
    program = tmp_path / "stand_in"
    words = [os.environ.get("CXX", "c++"), "-std=c++17", "-w", f"-I{BACKEND}", "-isystem", TORCH / "include"]
    words += ["-isystem", TORCH / "include/torch/csrc/api/include", HERE / "stand_in.cpp", built[-1], "-o", program]
    # Not libtorch.so: it brings CUDA's half in, where it was built with one.
    words += [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", "-lgomp", "-ldl", "-lpthread"]
    words += [f"-Wl,-rpath,{TORCH / 'lib'}"]
    compiled = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert compiled.returncode == 0, compiled.stderr[-4000:]
    ran = subprocess.run([program, tmp_path], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.returncode) == ("0 faults\n", 0), ran.stdout + ran.stderr[-2000:]
