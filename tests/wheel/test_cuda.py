"""Models on a GPU: callers at once, sessions, memory, what it refuses. Skipped elsewhere, with doctor's reason."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rust_host

pytestmark = pytest.mark.cuda


@cache
def why_not() -> str | None:
    words = [sys.executable, "-m", "rust_host", "doctor", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout)["cuda"]["why_not"]


@pytest.fixture(autouse=True)
def gpu():
    if why_not():
        pytest.skip(f"no CUDA: {why_not()}")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))

    def forward(self, x: torch.Tensor):
        y = self.layers(x)
        # With gaps, turned, shared with another output, a weight, the input, and one of the host.
        return y[:, ::2], y.t(), y, self.layers[0].bias, x, y.sum().to("cpu")


class Remembers(nn.Module):
    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(1)

    def forward(self, x: torch.Tensor):
        self.total = self.total.to(x.device) + x.sum()
        return self.total


class Forks(nn.Module):
    def forward(self, x: torch.Tensor):
        later = torch.jit.fork(torch.tanh, x * 2)
        return torch.jit.wait(later) + x


class Large(nn.Module):
    def forward(self, x: torch.Tensor, gigabytes: int):
        return torch.zeros(gigabytes << 28, device=x.device)[: x.size(0)] + x


class Picks(nn.Module):
    def forward(self, x: torch.Tensor, at: torch.Tensor):
        return x[at]


def on_gpu(module, tmp_path: Path):
    torch.manual_seed(0)
    script = torch.jit.script(module.eval())
    path = tmp_path / f"{type(module).__name__}.pt"
    path.write_bytes(script.save_to_buffer())
    return rust_host.Model(path, "cuda"), script


def near(got, expected) -> bool:
    got, expected = (r if isinstance(r, tuple) else (r,) for r in (got, expected))
    pairs = zip(got, expected, strict=True)
    return all(np.allclose(g, e.detach().numpy(), rtol=1e-3, atol=1e-4) for g, e in pairs)


@pytest.mark.parametrize("kind", [Net, Forks], ids=lambda k: k.__name__)
def test_callers_at_once_get_the_numbers_of_the_processor(tmp_path, kind):
    model, script = on_gpu(kind(), tmp_path)
    assert model.device == "cuda:0"

    def work(seed: int) -> int:
        random = np.random.default_rng(seed)
        wrong = 0
        for i in range(200):
            x = random.standard_normal((i % 7 * 13, 64)).astype(np.float32)
            given = x if i % 3 else np.asfortranarray(x)
            got = model(given)
            with torch.inference_mode():
                wrong += not near(got, script(torch.from_numpy(x)))
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 0


def test_sessions_at_once_keep_their_states_apart(tmp_path):
    model, _ = on_gpu(Remembers(), tmp_path)
    assert model.stateful

    def work(step: int) -> list[float]:
        session = model.session()
        return [float(session(np.full(1000, step, np.float32))[0]) for _ in range(50)]

    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(work, range(1, 7)))
    assert got == [[1000.0 * step * n for n in range(1, 51)] for step in range(1, 7)]


def test_a_result_is_ordinary_memory_of_the_caller(tmp_path):
    model, _ = on_gpu(Net(), tmp_path)
    for rows in (3, 1 << 20):
        results = model(np.ones((rows, 64), np.float32))
        for result in (results[2], results[4]):  # of many rows the second is too large for page-locked memory
            result += 1
            assert not torch.from_numpy(result).is_pinned()


def test_no_memory_is_a_sentence_and_the_next_call_works(tmp_path):
    model, _ = on_gpu(Large(), tmp_path)
    told = r"^the GPU has not enough memory: \S+ \SiB were asked for"
    with pytest.raises(rust_host.UnavailableError, match=told) as e:
        model(np.ones(3, np.float32), 4096)
    assert "\n" not in str(e.value).split("hint:")[0].strip()
    assert model(np.ones(3, np.float32), 1).tolist() == [1, 1, 1]


def test_an_index_out_of_range_is_a_sentence(tmp_path):
    """In a process of its own, which the GPU refuses from then on."""
    on_gpu(Picks(), tmp_path)
    text = f"""
import numpy as np, rust_host
model = rust_host.Model({str(tmp_path / "Picks.pt")!r}, "cuda")
for again in range(2):
    try:
        model(np.ones(3, np.float32), np.array([7]))
    except rust_host.Error as e:
        print(type(e).__name__, e)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FailedError the model failed on the GPU: an assertion of its code did not hold") == 2
