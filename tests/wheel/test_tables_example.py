"""examples/tables.py runs, on a model as `py-authoring export` writes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/mnist with its initial weights."""
    folder = tmp_path_factory.mktemp("models") / "mnist"
    shutil.copytree(ROOT / "models/mnist", folder, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    subprocess.run([sys.executable, "-m", "py_authoring", "export", folder, "--untrained", "--quiet"], check=True)
    return folder / "1/model.pt"


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("polars", "│ target ┆ label ┆ score"),
        ("duckdb", "│ target │ label_1 │ label_2 │"),
        ("pyarrow", "row 360: column `image`: a value is missing"),
    ],
)
def test_each_part_of_the_example_runs(exported: Path, library: str, line: str) -> None:
    command = [sys.executable, str(ROOT / "examples/tables.py"), str(exported), library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"== {library}: 359 digits\n") and line in done.stdout
