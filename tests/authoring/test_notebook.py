"""The notebook under examples/ is small, was executed, and its cells still do what they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples/runs.ipynb"

# As a notebook does it: the value of a cell's last expression is shown, by `_repr_html_` where it has one.
KERNEL = """
import ast, json, sys

names, shown = {"__name__": "__main__"}, []
for source in json.load(sys.stdin):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last is not None else None
    shown.append([type(value).__name__, hasattr(value, "_repr_html_") and len(value._repr_html_())])
json.dump(shown, open(3, "w"))
"""


def code_cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebook_is_small_and_was_executed_from_top_to_bottom() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
    document = json.loads(NOTEBOOK.read_text())
    assert document["nbformat"] == 4
    assert [cell["execution_count"] for cell in code_cells()] == list(range(1, len(code_cells()) + 1))
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("text/html" in output.get("data", {}) for output in outputs) == 6


def test_cells_of_the_notebook_run_and_show_what_was_stored() -> None:
    sources = ["".join(cell["source"]) for cell in code_cells()]
    reader, writer = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-c", f'exec "$0" -c "$1" 3>&{writer}', sys.executable, KERNEL]
    with os.fdopen(reader) as read:
        result = subprocess.run(
            command,
            input=json.dumps(sources),
            env=environment,
            pass_fds=[writer],
            capture_output=True,
            text=True,
            timeout=120,
        )
        os.close(writer)
        assert result.returncode == 0, result.stderr
        shown = json.load(read)
    for cell, (kind, html) in zip(code_cells(), shown, strict=True):
        stored = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
        assert bool(stored) == (kind != "NoneType"), cell["source"]
        assert bool(html) == any("text/html" in data for data in stored)
