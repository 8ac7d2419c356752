"""A Python that has NumPy and no torch: compiled packages run, and TorchScript says in a sentence what it needs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rust_host


@pytest.fixture
def bare(tmp_path):
    """Runs Python with the standard library, NumPy and rust_host."""
    site = tmp_path / "site"
    site.mkdir()
    numpy = Path(np.__file__).parent
    ours = Path(rust_host.__file__).parent
    others = [ours.with_name(name) for name in ("rust_host.libs", "py_authoring")]
    for package in (numpy, numpy.with_name("numpy.libs"), ours, *others):
        (site / package.name).symlink_to(package)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["env", "-i", f"PYTHONPATH={site}", sys.executable, "-S", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    return run


def test_a_compiled_package_gives_its_numbers_and_its_verdict(bare, compiled_digits, tmp_path):
    x = np.random.default_rng(0).random((5, 1, 28, 28), np.float32)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, numpy, rust_host
file, digest = sys.argv[1:]
model = rust_host.Model(file, trust=[digest])
rust_host.set_threads(2)
assert model.verify().ok and rust_host.threads() == 2
numpy.save("y.npy", model(numpy.load("x.npy")))
assert "torch" not in sys.modules and "libtorch" not in open("/proc/self/maps").read()
"""
    ran = bare("-c", code, compiled_digits, hashlib.sha256(compiled_digits.read_bytes()).hexdigest())
    assert ran.returncode == 0, ran.stderr
    expected = torch.jit.load(compiled_digits.with_name("model.pt"))(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-5)


def test_torchscript_says_what_it_needs(bare, compiled_digits):
    script = compiled_digits.with_name("model.pt")
    ran = bare("-c", "import sys, rust_host; rust_host.Model(sys.argv[1])", script)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-2:] == [
        "rust_host.errors.UnavailableError: libtorch 2.13.0 was not found: torch is not installed",
        "hint: `pip install torch==2.13.0`, or take a compiled package that runs without it",
    ]


def test_a_wheel_that_is_not_whole_says_what_is_missing(bare, compiled_digits, tmp_path):
    (tmp_path / "site/rust_host.libs").unlink()
    ran = bare("-c", "import sys, rust_host; rust_host.Model(sys.argv[1])", compiled_digits.with_name("model.pt"))
    missing, hint = ran.stderr.splitlines()[-2:]
    assert f"`{tmp_path}/site/rust_host.libs/librust_host_torch_library.so` is missing" in missing
    assert "pip install --force-reinstall" in hint
    doctor = bare("-m", "rust_host", "doctor")
    assert doctor.returncode == 1 and "is missing" in doctor.stdout


def test_who_asks_for_the_threads_before_a_fork_leaves_them_to_the_child(bare):
    code = """
import os, rust_host
rust_host.threads()
if os.fork() == 0:
    rust_host.set_threads(2)
    os._exit(rust_host.threads())
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert bare("-c", code).stdout == "2\n"


def test_the_command_does_without_torch_too(bare, compiled_digits):
    digest = hashlib.sha256(compiled_digits.read_bytes()).hexdigest()
    verified = bare("-m", "rust_host", "verify", compiled_digits, "--trust", digest)
    assert verified.returncode == 0 and "reproduces all of" in verified.stdout, verified.stderr
    about = bare("-m", "rust_host", "info", compiled_digits.with_name("model.pt"))
    assert about.returncode == 0, about.stderr
    doctor = bare("-m", "rust_host", "doctor")
    assert doctor.returncode == 1 and "packages that run without libtorch" in doctor.stdout
    ran = bare("-m", "rust_host", "verify", compiled_digits.with_name("model.pt"))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: libtorch 2.13.0 was not found: torch is not installed\nhint: "), ran.stderr


def test_py_authoring_says_how_to_get_the_rest(bare, tmp_path):
    ran = bare("-m", "py_authoring", "--help")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: the package `click` is not installed\nhint: `pip install 'rust-host[authoring]'`\n"
    # with click alone: --help and names of models answer, and what needs torch says so
    for package in ("click", "pydantic", "pydantic_core", "annotated_types", "typing_inspection"):
        (tmp_path / "site" / package).symlink_to(Path(np.__file__).parents[1] / package)
    (tmp_path / "site/typing_extensions.py").symlink_to(Path(np.__file__).parents[1] / "typing_extensions.py")
    assert bare("-m", "py_authoring", "--help").returncode == 0
    assert bare("-m", "py_authoring", "new", "flowers").returncode == 0
    ran = bare("-m", "py_authoring", "train", "flowers")
    assert ran.returncode == 1 and ran.stderr.startswith("error: the package `"), ran.stderr
    assert ran.stderr.endswith("is not installed\nhint: `pip install 'rust-host[authoring]'`\n")
