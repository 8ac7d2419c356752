"""What keeps the house in order: one version, a README whose commands exist, walls between the halves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import py_authoring
import rust_host

ROOT = Path(__file__).resolve().parents[1]


def test_every_place_says_the_same_version() -> None:
    of_cargo = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)
    of_project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert of_cargo and of_project
    assert of_cargo[1] == of_project[1] == py_authoring.__version__ == rust_host.__version__


def test_the_readme_names_targets_and_pages_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)", readme)) <= targets | {"it"}
    for page in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / page).exists(), page


def test_neither_half_imports_the_other() -> None:
    for file in (ROOT / "py_authoring").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) rust_host", file.read_text(), re.M), file
    for file in (ROOT / "rust_host/python/rust_host").glob("*.py"):
        assert not re.search(r"^\s*(import|from) py_authoring", file.read_text(), re.M), file


def test_the_engine_knows_no_door_and_no_libtorch() -> None:
    manifest = (ROOT / "rust_host/engine/Cargo.toml").read_text()
    for name in ["tch", "torch-sys", "clap", "pyo3", "tokio"]:
        assert not re.search(rf"^{name}\b", manifest, re.M), name


def test_importing_either_package_loads_no_torch() -> None:
    code = "import sys, py_authoring, py_authoring.cli, rust_host; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
