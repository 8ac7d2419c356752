import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

CALL = """
import sys, numpy as np, rust_host
model = rust_host.Model(sys.argv[1], "cpu")
model(-np.ones(2, np.float32))
print("ready", flush=True)
try:
    model(np.ones(2, np.float32))
except KeyboardInterrupt:
    print("interrupted")
model(-np.ones(2, np.float32))
"""


class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() > 0):
            x = x + 1
        return x


class Inside(torch.nn.Module):
    """The loop is in a part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Endless()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


@pytest.mark.parametrize("kind", [Endless, Inside])
def test_control_c_ends_an_endless_loop_within_a_second_and_the_model_goes_on(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "endless.pt"
    path.write_bytes(torch.jit.script(kind()).save_to_buffer())
    process = subprocess.Popen([sys.executable, "-c", CALL, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (out, process.returncode) == ("interrupted\n", 0)
    assert time.monotonic() - start < 10  # it is well below a second on a quiet machine
