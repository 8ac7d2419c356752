"""The models of the repository: each builds, takes what it says, and learns what it is there for."""

import doctest
import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from py_authoring.data import load_splits
from py_authoring.errors import ModelFileError, NotFoundError
from py_authoring.export import export
from py_authoring.model_file import build_model, example_inputs, forward_arguments
from py_authoring.recipe import load_recipe
from py_authoring.run_evaluation import evaluate_run
from py_authoring.training import train

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["atomic", "errors", "recipe", "recipe_toml", "recipe_problems", "recipe_schema", "model_file", "data"]
MODULES += ["device", "objective", "optimization", "handlers", "cli.output", "learnt", "preprocessing", "splitting"]
MODULES += ["pictures", "data_workers", "table_data", "prediction", "prediction_text"]
MODULES += ["runs", "run_state", "evidence", "pretrained", "detection"]
MODULES += ["report.charts", "report.drawing", "report.page", "report.subject"]


def copy(name: str) -> Path:
    """A model in a folder of its own, so that a test leaves no run in the repository."""
    return Path(
        shutil.copytree(ROOT / "models" / name, Path("models") / name, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    )


@pytest.mark.parametrize(
    "name",
    [
        *("mnist", "some_nn_arch", "lstm", "control_flow", "diabetes"),
        *("resnet18", "detector", "autoencoder", "recurrent", "text"),
    ],
)
def test_every_model_takes_its_example_inputs_at_any_batch_size(name: str) -> None:
    resolved = load_recipe(ROOT / "models" / name)
    torch.manual_seed(0)
    model = build_model(resolved).eval()
    for count in (1, 3):
        inputs = example_inputs(resolved, count, seed=1)
        assert list(inputs) == forward_arguments(model)
        assert all(len(value) == count for value in inputs.values())
        again = example_inputs(resolved, count, seed=1)
        assert all(torch.equal(inputs[key], again[key]) for key in inputs)
        model(**inputs)


def test_digits_are_learnt_and_at_least_97_percent_of_held_out_ones_are_right() -> None:
    folder = copy("mnist")
    run = train(folder, say=lambda text: None)
    result = evaluate_run(folder)
    assert result.split == "test" and result.evaluation.samples == 359
    assert result.evaluation.metrics["accuracy"] >= 0.97
    assert result.picture == run.path / "confusion_matrix.png"
    confusion = torch.tensor(result.evaluation.confusion)
    assert confusion.sum() == 359 and confusion.shape == (10, 10)
    per_class = result.evaluation.per_class or []
    for number, each in enumerate(per_class):
        assert each.samples == confusion[number].sum()
        assert each.recall == pytest.approx(confusion[number, number] / confusion[number].sum())
        assert each.precision == pytest.approx(confusion[number, number] / confusion[:, number].sum())
    right = confusion.diagonal().sum() / confusion.sum()
    assert result.evaluation.metrics["accuracy"] == pytest.approx(right)


def test_brackets_are_learnt_which_counting_cannot_do() -> None:
    folder = copy("lstm")
    splits = load_splits(load_recipe(folder))
    balanced = 0
    for index in range(len(splits.test)):
        inputs, target = splits.test[index]
        counts = [int((inputs["tokens"] == token).sum()) for token in range(5)]
        assert counts[0] == 0 and counts[1] == counts[3] and counts[2] == counts[4]  # of either class
        balanced += int(target)
    assert 0.4 < balanced / len(splits.test) < 0.6
    train(folder, say=lambda text: None)
    assert evaluate_run(folder).evaluation.metrics["accuracy"] >= 0.9


def test_progression_of_diabetes_is_learnt_from_columns_of_numbers_and_a_category() -> None:
    folder = copy("diabetes")
    bunch = load_diabetes(scaled=False)
    table = np.loadtxt(folder / "patients.csv", delimiter=",", skiprows=1)
    assert np.array_equal(table, np.column_stack([bunch.data, bunch.target]))
    train(folder, say=lambda text: None)
    result = evaluate_run(folder)
    # the mean of all would give 0, least squares over the same columns gives 0.5
    assert result.split == "test" and result.evaluation.metrics["r2"] >= 0.45
    version = export(folder)
    assert [part.name for part in version.contract.inputs] == [*bunch.feature_names]
    description = next(part.description for part in version.contract.inputs if part.name == "sex")
    assert description == "a category: 1, 2; any other counts as unknown"


def test_length_of_a_neighbour_does_not_change_a_sequence_s_scores() -> None:
    resolved = load_recipe(ROOT / "models" / "lstm")
    model = build_model(resolved).eval()
    short = torch.tensor([[1, 3]])
    padded = torch.tensor([[1, 3, 0, 0, 0], [1, 2, 4, 3, 0]])
    assert torch.allclose(model(short)[0], model(padded)[0], atol=1e-6)


def test_result_of_control_flow_takes_both_branches_and_several_lengths() -> None:
    resolved = load_recipe(ROOT / "models" / "control_flow")
    torch.manual_seed(resolved.recipe.training.seed)
    model = build_model(resolved).eval()
    scripted = torch.jit.script(model)
    lengths, signs = set(), set()
    for seed in range(40):
        (x,) = example_inputs(resolved, 2, seed).values()
        assert torch.equal(model(x), scripted(x))
        lengths.add(1 + int(x.abs().sum()) % 4)
        signs.add(bool(model(x).min() < -0.5))
    assert lengths == {1, 2, 3, 4} and signs == {True, False}


def test_model_with_other_channels_and_what_does_not_fit() -> None:
    model = build_model(load_recipe(ROOT / "models" / "mnist", overrides=["model.arguments.in_channels=3"]))
    assert model(torch.rand(1, 3, 28, 28)).shape == (1, 10)
    with pytest.raises(ModelFileError, match=r"has no class `Nets`; did you mean Net\?"):
        build_model(load_recipe(ROOT / "models" / "mnist", overrides=["model.class=Nets"]))
    with pytest.raises(ModelFileError, match=r"does not fit model\.arguments: got an unexpected keyword argument"):
        build_model(load_recipe(ROOT / "models" / "mnist", overrides=["model.arguments.channels=3"]))
    folder = copy("mnist")
    (folder / "model.py").unlink()
    with pytest.raises(NotFoundError, match=r"model\.py` is not there"):
        build_model(load_recipe(folder))


def test_evaluation_says_what_is_missing() -> None:
    folder = copy("mnist")
    with pytest.raises(NotFoundError, match="has no run"):
        evaluate_run(folder)
    with pytest.raises(NotFoundError, match=r"checkpoint `nowhere\.pt` is not there"):
        evaluate_run(folder, checkpoint="nowhere.pt")


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_are_true(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(importlib.import_module(f"py_authoring.{module}"), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
