"""`--precision`: smaller numbers inside the file, what that costs measured, written down, and bounded."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring.archive_view import read_archive
from py_authoring.contract import Metric
from py_authoring.errors import ParityError, RecipeError, RefusedError
from py_authoring.export import Version, export
from py_authoring.export.precision import check_metrics
from py_authoring.export.sibling import find_sibling
from py_authoring.training import train
from py_authoring.verify import verify

ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "target" / "release" / "rust-host"
Run = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Version]


@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("precision", ["bf16", "int8-dynamic"])
def test_a_smaller_model_carries_what_it_cost(trainable: Path, precision: str, method: str) -> None:
    train(trainable)
    whole = export(trainable, method=method)
    version = export(trainable, method=method, precision=precision)
    contract = version.contract
    assert contract.provenance.precision == precision
    assert whole.contract.provenance.precision is None
    own = {metric.name for metric in contract.metrics if metric.precision is None}
    before = {metric.name: metric.value for metric in contract.metrics if metric.precision == "fp32"}
    assert own == set(before)
    assert before == {metric.name: metric.value for metric in whole.contract.metrics}
    assert [note for note in version.notes if note.startswith(f"{precision}: loss ")]
    difference = version.differences["output"]
    assert 0 < difference.max_abs <= contract.outputs[0].atol / 2 * 1.0001
    assert contract.inputs[0].datatype == contract.outputs[0].datatype == "FP32"
    module = torch.jit.load(str(version.path))
    assert ("bfloat16" in str(next(module.parameters()).dtype)) == (precision == "bf16")
    assert verify(version.path).ok
    card = version.path.with_name("README.md").read_text()
    assert "accuracy (fp32)" in card
    assert card.count('"type": "accuracy"') == 1


@pytest.mark.skipif(not HOST.is_file(), reason="rust-host is not built: make build")
@pytest.mark.parametrize("precision", ["bf16", "int8-dynamic"])
def test_rust_host_runs_it(make_export: Make, precision: str) -> None:
    version = make_export(
        "y, (h, c) = self.lstm(x.unsqueeze(1))\nreturn y.squeeze(1), h[0]",
        init="self.lstm = nn.LSTM(4, 3, batch_first=True)",
        recipe=f'precision = "{precision}"\n',
    )
    done = subprocess.run([HOST, "verify", version.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reproduces all of 4 golden examples" in done.stdout


def test_nested_outputs_and_whole_numbers_pass_through_bf16(make_export: Make) -> None:
    version = make_export(
        "y = self.linear(x)\nreturn y, (y.argmax(1), y * 2)", recipe='precision = "bf16"\nbatch_sizes = [2]\n'
    )
    assert version.contract.returns == ["output_0", ["output_1", "output_2"]]
    assert [part.datatype for part in version.contract.outputs] == ["FP32", "INT64", "FP32"]
    assert (version.contract.outputs[1].rtol, version.contract.outputs[1].atol) == (0, 0)


def test_a_metric_that_falls_too_far_is_refused() -> None:
    before = [Metric(name="accuracy", value=0.9), Metric(name="rmse", value=1.0), Metric(name="loss", value=0.1)]
    check_metrics(before, [Metric(name="accuracy", value=0.895), Metric(name="loss", value=9.0)], 0.01, "bf16")
    with pytest.raises(RefusedError, match=r"bf16 costs too much: accuracy 0.9000 → 0.8000, worse by 0.1000, allowed"):
        check_metrics(before, [Metric(name="accuracy", value=0.8)], 0.01, "bf16")
    with pytest.raises(RefusedError, match=r"rmse 1\.0000 → 1\.5000"):
        check_metrics(before, [Metric(name="rmse", value=1.5)], 0.01, "bf16")
    check_metrics(before, [Metric(name="rmse", value=0.5)], 0.01, "bf16")
    check_metrics(before, [Metric(name="loss", value=None)], 0.01, "bf16")
    with pytest.raises(RefusedError, match=r"rmse was 1\.0000 and is not finite"):
        check_metrics(before, [Metric(name="rmse", value=None)], 0.01, "bf16")


def test_the_bound_is_the_recipes_and_nothing_is_written_past_it(
    trainable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: torch.nn.Module, *arguments: object) -> torch.nn.Module:
        import copy

        spoilt = copy.deepcopy(model)
        with torch.no_grad():
            spoilt.last.weight.neg_()  # type: ignore[union-attr, operator]
            spoilt.last.bias.neg_()  # type: ignore[union-attr, operator]
        return spoilt

    train(trainable)
    monkeypatch.setattr("py_authoring.export.reduce", spoil)
    with pytest.raises(RefusedError, match="bf16 costs too much: accuracy"):
        export(trainable, precision="bf16")
    assert not (trainable / "1").exists()
    assert export(trainable, precision="bf16", overrides=["export.max_metric_drop=1"]).number == 1


def test_what_cannot_be_made_smaller_is_a_sentence(make_export: Make, call: Run) -> None:
    with pytest.raises(RefusedError, match=r"int8-dynamic is for nn\.Linear and nn\.LSTM, and the model has neither"):
        make_export("return x * 2", init="pass", recipe='precision = "int8-dynamic"\n')
    with pytest.raises(RefusedError, match=r"the model fails in bf16 at batch size 1.*: RuntimeError: "):
        make_export("return self.linear(x) @ torch.ones(4)", recipe='precision = "bf16"\n')
    done = call("export", "models/small", "--precision", "int8-dynamic", "--method", "compiled")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        'error: export.precision "int8-dynamic" is for script, trace, not for compiled'
    )
    with pytest.raises(RecipeError):
        export("models/small", precision="bf16", method="onnx")
    assert not Path("models/small/1").exists()


def test_a_mistake_of_the_export_does_not_hide_in_the_wide_tolerance(
    make_export: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from py_authoring.export import precision

    monkeypatch.setattr(precision, "_ROOM", 1e6)
    original = precision.run_reduced

    def apart(*arguments: object) -> object:
        cases = original(*arguments)  # type: ignore[arg-type]
        for case in cases:
            case.outputs["output"].add_(0.5)
        return cases

    monkeypatch.setattr("py_authoring.export.run_reduced", apart)
    with pytest.raises(ParityError):
        make_export("return self.linear(x)", recipe='precision = "bf16"\n')


def test_another_precision_is_another_version(make_export: Make) -> None:
    version = make_export("return self.linear(x)", recipe='precision = "bf16"\n')
    contract = version.contract.model_copy(update={"platform": "torch_aoti"})
    archive = read_archive(version.path)
    from py_authoring.export import golden

    examples = golden.from_bytes(archive.extra["golden.safetensors"], version.contract)
    folder = version.path.parents[1]
    assert find_sibling(folder, contract, examples) is not None
    widened = [part.model_copy(update={"rtol": 1.0, "atol": 1.0}) for part in contract.outputs]
    other = golden.from_bytes(archive.extra["golden.safetensors"], version.contract)
    next(iter(other[0].outputs.values())).add_(1e-2)
    assert find_sibling(folder, contract.model_copy(update={"outputs": widened}), other) is None
    other = golden.from_bytes(archive.extra["golden.safetensors"], version.contract)
    other[0].inputs["x"] = other[0].inputs["x"].double()
    assert find_sibling(folder, contract, other) is None
    provenance = contract.provenance.model_copy(update={"precision": None})
    assert find_sibling(folder, contract.model_copy(update={"provenance": provenance}), examples) is None
