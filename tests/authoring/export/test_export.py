"""A checkpoint becomes a version: what is written, what the contract says, and what is refused before the write."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from py_authoring.contract import read_contract
from py_authoring.errors import (
    AuthoringError,
    InvalidContractError,
    ModelFileError,
    NotFoundError,
    ParityError,
    RecipeError,
    RefusedError,
    UsageError,
)
from py_authoring.export import Version, export, golden
from py_authoring.training import train
from py_authoring.verify import verify

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., Version]


def copy_of(name: str) -> Path:
    shutil.copytree(ROOT / "models" / name, Path("models") / name, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    return Path("models") / name


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("mnist", "script"),
        ("mnist", "trace"),
        ("some_nn_arch", "script"),
        ("some_nn_arch", "trace"),
        ("lstm", "script"),
        ("control_flow", "script"),
    ],
)
def test_every_model_of_the_repository_exports_and_verifies(name: str, method: str) -> None:
    version = export(copy_of(name), method=method, untrained=True)
    assert version.path == Path("models") / name / "1" / "model.pt"
    assert version.contract.provenance.method == method
    assert version.contract.dims["batch"].min == 0
    assert all(difference.within for difference in version.differences.values())
    assert verify(version.path).ok
    assert [file.name for file in sorted(version.path.parent.iterdir())] == ["README.md", "model.pt"]


def test_control_flow_is_refused_by_trace_with_its_line() -> None:
    with pytest.raises(RefusedError, match=r"models/control_flow/model\.py:26`: `if bool\(x\.sum\(\) > 0\):`"):
        export(copy_of("control_flow"), method="trace")
    assert not Path("models/control_flow/1").exists()


def test_a_traced_lstm_is_refused_because_it_bakes_a_device_in() -> None:
    with pytest.raises(
        RefusedError, match=r"bakes in the device at `models/lstm/model\.py:\d+`: `states, _ = self\.lstm"
    ):
        export(copy_of("lstm"), method="trace", untrained=True)


def test_control_flow_keeps_every_path() -> None:
    version = export(copy_of("control_flow"))
    module = torch.jit.load(str(version.path))
    code = module.code
    assert "if " in code
    assert "for " in code


def test_a_trained_model_carries_its_run_metrics_and_data(trainable: Path) -> None:
    folder = trainable
    run = train(folder)
    version = export(folder, command="py-authoring export tiny")
    origin = version.contract.provenance
    assert (origin.run, origin.checkpoint, origin.command) == (run.path.name, "best", "py-authoring export tiny")
    assert origin.untrained is None
    assert origin.created is not None
    assert origin.created.endswith("Z")
    assert origin.torch_version == str(torch.__version__)
    assert {metric.name for metric in version.contract.metrics} >= {"loss", "accuracy"}
    assert {(metric.split, metric.samples) for metric in version.contract.metrics} == {("test", 18)}
    assert version.contract.data is not None
    assert version.contract.data.samples == 90
    card = version.path.with_name("README.md").read_text()
    assert "| epochs | 3 |" in card
    assert "## Evaluation" in card


def test_the_exported_weights_are_those_of_the_checkpoint(trainable: Path) -> None:
    folder = trainable
    run = train(folder)
    version = export(folder, checkpoint="last")
    saved = torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"]
    exported = torch.jit.load(str(version.path)).state_dict()
    assert list(exported) == list(saved)
    assert all(torch.equal(exported[name], saved[name]) for name in saved)


def test_the_recipe_of_the_run_counts_for_the_model_and_the_present_one_for_the_export(trainable: Path) -> None:
    folder = trainable
    train(folder)
    text = (folder / "recipe.toml").read_text()
    model = '[model]\nclass = "Tiny"\narguments = { hidden = 5 }\n'
    (folder / "recipe.toml").write_text(
        text.replace('[model]\nclass = "Tiny"\n', model) + '[export]\ndescription = "new"\noutput_names = ["scores"]\n'
    )
    version = export(folder)
    assert version.contract.description == "new"
    assert version.contract.outputs[0].name == "scores"
    assert torch.jit.load(str(version.path)).state_dict()["first.weight"].shape == (8, 3)


def test_without_a_run_the_sentence_says_train(trainable: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        export(trainable)
    assert caught.value.hint == "`py-authoring train tiny`"


def test_untrained_and_a_checkpoint_contradict_each_other(trainable: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        export(trainable, untrained=True, checkpoint="last")


def test_initial_weights_are_those_of_the_seed_and_said_to_be_untrained() -> None:
    folder = copy_of("some_nn_arch")
    torch.manual_seed(123)  # whatever the caller's generator holds
    before = torch.random.get_rng_state()
    first, second = export(folder), export(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = export(folder, overrides=["training.seed=7"])
    weights = [torch.jit.load(str(version.path)).linear.weight for version in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.contract.provenance.untrained is True
    assert "untrained" in first.path.with_name("README.md").read_text()
    assert [version.number for version in (first, second, other)] == [1, 2, 3]


def test_versions_count_on_from_the_highest_number() -> None:
    folder = copy_of("some_nn_arch")
    for name in ("2", "10", "03", "notes"):
        (folder / name).mkdir()
    assert export(folder).number == 11


def test_the_archive_is_readable_with_the_standard_library_alone() -> None:
    version = export(copy_of("some_nn_arch"))
    with zipfile.ZipFile(version.path) as archive:
        assert archive.testzip() is None
        names = [name.partition("/")[2] for name in archive.namelist()]
        stem = archive.namelist()[0].partition("/")[0]
        document = json.loads(archive.read(f"{stem}/extra/contract.json"))
        tensors = safetensors.torch.load(archive.read(f"{stem}/extra/golden.safetensors"))
    assert {"extra/contract.json", "extra/golden.safetensors"} <= set(names)
    assert read_contract(json.dumps(document).encode()) == version.contract
    assert sorted(tensors)[:4] == ["0.input.h", "0.input.x", "0.output.new_h", "0.output.output"]
    assert [tensors[f"{number}.input.x"].shape[0] for number in range(4)] == [1, 2, 5, 1]
    assert "optional" not in document["inputs"][0]


def test_golden_examples_are_what_the_eager_model_gives() -> None:
    folder = copy_of("some_nn_arch")
    version = export(folder)
    extra = {"golden.safetensors": ""}
    module = torch.jit.load(str(version.path), _extra_files=extra)
    examples = golden.from_bytes(extra["golden.safetensors"], version.contract)  # type: ignore[arg-type]
    for example in examples:
        new_h = torch.tanh(example.inputs["x"] @ module.linear.weight.T + module.linear.bias + example.inputs["h"])
        torch.testing.assert_close(example.outputs["new_h"], new_h.detach())


def test_mnist_says_what_its_picture_is() -> None:
    contract = export(copy_of("mnist"), untrained=True).contract
    assert contract.image is not None
    assert (contract.image.input, contract.image.color, contract.image.layout) == ("image", "L", "NCHW")
    assert contract.inputs[0].dims == ["batch", 1, 28, 28]
    assert contract.outputs[0].labels == [str(digit) for digit in range(10)]
    assert contract.outputs[0].activation == "log_softmax"
    assert (contract.outputs[0].rtol, contract.outputs[0].atol) == (1.3e-6, 1e-5)


def test_lstm_has_a_free_length_and_labels() -> None:
    contract = export(copy_of("lstm"), untrained=True).contract
    assert contract.inputs[0].datatype == "INT64"
    assert contract.inputs[0].shape == [-1, -1]
    assert contract.inputs[0].dims == ["batch", "time"]
    assert contract.dims["time"].min == 1
    assert contract.outputs[0].labels == ["unbalanced", "balanced"]


def test_a_length_that_the_recipe_does_not_name_is_a_mistake_in_the_recipe() -> None:
    folder = copy_of("lstm")
    file = folder / "recipe.toml"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("dynamic")))
    with pytest.raises(RecipeError, match="axis 1 of input `tokens` has sizes"):
        export(folder, untrained=True)


def test_a_dict_becomes_outputs_under_its_keys_in_its_order(make_export: Make) -> None:
    contract = make_export('return {"b": self.linear(x), "a": x.sum(1)}').contract
    assert [output.name for output in contract.outputs] == ["b", "a"]
    assert contract.returns == {"b": "b", "a": "a"}
    assert contract.outputs[1].dims == ["batch"]


def test_nested_results_are_flattened_and_the_tree_is_kept(make_export: Make) -> None:
    version = make_export("return x, ([self.linear(x), x * 2], x.sum())")
    assert version.contract.returns == ["output_0", [["output_1", "output_2"], "output_3"]]
    assert version.contract.outputs[3].shape == []
    assert verify(version.path).ok


def test_bfloat16_goes_all_the_way(make_export: Make) -> None:
    version = make_export(
        "return self.linear(x.to(torch.bfloat16))", init="self.linear = nn.Linear(4, 4).to(torch.bfloat16)"
    )
    assert version.contract.outputs[0].datatype == "BF16"
    assert version.contract.outputs[0].rtol == 1.6e-2
    assert verify(version.path).ok


@pytest.mark.parametrize("name", [str(dtype).removeprefix("torch.") for dtype in golden.DATATYPES])
def test_every_datatype_of_the_contract_can_be_an_input_and_an_output(make_export: Make, name: str) -> None:
    code = "class M(nn.Module):\n    def forward(self, x: Tensor) -> Tensor:\n        return x[:, :2]\n\n\n"
    code += f"def example_inputs(count):\n    return {{'x': torch.randint(0, 2, (count, 4)).to(torch.{name})}}\n"
    version = make_export("", code=code)
    datatype = golden.DATATYPES[getattr(torch, name)]
    assert (version.contract.inputs[0].datatype, version.contract.outputs[0].datatype) == (datatype, datatype)
    assert verify(version.path).ok


def test_batch_0_that_eager_itself_refuses_is_a_bound_and_no_mistake(make_export: Make) -> None:
    assert make_export("return self.linear(x) - x.max()").contract.dims["batch"].min == 1


def test_a_largest_size_is_stated_where_a_larger_one_failed(make_export: Make) -> None:
    code = """class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Embedding(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position(torch.arange(x.size(1), device=x.device))


def example_inputs(count):
    return {"x": torch.randn(count, 9, 3)}
"""
    contract = make_export("", code=code, recipe='dynamic = { x = { "0" = "batch", "1" = "time" } }\n').contract
    assert (contract.dims["time"].min, contract.dims["time"].max) == (1, 9)
    assert contract.outputs[0].dims == ["batch", "time", 3]


def test_a_size_that_is_computed_gets_a_name_of_its_own(make_export: Make) -> None:
    code = """class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 5, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def example_inputs(count):
    return {"x": torch.randn(count, 2, 20)}
"""
    contract = make_export("", code=code, recipe='dynamic = { x = { "0" = "batch", "2" = "time" } }\n').contract
    assert contract.outputs[0].dims == ["batch", 3, "output_2"]
    assert contract.dims["time"].min == 10  # the smallest size that was tried and worked


def test_a_state_with_the_batch_on_its_second_axis(make_export: Make) -> None:
    code = """class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.gru(x, h)


def example_inputs(count):
    return {"x": torch.randn(7, count, 3), "h": torch.randn(2, count, 4)}
"""
    recipe = 'dynamic = { x = { "1" = "batch" }, h = { "1" = "batch" } }\n'
    contract = make_export("", code=code, recipe=recipe).contract
    assert contract.inputs[1].dims == [2, "batch", 4]
    assert [output.dims for output in contract.outputs] == [[7, "batch", 4], [2, "batch", 4]]


def test_an_input_with_a_default_is_optional_in_a_script_and_needed_in_a_trace(make_export: Make) -> None:
    code = """class M(nn.Module):
    def forward(self, x: Tensor, scale: Tensor = torch.ones(1)) -> Tensor:
        return x * scale


def example_inputs(count):
    return {"x": torch.randn(count, 4), "scale": torch.randn(count, 1)}
"""
    assert [part.optional for part in make_export("", code=code).contract.inputs] == [False, True]
    contract = make_export("", code=code, method="trace").contract
    assert [part.optional for part in contract.inputs] == [False, False]


# --- nothing is written -----------------------------------------------------------------------------------------------


def test_a_difference_past_the_tolerance_writes_nothing_and_names_everything(make_export: Make) -> None:
    with pytest.raises(ParityError) as caught:
        make_export("if torch.jit.is_scripting():\n    return self.linear(x) + 0.25\nreturn self.linear(x)")
    text = str(caught.value)
    assert "output `output`" in text
    assert "batch size 1" in text
    assert "absolute difference 0.25" in text
    assert "relative" in text
    assert sorted(path.name for path in Path("models/small").iterdir()) == ["model.py", "recipe.toml"]


def test_a_difference_within_the_tolerance_of_the_recipe_is_written(make_export: Make) -> None:
    forward = "if torch.jit.is_scripting():\n    return self.linear(x) + 0.25\nreturn self.linear(x)"
    version = make_export(forward, recipe="atol = 0.3\n")
    assert version.differences["output"].max_abs == pytest.approx(0.25, abs=1e-6)
    assert version.contract.outputs[0].atol == 0.3


def test_a_difference_at_one_batch_size_only_is_found(make_export: Make) -> None:
    forward = "if torch.jit.is_scripting() and x.size(0) == 5:\n    return self.linear(x) * 2\nreturn self.linear(x)"
    with pytest.raises(ParityError, match="batch size 5"):
        make_export(forward)


def test_a_difference_in_a_later_call_only_is_found(make_export: Make) -> None:
    forward = """if torch.jit.is_scripting():
    self.calls += 1
    if bool(self.calls > 2):
        return self.linear(x) + 1
return self.linear(x)"""
    init = "self.linear = nn.Linear(4, 4); self.register_buffer('calls', torch.zeros(1))"
    once = "dynamic = { x = {} }\ngolden_count = 1\n"  # two inputs in all, so each must go in several times
    with pytest.raises(ParityError, match="differs"):
        make_export(forward, init=init, recipe=once)


def test_an_exported_model_that_fails_where_eager_works_is_found(make_export: Make) -> None:
    forward = 'if torch.jit.is_scripting() and x.size(0) == 2:\n    raise ValueError("no two")\nreturn self.linear(x)'
    with pytest.raises(ParityError, match=r"fails at batch size 2, where the eager one works: .*no two"):
        make_export(forward)


@pytest.mark.parametrize(
    ("forward", "error", "words"),
    [
        ("return self.linear(x) + torch.rand(4)", RefusedError, "called twice"),
        ("return F.dropout(self.linear(x), 0.5, training=True)", RefusedError, "called twice"),
        ("return self.linear(x), 1.0", RefusedError, r"returns float at \[1\]"),
        ("return None", RefusedError, "returns NoneType"),
        ("return torch.fft.fft(self.linear(x))", RefusedError, "complex64"),
        ("return self.linear(x[:, :3])", ModelFileError, r"model\.py:12: forward fails at batch size 1"),
        ("return self.linear(x) + torch.zeros(2, 4)", ModelFileError, "batch size 5"),
        ("import math\nreturn self.linear(x)", RefusedError, r"model\.py:12`: `import math` cannot be scripted"),
    ],
)
def test_what_no_file_could_keep_is_refused_in_a_sentence(
    make_export: Make, forward: str, error: type[AuthoringError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        make_export(forward)
    assert "\n" not in str(caught.value)
    assert not Path("models/small/1").exists()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ('labels = ["a", "b"]\n', "2 labels, output `output` has 4 columns"),
        ('output_names = ["a", "b"]\n', "2 names, forward returns 1"),
        ('output_names = [""]\n', "empty name"),
        ('input_names = ["y"]\n', "input_names"),
        ('image = { color = "L" }\n', "2 dimensions, expected 4"),
        ('image = { color = "L", input = "picture" }\n', "no input"),
        ('dynamic = { y = { "0" = "batch" } }\n', "`y`, which is no input"),
        ('dynamic = { x = { "5" = "batch" } }\n', 'axis "5"'),
        ('dynamic = { x = { "0" = "" } }\n', "expected a word"),
    ],
)
def test_an_export_section_that_does_not_fit_the_model_is_misuse(make_export: Make, recipe: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        make_export("return self.linear(x)", recipe=recipe)
    assert caught.value.exit_code == 2


def test_example_inputs_must_be_named_as_the_arguments_are(make_export: Make) -> None:
    with pytest.raises(ModelFileError, match="lack forward's argument `pixels`"):
        make_export("return self.linear(pixels)", signature="pixels: Tensor")


def test_a_picture_with_the_wrong_number_of_channels_is_found() -> None:
    with pytest.raises(RecipeError, match='"RGB" has 3 channels'):
        export(copy_of("mnist"), untrained=True, overrides=["export.image.color=RGB"])


def test_golden_examples_that_do_not_fit_the_contract_are_refused() -> None:
    contract = export(copy_of("some_nn_arch")).contract
    good = {name: torch.zeros(1, 4) for name in ("x", "h")}, {name: torch.zeros(1, 4) for name in ("output", "new_h")}
    four = [golden.Example(*good)] * 4
    assert len(golden.from_bytes(golden.to_bytes(four), contract)) == 4
    for wrong, words in [
        ([*four[:3]], "lacks `3.input.x`"),
        ([*four, four[0]], "of which the contract knows nothing"),
        ([golden.Example({**good[0], "x": torch.zeros(1, 4).double()}, good[1]), *four[1:]], "FP64"),
        ([golden.Example({**good[0], "x": torch.zeros(4)}, good[1]), *four[1:]], r"shape \[4\]"),
    ]:
        with pytest.raises(InvalidContractError, match=words):
            golden.from_bytes(golden.to_bytes(wrong), contract)
    with pytest.raises(InvalidContractError, match="cannot be read"):
        golden.from_bytes(b"junk", contract)
