"""What a compiled model needs libtorch for is named with its line, and refused where the recipe says so."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring.errors import RefusedError
from py_authoring.export import Version, compiled, elf, operators
from py_authoring.export.graph import Place
from py_authoring.export.operators import Need

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., Version]
FORWARD = """y = torch.logcumsumexp(self.linear(x), 1)
return y @ torch.linalg.inv(y.T @ y + torch.eye(4))"""


def test_an_operator_of_libtorch_is_refused_with_its_line_and_nothing_is_written(make_export: Make) -> None:
    with pytest.raises(RefusedError) as caught:
        make_export(FORWARD, method="compiled", recipe="without_libtorch = true\n")
    said = str(caught.value)
    assert said.startswith("the compiled model needs libtorch for `")
    assert "`logcumsumexp` at `models/small/model.py:12`: `y = torch.logcumsumexp(self.linear(x), 1)`" in said
    # it has no C function of its own: one for all such operators takes its name
    assert "`linalg_inv_ex` at `models/small/model.py:13`: `return y @ torch.linalg.inv(" in said
    assert said.endswith(", and export.without_libtorch is true")
    assert "proxy_executor" not in said
    assert caught.value.exit_code == 1
    assert not Path("models/small/1").exists()


def test_a_model_without_such_operators_is_not_refused() -> None:
    operators.refuse_needs([])
    assert compiled._said(["AVX2"], [], (2, 34)) == [
        "compiled for AVX2: other processors need an export of their own; runs without libtorch"
    ]


def test_the_note_of_an_export_names_operators_lines_and_a_newer_c_library() -> None:
    needs = [Need("sort_stable", Place("model.py", 3, "y = x.sort()")), Need("histc")]
    assert compiled._said(["AVX2"], needs, (2, 38)) == [
        "compiled for AVX2: other processors need an export of their own; "
        "needs libtorch for `sort_stable` at `model.py:3`: `y = x.sort()`, `histc`",
        "needs glibc 2.38, which systems from before this one may lack",
    ]


def test_an_operator_that_is_called_by_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["aoti_torch_cpu_bmm_out", "aoti_torch_get_sizes", "aoti_torch_proxy_executor_call_function"]
    monkeypatch.setattr(elf, "undefined_symbols", lambda data: asked)
    listed = json.dumps({"nodes": [{"name": "buf0", "node": {"target": "aten::linalg_inv_ex.default"}}]}).encode()
    files = {"a.wrapper.so": b"", "a.wrapper_metadata.json": b"{}", "a.wrapper.json": listed}
    assert [need.name for need in operators.needs_of(files, {})] == ["bmm_out", "linalg_inv_ex"]
    del files["a.wrapper.json"]  # at least that there is one
    assert [need.name for need in operators.needs_of(files, {})] == ["bmm_out", "proxy_executor_call_function"]


def test_what_the_host_answers_is_what_it_is_asked_for() -> None:
    source = ROOT / "rust_host" / "backends" / "compiled" / "src" / "own" / "mod.rs"
    if not source.exists():
        pytest.skip("this checkout's host has no functions of its own")
    text = source.read_text()
    rows = re.findall(r'"(aoti_torch|GOMP|omp)_" (?:tensor|threads):([^;]*);', text)
    listed = {prefix: names.split() for prefix, names in rows}
    of_threads = [f"{prefix}_{name}" for prefix in ("GOMP", "omp") for name in listed[prefix]]
    assert {*listed["aoti_torch"], *of_threads} == elf.ANSWERED
