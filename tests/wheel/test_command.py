"""`rust-host` as the wheel installs it: the binary's command line in this interpreter."""

import json
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

WAYS = {
    "script": [str(Path(sysconfig.get_path("scripts")) / "rust-host")],
    "module": [sys.executable, "-m", "rust_host"],
}


class Double(nn.Module):
    def forward(self, x):
        return x * 2


@pytest.fixture(params=WAYS)
def command(request, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*WAYS[request.param], *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )

    return run


def test_a_model_runs_from_the_wheels_command(command, load, tmp_path):
    load(Double())
    np.save(tmp_path / "x.npy", np.array([[1.5, 2]], np.float32))
    result = command("run", "Double.pt", "--input", "x=x.npy", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    assert "[[3.0,4.0]]" in result.stdout.replace(" ", "").replace("\n", "")


def test_exit_codes_and_the_error_edge_are_the_binarys(command):
    result = command("run", "none.pt")
    assert result.returncode == 2
    assert result.stderr.startswith("error: `none.pt`")
    assert "Traceback" not in result.stderr
    assert command("nonsense").returncode == 2
    assert "rust-host" in command("--help").stdout


def test_doctor_names_the_libtorch_that_is_in_this_process(command):
    result = command("doctor", "--json")
    about = json.loads(result.stdout)
    library = str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")
    assert library in json.dumps(about)
    assert torch.__version__ in json.dumps(about)


def test_a_closed_pipe_is_no_error(load, tmp_path):
    load(Double())
    program = subprocess.Popen(
        [*WAYS["module"], "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    program.stdout.close()
    assert program.wait(60) in (0, 141)
    assert program.stderr.read() == b""
    program.stderr.close()


def test_ctrl_c_ends_a_long_command_at_once(load, tmp_path):
    load(Double())
    program = subprocess.Popen(
        [*WAYS["module"], "bench", "Double.pt", "--input", "x=[[1.5]]", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    time.sleep(3)
    start = time.monotonic()
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert program.returncode in (-signal.SIGINT, 130), (out, err)
    assert b"Traceback" not in err
