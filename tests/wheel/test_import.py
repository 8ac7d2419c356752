"""Importing: before, after and without torch; a wrong torch is named when a model needs it, with the right one."""

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
    "a model before torch": "import rust_host; rust_host.Model(sys.argv[1]); import torch; torch.ones(2)",
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
assert ("torch" in sys.modules) == {order != "without torch"}
"""
    result = python(code, str(tmp_path / "Mlp.pt"))
    assert result.returncode == 0, result.stderr
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert bytes.fromhex(result.stdout) == expected.tobytes() == ours(x).tobytes()


def test_one_libtorch_is_in_the_process(load, python, tmp_path):
    load(Mlp())
    code = """
import sys, rust_host
rust_host.Model(sys.argv[1])
import torch
maps = {line.split()[-1] for line in open("/proc/self/maps") if "libtorch_cpu" in line}
assert len(maps) == 1, maps
"""
    result = python(code, str(tmp_path / "Mlp.pt"))
    assert result.returncode == 0, result.stderr


def test_importing_loads_neither_torch_nor_libtorch_nor_numpy(python):
    result = python("""
import sys, rust_host
print({'torch', 'numpy', 'py_authoring'} & set(sys.modules), "libtorch" in open("/proc/self/maps").read())
""")
    assert (result.stdout, result.stderr) == ("set() False\n", "")


@pytest.fixture
def with_torch(load, tmp_path, monkeypatch):
    """Opens a TorchScript file in a Python that finds a torch of that version, or that one of the machine."""
    load(Mlp())

    def opened(version: str) -> list[str]:
        package = tmp_path / "site" / "torch"
        (package / "lib").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "version.py").write_text(f"__version__ = '{version}'\n")
        original = Path(torch.__file__).parent
        for library in (original / "lib").iterdir():
            (package / "lib" / library.name).symlink_to(library)
        (package.parent / "nvidia").symlink_to(original.with_name("nvidia"))  # where libtorch looks for CUDA's
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        code = "import sys, rust_host; print(rust_host.Model(sys.argv[1]).device)"
        command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "Mlp.pt"]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        return ran.stdout.split() or ran.stderr.splitlines()[-2:]

    return opened


@pytest.mark.parametrize("installed", ["2.12.1", "2.13.1+cu130", "2.14.0.dev20261101"])
def test_another_torch_is_named_with_both_versions_and_the_remedy(with_torch, tmp_path, installed):
    assert with_torch(installed) == [
        f"rust_host.errors.UnavailableError: libtorch at `{tmp_path}/site/torch/lib/libtorch_cpu.so` has version "
        f"{installed}, this host is built for 2.13.0",
        "hint: `pip install torch==2.13.0`",
    ]


@pytest.mark.parametrize("installed", ["2.13.0", "2.13.0+cu130", "2.13.0+cpu"])
def test_a_local_suffix_of_the_version_does_not_matter(with_torch, installed):
    assert with_torch(installed) == ["cpu"]


def test_the_version_is_the_one_that_the_project_is_built_against():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(
        "torch==2.13.0" in project["optional-dependencies"][extra] for extra in ("torch", "authoring", "lightning")
    )
    assert {r for r in requires("rust-host") if "extra ==" not in r} == {"numpy>=1.26"}
    assert rust_host.__version__ == project["version"]


def test_public_names_are_exactly_those_that_are_listed():
    assert sorted(rust_host.__all__) == rust_host.__all__
    for name in rust_host.__all__:
        assert getattr(rust_host, name).__module__.startswith("rust_host")


def test_stubs_say_what_the_module_has(tmp_path):
    command = [sys.executable, "-m", "mypy.stubtest", "rust_host"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
