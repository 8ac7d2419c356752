"""A caller that is wrong for ever costs nothing: memory stays where it is. (`CALLS=100000` by hand; CI makes fewer.)"""

import itertools
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rust_host

CALLS = int(os.environ.get("CALLS", "5000"))
X = np.ones((64, 64), np.float32)  # 16 kB: 5,000 of them would be 80 MB


class Raises(nn.Module):
    def forward(self, x: torch.Tensor, n: int = 1) -> torch.Tensor:
        y = torch.cat([x, x])
        if n % 2 == 0:
            raise ValueError("an even number: " + str(n))
        return y @ y


class Reads(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("/nowhere", False, 1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_calls_that_fail_leave_memory_flat(load, tmp_path):
    model, _ = load(Raises())
    path, damaged, refused = tmp_path / "Raises.pt", tmp_path / "damaged.pt", tmp_path / "refused.pt"
    whole = path.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    refused.write_bytes(torch.jit.script(Reads()).save_to_buffer())
    strange = np.array([object()])
    tensor = torch.from_numpy(X)
    kinds = [
        lambda: model(X, 2),  # raised by the author
        lambda: model(X),  # wrong shape, found in the model: (128, 64) @ (128, 64)
        lambda: model(tensor.to_sparse()),
        lambda: model(strange),
        lambda: model(X.astype("M8[s]")),  # a type that no tensor has
        lambda: model("text"),
        lambda: model([[1, 2], [3]]),
        lambda: model.run({"x": X, "y": X}),
        lambda: model.run({"x": X, "n": 2**70}),
        lambda: model.run({}),
        lambda: model(X, X, X),
    ]
    loads = [
        lambda: rust_host.Model(path, method="other"),
        lambda: rust_host.Model(damaged),
        lambda: rust_host.Model(refused),
        lambda: rust_host.Model(tmp_path / "none.pt"),
        lambda: rust_host.Model(path, "cuda:99"),
    ]
    order = itertools.cycle([*kinds * 10, *loads])
    seen = set()

    def fail(times):
        for call in itertools.islice(order, times):
            try:
                call()
            except (rust_host.Error, TypeError, OverflowError) as e:
                seen.add(type(e).__name__)
                continue
            raise AssertionError("no error")

    fail(max(2000, CALLS // 10))
    before = resident()
    fail(CALLS)
    grown = resident() - before
    print(f"{CALLS} failing calls: {before >> 20} MiB and {grown >> 10} KiB more; {sorted(seen)}")
    assert grown < 8 << 20
    assert {"FailedError", "InvalidInputError", "InvalidModelError", "RefusedError", "NotFoundError"} <= seen
