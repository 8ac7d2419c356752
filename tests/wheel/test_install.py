"""Wheel and source archive hold both packages and nothing that does not belong there; the wheel runs elsewhere."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# As the Makefile has it: with another value torch-sys would be compiled again, for minutes.
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
    "VIRTUAL_ENV": sys.prefix,
    "LIBTORCH_USE_PYTORCH": sys.prefix,
}
FOLDERS = {"py_authoring", "rust_host", "rust_host.libs"}


def run(*command: str | Path, cwd: Path = ROOT, **more: str) -> str:
    result = subprocess.run(command, cwd=cwd, env=ENVIRONMENT | more, capture_output=True, text=True, timeout=290)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("maturin", "build", "--release", "--locked", "--quiet", "--out", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def sources(package: Path) -> set[str]:
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", package).split()
    return {f.removeprefix("rust_host/python/") for f in files}


def test_the_wheel_holds_both_packages_with_stubs_and_no_libtorch(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = sum(i.file_size for i in archive.infolist())
        (about,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
    required = set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", about, re.M))
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == FOLDERS
    assert sources(Path("py_authoring")) | sources(Path("rust_host/python/rust_host")) <= names
    assert {"rust_host/_native.abi3.so", "rust_host/_native.pyi", "rust_host/py.typed"} <= names
    assert {n for n in names if n.endswith(".so")} == {
        "rust_host/_native.abi3.so",
        "rust_host.libs/librust_host_torch_library.so",
    }
    assert not [n for n in names if n.endswith((".pyc", ".pt", ".rs", ".toml"))] or {
        n for n in names if n.endswith(".toml")
    } <= sources(Path("py_authoring"))
    assert sizes < 20 << 20
    assert required == {"numpy"}  # no library of tables: `Model.map` takes what the caller has
    assert "cp310-abi3-linux_x86_64" in wheel.name


def test_the_wheel_runs_in_a_virtual_environment_whose_torch_lies_elsewhere(wheel, tmp_path):
    venv = tmp_path / "venv"
    run("uv", "venv", "--quiet", "--python", sys.executable, venv)
    python = venv / "bin" / "python"
    run("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel)
    (site,) = venv.glob("lib/python3*/site-packages")
    (torch_site,) = Path(sys.prefix).glob("lib/python3*/site-packages")
    (site / "torch_elsewhere.pth").write_text(f"{torch_site}\n")
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), str(tmp_path / "model.pt"))
    code = """
import sys, numpy as np, rust_host, py_authoring
assert rust_host.Model("model.pt")(np.ones((1, 3), np.float32)).shape == (1, 2)
assert "torch" not in sys.modules
assert all(sys.prefix in m.__file__ for m in (rust_host, py_authoring)), sys.path
try:
    rust_host.Model("none.pt")
except rust_host.NotFoundError:
    print("loaded")
assert not {"pandas", "polars", "pyarrow", "duckdb"} & set(sys.modules)
"""
    assert run(python, "-c", code, cwd=tmp_path) == "loaded\n"
    assert "rust-host" in run(venv / "bin" / "rust-host", "--version", cwd=tmp_path)
    assert "train" in run(venv / "bin" / "py-authoring", "--help", cwd=tmp_path)


def test_the_source_archive_has_everything_that_a_build_needs(tmp_path):
    run("maturin", "sdist", "--out", tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "LICENSE", "README.md", ".cargo/config.toml"}
    assert needed <= names
    assert sources(Path("py_authoring")) <= names
    assert {f"rust_host/python/{f}" for f in sources(Path("rust_host/python/rust_host"))} <= names
    assert {"rust_host/backends/torch/build.rs", "rust_host/backends/torch/csrc/shim.h"} <= names
    assert {"rust_host/backends/torch_library/build.rs", "rust_host/embedded/csrc/host.c"} <= names
    assert not [n for n in names if n.endswith((".so", ".pt", ".pyc")) or "/runs/" in n or n.startswith("target/")]
