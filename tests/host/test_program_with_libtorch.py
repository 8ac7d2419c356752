"""`rust-host build --with-libtorch`: a folder for a model that calls operators which only libtorch has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BINARY = Path(__file__).resolve().parents[2] / "target/release/rust-host"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["env", "-i", *words], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled package whose code calls `logcumsumexp` in its host."""
    work = tmp_path_factory.mktemp("models")
    words = [sys.executable, "-m", "py_authoring"]
    subprocess.run([*words, "new", "sums", "--template", "regressor"], cwd=work, check=True, capture_output=True)
    code = work / "models/sums/model.py"
    text = code.read_text()
    code.write_text(text.replace("self.network(features)", "self.network(features.logcumsumexp(1))"))
    assert code.read_text() != text
    words += ["export", "sums", "--untrained", "--method", "compiled", "--quiet"]
    subprocess.run(words, cwd=work, check=True, capture_output=True)
    return work / "models/sums/1/model.pt2"


@pytest.fixture(scope="module")
def folder(sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, moved after it was built."""
    work = tmp_path_factory.mktemp("program") / "a/b"
    work.mkdir(parents=True)
    built = run(BINARY, "build", sums, "-o", work / "sums", "--with-libtorch", "--json")
    assert built.returncode == 0, built.stderr
    about = json.loads(built.stdout)
    assert about["path"] == str(work / "sums/sums") and about["with_libtorch"] and about["ok"]
    assert about["bytes"] == sum(file.stat().st_size for file in (work / "sums").iterdir())
    # where torch's own libraries look before they look beside themselves
    decoys = work.parent / "nvidia/cu13/lib"
    decoys.mkdir(parents=True)
    for library in (work / "sums").glob("*.so*"):
        (decoys / library.name).touch()
    return (work / "sums").rename(work / "moved")


def test_one_file_is_refused_and_the_way_is_named(sums: Path, tmp_path: Path) -> None:
    ran = run(BINARY, "build", sums, "-o", tmp_path / "sums")
    assert ran.returncode == 1 and list(tmp_path.iterdir()) == []
    assert ran.stderr.startswith("error: ") and "logcumsumexp" in ran.stderr and "--with-libtorch" in ran.stderr


def test_the_program_in_the_folder_answers_as_rust_host_does(folder: Path, sums: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 10), np.float32))
    answered = run(folder / "sums", tmp_path / "x.npy", "--json")
    assert answered.returncode == 0, answered.stderr
    expected = run(BINARY, "run", sums, "--input", tmp_path / "x.npy", "--format", "json")
    assert answered.stdout == expected.stdout
    verified = run(folder / "sums", "--verify")
    assert verified.returncode == 0 and "reproduces all of" in verified.stdout


def test_its_libraries_are_its_own_but_for_the_systems(folder: Path) -> None:
    listed = run("ldd", folder / "libtorch_cpu.so").stdout
    others = [line for line in re.findall(r"=> (.+) \(", listed) if not line.startswith(f"{folder}/")]
    assert "not found" not in listed and f"{folder}/libc10.so" in listed
    assert all(re.match(r"/(usr/)?lib", other) for other in others), others


def test_without_its_library_it_says_so(folder: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(folder / "sums", tmp_path / "sums"))
    ran = run(alone, "--verify")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"there is no `{tmp_path}/libtorch_cpu.so`" in ran.stderr and "has to stay together" in ran.stderr
    (tmp_path / "libtorch_cpu.so").symlink_to(folder / "libtorch_cpu.so")
    (tmp_path / "libtorch-version").write_text("2.12.1")
    ran = run(alone, "--verify")
    assert ran.returncode == 1 and "is of libtorch 2.12.1, and this program is for 2.13.0" in ran.stderr


def test_a_file_is_no_folder(sums: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    ran = run(BINARY, "build", sums, "-o", tmp_path / "taken", "--with-libtorch")
    assert ran.returncode == 2 and "is a file, expected a folder" in ran.stderr


def test_a_model_that_needs_none_gets_none(compiled_digits: Path, tmp_path: Path) -> None:
    ran = run(BINARY, "build", compiled_digits, "-o", tmp_path / "digits", "--with-libtorch")
    assert ran.returncode == 2 and "calls nothing of libtorch" in ran.stderr and "one file" in ran.stderr
    assert list(tmp_path.iterdir()) == []
