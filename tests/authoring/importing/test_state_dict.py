"""Weights in safetensors for a model that is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from py_authoring.errors import CheckpointError, UsageError
from py_authoring.export import export
from py_authoring.export.weights import load_weights
from py_authoring.importing import import_model
from py_authoring.importing.errors import ForeignFileError
from py_authoring.model_file import build_model
from py_authoring.recipe import load_recipe

CODE = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))

def example_inputs(batch_size):
    return {"x": torch.randn(batch_size, 3)}
"""

MakeModel = Callable[..., Path]


@pytest.fixture
def weights(make_model: MakeModel) -> dict[str, Tensor]:
    """Those of models/tiny, other than any seed gives."""
    state = build_model(load_recipe(make_model())).state_dict()
    return {name: torch.full_like(value, 2) for name, value in state.items()}


def test_weights_become_the_best_checkpoint_of_a_recipe(weights: dict[str, Tensor]) -> None:
    save_file(weights, "w.safetensors")
    made = import_model("w.safetensors", model="tiny")
    assert made.path.name == "best.pt" and made.checked == "all 9 tensors fit, name by name"
    loaded = load_weights("tiny")
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.state_dict().items())


def test_a_class_without_a_recipe_gets_one_and_exports_those_weights(call_command: Any) -> None:
    Path("models/pair").mkdir(parents=True)
    Path("models/pair/model.py").write_text(CODE)
    state = {"first.weight": torch.ones(4, 3), "first.bias": torch.zeros(4)}
    save_file({**state, "last.weight": torch.ones(2, 4), "last.bias": torch.zeros(2)}, "w.safetensors")
    code, out, err = call_command("import", "w.safetensors", "--model", "models/pair/model.py:Pair")
    assert code == 0 and out.startswith("models/pair/runs/") and err.endswith("next: py-authoring export pair\n")
    assert torch.equal(load_weights("pair").model.state_dict()["first.weight"], torch.ones(4, 3))
    model = torch.jit.load(export("pair").path)
    assert model(torch.ones(1, 3)).tolist() == [[12.0, 12.0]]


def test_the_first_parameter_that_differs_is_named_with_both_shapes(weights: dict[str, Tensor]) -> None:
    weights["last.weight"], weights["last.bias"] = torch.zeros(5, 8), torch.zeros(5)
    save_file(weights, "w.safetensors")
    with pytest.raises(CheckpointError, match=r"`last.weight` has shape \[5, 8\] in `w.safetensors` and \[2, 8\] in"):
        import_model("w.safetensors", model="tiny")
    assert not Path("models/tiny/runs").exists()


def test_a_parameter_under_another_name_is_found_by_its_shape(weights: dict[str, Tensor]) -> None:
    save_file({f"module.{name}": value for name, value in weights.items()}, "w.safetensors")
    with pytest.raises(CheckpointError, match=r"has no `first.weight`, .* shape \[8, 3\]") as error:
        import_model("w.safetensors", model="tiny")
    assert error.value.hint == "`module.first.weight` in the file has that shape"


def test_a_parameter_too_many_is_named(weights: dict[str, Tensor]) -> None:
    save_file({**weights, "head.weight": torch.zeros(7)}, "w.safetensors")
    with pytest.raises(CheckpointError, match=r"has `head.weight` of shape \[7\], which model.py does not have"):
        import_model("w.safetensors", model="tiny")


def test_what_is_wrong_with_file_or_model_is_a_sentence(weights: dict[str, Tensor]) -> None:
    save_file(weights, "w.safetensors")
    with pytest.raises(UsageError, match="holds weights and no architecture"):
        import_model("w.safetensors")
    with pytest.raises(UsageError, match=r"has model.class `Tiny`, `--model` names `Other`"):
        import_model("w.safetensors", model="models/tiny/model.py:Other")
    Path("cut.safetensors").write_bytes(Path("w.safetensors").read_bytes()[:-9])
    with pytest.raises(ForeignFileError, match="is no safetensors file, or is damaged"):
        import_model("cut.safetensors", model="tiny")


def test_a_recipe_written_for_weights_that_do_not_fit_goes_again(weights: dict[str, Tensor]) -> None:
    Path("models/pair").mkdir(parents=True)
    Path("models/pair/model.py").write_text(CODE)
    save_file(weights, "w.safetensors")
    with pytest.raises(CheckpointError, match=r"`first.weight` has shape \[8, 3\]"):
        import_model("w.safetensors", model="models/pair/model.py:Pair")
    assert [path.name for path in Path("models/pair").iterdir()] == ["model.py"]
