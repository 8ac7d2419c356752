"""examples/tables.py runs, on a model as `py-authoring export` writes it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("polars", "│ target ┆ label ┆ score"),
        ("duckdb", "│ target │ label_1 │ label_2 │"),
        ("pyarrow", "row 360: column `image`: a value is missing"),
    ],
)
def test_each_part_of_the_example_runs(exported_digits: Path, library: str, line: str) -> None:
    command = [sys.executable, str(ROOT / "examples/tables.py"), str(exported_digits), library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"== {library}: 359 digits\n") and line in done.stdout
