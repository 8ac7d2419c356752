"""Importing: before, after and without torch; the wrong torch is named, with the right one."""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import tomllib
import torch
from torch import nn

import rust_host
from rust_host import _torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def python(tmp_path):
    """Runs code in a fresh interpreter, in another folder than the checkout."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    return run


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)


ORDERS = {
    "without torch": "import rust_host",
    "before torch": "import rust_host, torch; torch.ones(2) @ torch.ones(2)",
    "after torch": "import torch; torch.ones(2) @ torch.ones(2); import rust_host",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_numbers_come_out_wherever_torch_is_imported(load, python, tmp_path, order):
    # the file's own form: the optimised one may round in another way
    ours, theirs = load(Mlp(), optimise=False)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    code = f"""
import sys
{ORDERS[order]}
import numpy as np
result = rust_host.Model(sys.argv[1], optimise=False)(np.arange(8, dtype=np.float32).reshape(2, 4))
sys.stdout.write(result.tobytes().hex())
assert ("torch" in sys.modules) == ("import torch" in {ORDERS[order]!r} or ", torch" in {ORDERS[order]!r})
"""
    result = python(code, str(tmp_path / "Mlp.pt"))
    assert result.returncode == 0, result.stderr
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert bytes.fromhex(result.stdout) == expected.tobytes() == ours(x).tobytes()


def test_one_libtorch_is_in_the_process(python):
    code = """
import rust_host, torch
maps = {line.split()[-1] for line in open("/proc/self/maps") if "libtorch_cpu" in line}
assert len(maps) == 1, maps
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_importing_loads_neither_torch_nor_numpy(python):
    result = python("import sys, rust_host; print({'torch', 'numpy', 'py_authoring'} & set(sys.modules))")
    assert (result.stdout, result.stderr) == ("set()\n", "")


PATCH = """
import importlib.metadata as m
original = m.version
def version(name):
    if name == "torch":
        {answer}
    return original(name)
m.version = version
"""


@pytest.mark.parametrize("installed", ["2.12.1", "2.13.1+cu130", "2.14.0.dev20261101"])
def test_another_torch_is_named_with_both_versions_and_the_remedy(python, installed):
    result = python(PATCH.format(answer=f"return {installed!r}") + "import rust_host")
    assert result.returncode == 1
    lines = result.stderr.strip().split("\n")
    assert lines[-2:] == [
        f"ImportError: rust_host was built for torch 2.13.0, but torch {installed} is installed",
        "hint: `pip install torch==2.13.0`",
    ]


@pytest.mark.parametrize("installed", ["2.13.0", "2.13.0+cu130", "2.13.0+cpu"])
def test_a_local_suffix_of_the_version_does_not_matter(python, installed):
    result = python(PATCH.format(answer=f"return {installed!r}") + "import rust_host")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_missing_torch_is_said_in_the_same_way(python):
    result = python(PATCH.format(answer="raise m.PackageNotFoundError(name)") + "import rust_host")
    assert "ImportError: rust_host needs the libtorch of torch 2.13.0, but torch is not installed" in result.stderr
    assert result.stderr.endswith("hint: `pip install torch==2.13.0`\n")


def test_the_command_says_so_without_a_traceback(python):
    code = PATCH.format(answer="return '2.12.1'") + "import sys; sys.argv = ['/bin/rust-host']; import rust_host"
    result = python(code)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: rust_host was built for torch 2.13.0, but torch 2.12.1 is installed\nhint: "
    )


def test_the_version_is_the_one_that_the_project_is_built_against():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"torch=={_torch.BUILT_FOR}" in project["dependencies"]
    assert f"torch=={_torch.BUILT_FOR}" in (requires("rust-host") or [])
    assert rust_host.__version__ == project["version"]


def test_public_names_are_exactly_those_that_are_listed():
    assert sorted(rust_host.__all__) == rust_host.__all__
    for name in rust_host.__all__:
        assert getattr(rust_host, name).__module__.startswith("rust_host")


def test_stubs_say_what_the_module_has(tmp_path):
    command = [sys.executable, "-m", "mypy.stubtest", "rust_host"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
