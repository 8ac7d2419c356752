"""What `rust-host tune` left beside a model is followed in a Python process too, unless the user chose."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "rust_host/cli/tests/data/classifier.torchscript"
SAYS = "import rust_host; rust_host.Model({0!r}); print(rust_host.threads())"


def python(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A version's folder, whose settings say 3 threads."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copy(MODEL, folder / "model.pt")
    words = [sys.executable, "-m", "rust_host", "tune", str(folder), "--seconds", "0.05"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    settings = folder / "host.toml"
    settings.write_text(re.sub(r"(?m)^threads = .*$", "threads = 3", settings.read_text(), count=1))
    return folder


def test_the_measured_threads_are_set_by_folder_and_by_file(tuned):
    assert python(SAYS.format(str(tuned))).stdout == "3\n"
    assert python(SAYS.format(str(tuned / "model.pt"))).stdout == "3\n"


def test_what_the_user_chose_stays(tuned):
    text = "import rust_host; rust_host.set_threads(2); rust_host.Model({0!r}); print(rust_host.threads())"
    assert python(text.format(str(tuned))).stdout == "2\n"


def test_a_bad_file_is_a_sentence(tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "bad")
    (tmp_path / "bad/host.toml").write_text("threads = 3")
    result = python(SAYS.format(str(tmp_path / "bad")))
    assert result.returncode == 1
    assert "InvalidInputError" in result.stderr and "host.toml`: line 1: missing field" in result.stderr


def test_one_processor_makes_one_thread(tmp_path):
    shutil.copy(MODEL, tmp_path / "model.pt")
    pinned = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {SAYS.format(str(tmp_path))}"
    assert python(pinned).stdout == "1\n"
