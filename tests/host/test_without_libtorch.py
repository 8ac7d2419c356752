"""Compiled packages that bring their operators along, in a host where no libtorch can be found."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import rust_host
from py_authoring.export import elf
from py_authoring.export.compiled import Package

BINARY = Path(__file__).resolve().parents[2] / "target/release/rust-host"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binary in a folder without its backend for libtorch."""
    return Path(shutil.copy(BINARY, tmp_path_factory.mktemp("alone")))


def run(binary: Path, *words: str | Path, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", "-i", binary, *words], capture_output=True, text=True, check=False, timeout=120, **more
    )


def trusting(path: Path) -> list[str | Path]:
    return [path, "--trust", hashlib.sha256(path.read_bytes()).hexdigest()]


def test_it_reproduces_its_examples_and_gives_eagers_numbers(
    alone: Path, compiled_digits: Path, tmp_path: Path
) -> None:
    verified = run(alone, "verify", *trusting(compiled_digits))
    assert verified.returncode == 0 and "reproduces all of" in verified.stdout, verified.stderr
    for batch, threads in ((1, 1), (1, 2), (5, 2), (33, 3)):
        x = np.random.default_rng(batch).random((batch, 1, 28, 28), np.float32)
        np.save(tmp_path / "x.npy", x)
        words = [
            "--input",
            f"image={tmp_path / 'x.npy'}",
            "--threads",
            str(threads),
            "--output",
            tmp_path / f"{batch}{threads}",
        ]
        ran = run(alone, "run", *trusting(compiled_digits), *words)
        assert ran.returncode == 0, ran.stderr
        given = np.load(tmp_path / f"{batch}{threads}" / "log_probabilities.npy")
        expected = torch.jit.load(compiled_digits.with_name("model.pt"))(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_a_package_that_wants_an_operator_says_which(alone: Path, compiled_digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(compiled_digits) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename.endswith(".so"):
                data = data.replace(b"\0aoti_torch_get_numel\0", b"\0aoti_torch_cpu_sum_8\0")
            new.writestr(zipfile.ZipInfo(member.filename, (1980, 1, 1, 0, 0, 0)), data)
    ran = run(alone, "verify", *trusting(path))
    assert ran.returncode == 1 and ran.stdout == ""
    assert "needs libtorch for `aoti_torch_cpu_sum_8`" in ran.stderr and ran.stderr.startswith("error: "), ran.stderr


def test_libtorch_is_not_opened_where_it_is_not_needed(compiled_digits: Path) -> None:
    traced = ["strace", "-f", "-e", "trace=openat", "-o", "/dev/stdout"]
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    ran = subprocess.run([*traced, BINARY, "verify", compiled_digits], capture_output=True, text=True, check=True)
    assert "libtorch" not in ran.stdout and "reproduces all of" in ran.stdout


def test_torchs_own_loader_and_ours_give_the_same_in_one_process(compiled_digits: Path) -> None:
    ours, torchs = rust_host.Model(compiled_digits), Package(compiled_digits.read_bytes())
    for batch in (1, 4, 9):
        x = torch.rand(batch, 1, 28, 28)
        for _ in range(2):
            theirs = torchs.run(["image"], {"image": x})[0]
            assert np.array_equal(ours(x.numpy()), theirs.numpy())


def test_memory_stays_flat_over_changing_sizes(compiled_digits: Path) -> None:
    code = f"""
import numpy as np, rust_host
model = rust_host.Model({str(compiled_digits)!r})
random = np.random.default_rng(0)
def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * 4096 >> 20
def calls(count):
    for _ in range(count):
        model(np.zeros((int(random.integers(1, 40)), 1, 28, 28), np.float32))
calls(200)
before = resident()
calls(600)
print(resident() - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) <= 20, ran.stdout


def test_a_package_asks_its_host_for_handles_and_threads_alone(compiled_digits: Path) -> None:
    with zipfile.ZipFile(compiled_digits) as package:
        code = next(package.read(name) for name in package.namelist() if name.endswith(".so"))
    asked = elf.undefined_symbols(code)
    assert not elf.host_operators(asked)
    assert not [name for name in asked if name.startswith("Sleef_")]
