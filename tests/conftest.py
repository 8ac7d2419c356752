"""What holds for every test."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A shell that starts a job in the background has it ignore SIGINT, and every process below inherits that: the tests of
# Ctrl-C would wait for ever. Handlers are reset by exec, so the processes that tests start get the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def compiled_digits(exported_digits: Path) -> Path:
    """The same weights compiled (15 seconds), beside the file they were exported to; not to be changed."""
    folder = exported_digits.parents[1]
    words = ["export", folder, "--untrained", "--method", "compiled", "--quiet"]
    subprocess.run([sys.executable, "-m", "py_authoring", *words], check=True)
    return exported_digits.with_name("model.pt2")


@pytest.fixture(scope="session")
def exported_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/mnist with its initial weights, as `py-authoring export` writes it; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "mnist"
    shutil.copytree(ROOT / "models/mnist", folder, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    subprocess.run([sys.executable, "-m", "py_authoring", "export", folder, "--untrained", "--quiet"], check=True)
    return folder / "1/model.pt"
