"""`--method onnx`: an ordinary ONNX file with contract and golden examples, checked in ONNX Runtime."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring import tools
from py_authoring.archive_view import InvalidFileContractError, InvalidModelError, parse_archive
from py_authoring.errors import DeviceError, RefusedError, UnavailableError
from py_authoring.export import Version, export
from py_authoring.export.onnx_file import Session
from py_authoring.verify import verify

onnx = pytest.importorskip("onnx", reason="extra `onnx` is not installed: make test does")
pytest.importorskip("onnxscript", reason="extra `onnx` is not installed: make test does")
pytest.importorskip("onnxruntime", reason="extra `onnx` is not installed: make test does")

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Version]


def copy_of(name: str) -> Path:
    ignore = shutil.ignore_patterns("runs", "[0-9]*", "trusted.toml")
    return Path(shutil.copytree(ROOT / "models" / name, Path("models") / name, ignore=ignore))


@pytest.mark.parametrize("name", ["mnist", "some_nn_arch", "lstm"])
def test_models_of_the_repository_export_and_verify(name: str, call: Run) -> None:
    version = export(copy_of(name), method="onnx", untrained=True)
    assert version.path == Path("models") / name / "1" / "model.onnx"
    assert version.contract.platform == "onnxruntime_onnx"
    assert version.contract.provenance.method == "onnx"
    assert version.contract.dims["batch"].min == 1
    assert verify(version.path).ok
    proto = onnx.load(version.path)
    onnx.checker.check_model(proto, full_check=True)
    for part, given in zip(proto.graph.input, version.contract.inputs, strict=True):
        sizes = [size.dim_param or size.dim_value for size in part.type.tensor_type.shape.dim]
        assert (part.name, sizes) == (given.name, given.dims)
    assert [part.name for part in proto.graph.output] == [part.name for part in version.contract.outputs]
    kept = {each.key: each.value for each in proto.metadata_props}
    assert json.loads(kept["rust_host.contract"]) == version.contract.to_dict()
    assert base64.b64decode(kept["rust_host.golden"])[8:9] == b"{"
    data = version.path.read_bytes()
    assert str(ROOT).encode() not in data
    assert str(Path(torch.__file__).parent).encode() not in data


def test_it_joins_the_version_of_the_same_weights(call: Run) -> None:
    folder = copy_of("some_nn_arch")
    export(folder)
    done = call("export", str(folder), "--method", "onnx")
    assert done.returncode == 0
    assert done.stdout == "models/some_nn_arch/1/model.onnx\n"
    assert "torchvision" not in done.stderr
    assert export(folder, method="onnx", overrides=["training.seed=1"]).path == folder / "2" / "model.onnx"


def test_it_computes_what_eager_does_at_sizes_that_the_export_never_saw(make_export: Make) -> None:
    version = make_export("return {'b': self.linear(x), 'a': (x + 1, x)}", method="onnx")
    module = Session(version.path.read_bytes())
    assert version.contract.returns == {"b": "b", "a": ["a_0", "a_1"]}
    for batch in (1, 2, 9, 100):
        x = torch.randn(batch, 4)
        got = module.run(["x"], {"x": x})
        assert [list(value.shape) for value in got] == [[batch, 4]] * 3
        torch.testing.assert_close(got[1], x + 1)


def test_a_bound_that_the_graph_has_is_in_the_contract(make_export: Make) -> None:
    version = make_export("if x.shape[0] > 64:\n    return x * 2\nreturn self.linear(x)", method="onnx")
    assert version.contract.dims["batch"].max == 64
    assert [note for note in version.notes if note.startswith("`batch` is at most 64 in the graph at `models/small/")]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (
            "s = self.linear(x)\nfor i in range(len(x)):\n    s = s + i\nreturn s",
            r"batch size 5 into .*`for i in range",
        ),
        (
            "if x.max() > 0:\n    return x\nreturn self.linear(x)",
            r"a value decides .*model\.py:12`: `if x\.max\(\) > 0",
        ),
        ("return torch.linalg.svdvals(x)", r"model\.py:12`: `return .*`: ONNX has no operator for `aten\._linalg_svd`"),
        ("return x.bfloat16() * 3", r"ONNX Runtime .* cannot run the graph: could not find an implementation for Mul"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused_with_its_line(make_export: Make, forward: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        make_export(forward, method="onnx")
    assert "\n" not in str(caught.value)
    assert not Path("models/small/1").exists()


def test_missing_packages_are_said_before_anything_is_done(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_spec", lambda name: None if name != "onnx" else object())
    done = call("export", str(copy_of("some_nn_arch")), "--method", "onnx")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        "error: ONNX needs the Python packages `onnxscript` and `onnxruntime`, not installed here"
    )
    assert "pip install onnxscript onnxruntime" in done.stderr
    monkeypatch.setattr(tools, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError):
        parse_archive(Path("a.onnx"), b"\x08\x08")


def test_inspect_shows_operators_and_the_graph(make_export: Make, call: Run) -> None:
    path = str(make_export("return torch.tanh(self.linear(x))", method="onnx").path)
    done = call("inspect", path)
    assert done.returncode == 0
    for words in (
        "opset       ai.onnx ",
        "operators   Gemm, Tanh",
        "inputs      x [batch, 4]",
        "parameters  20 (80 bytes)",
    ):
        assert words in done.stdout
    assert "Tanh (" in call("inspect", path, "--graph").stdout
    assert call("inspect", path, "--code").returncode == 2
    assert json.loads(call("inspect", path, "--json").stdout)["platform"] == "onnxruntime_onnx"


def test_an_onnx_file_of_others_is_shown_and_has_nothing_to_verify(make_export: Make, call: Run) -> None:
    proto = onnx.load(make_export("return self.linear(x)", method="onnx").path)
    del proto.metadata_props[:]
    onnx.save(proto, "other.onnx")
    assert "contract    none: inputs are those of the graph" in call("inspect", "other.onnx").stdout
    done = call("verify", "other.onnx")
    assert (done.returncode, "has no contract, so there is nothing to verify" in done.stderr) == (2, True)


def test_a_datatype_that_onnx_does_not_know_is_a_sentence(make_export: Make, call: Run) -> None:
    proto = onnx.load(make_export("return self.linear(x)", method="onnx").path)
    proto.graph.initializer[0].data_type = 99
    Path("odd.onnx").write_bytes(proto.SerializeToString())
    done = call("inspect", "odd.onnx")
    assert (done.returncode, done.stderr.startswith("error: `odd.onnx` holds what onnx ")) == (2, True)


def test_damaged_files_are_a_sentence(make_export: Make, call: Run) -> None:
    version = make_export("return self.linear(x)", method="onnx")
    data = version.path.read_bytes()
    for cut in (1, 2, 3, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(InvalidModelError, match="no ONNX file"):
            parse_archive(Path("cut.onnx"), data[:cut])
    Path("text.onnx").write_text("hello\n")
    assert call("verify", "text.onnx").returncode == 2
    proto = onnx.load(version.path)
    next(each for each in proto.metadata_props if each.key == "rust_host.golden").value = "no base64!"
    with pytest.raises(InvalidFileContractError, match="is no base64"):
        parse_archive(Path("m.onnx"), proto.SerializeToString())
    with pytest.raises(DeviceError):
        verify(version.path, device="cuda")


def test_other_weights_are_over_the_tolerance(make_export: Make) -> None:
    version = make_export("return self.linear(x)", method="onnx")
    proto = onnx.load(version.path)
    bias = next(each for each in proto.graph.initializer if list(each.dims) == [4])
    bias.raw_data = torch.ones(4).numpy().tobytes()
    onnx.save(proto, "changed.onnx")
    assert not verify("changed.onnx").ok
