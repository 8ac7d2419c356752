"""One step of the trainer: micro-batches sum up to the whole batch, bfloat16 stays inside forward and backward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from py_authoring.errors import RecipeError
from py_authoring.recipe import load_recipe
from py_authoring.trainer import build_trainer, micro_batches

MakeModel = Callable[..., Path]

LOSSES: dict[str, tuple[dict[str, Any], int, Tensor, Tensor | None]] = {
    "nll, weighted": ({"name": "nll"}, 3, torch.arange(11) % 3, torch.tensor([0.2, 3.0, 1.0])),
    "nll, some ignored": ({"name": "nll"}, 3, torch.tensor([-100, -100, -100, -100, 0, 1, 2, 0, -100, 2, 1]), None),
    "nll, a class without weight": ({"name": "nll"}, 2, torch.tensor([0] * 8 + [1] * 3), torch.tensor([0.0, 1.0])),
    "cross_entropy, smoothed and weighted": (
        {"name": "cross_entropy", "label_smoothing": 0.1},
        3,
        torch.arange(11) % 3,
        torch.tensor([0.2, 3.0, 1.0]),
    ),
    "cross_entropy, probabilities": (
        {"name": "cross_entropy"},
        3,
        torch.softmax(torch.arange(33.0).reshape(11, 3) % 5, dim=1),
        torch.tensor([0.2, 3.0, 1.0]),
    ),
    "bce_with_logits": ({"name": "bce_with_logits"}, 1, torch.arange(11) % 2, None),
    "bce_with_logits, weighted": ({"name": "bce_with_logits"}, 1, torch.arange(11) % 2, torch.tensor([0.3, 2.0])),
    "mse": ({"name": "mse"}, 2, torch.arange(22.0).reshape(11, 2), None),
    "l1": ({"name": "l1"}, 1, torch.arange(11.0), None),
    "smooth_l1": ({"name": "smooth_l1"}, 1, torch.arange(11.0) / 5, None),
}


def step(
    make_model: MakeModel, loss: dict[str, Any], outputs: int, target: Tensor, weights: Tensor | None, *extra: str
) -> tuple[float, dict[str, Tensor], nn.Module]:
    """The loss, the gradients and the model after one step on a batch of 11."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(4, outputs)] + ([nn.LogSoftmax(1)] if loss["name"] == "nll" else [])

    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x.dtype, len(x)
            output = super().forward(x)
            self.computed = self[0](x).dtype
            return output

    model = Net(*layers)
    overrides = [f"loss.{key}={value}" for key, value in loss.items()]
    resolved = load_recipe(make_model(), overrides=["training.batch_size=11", *overrides, *extra])
    batch = {"x": torch.randn(11, 4)}, target
    trainer = build_trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), resolved, torch.device("cpu"), weights)
    trainer.run([batch])
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert isinstance(trainer.state.output, float)
    return trainer.state.output, gradients, model


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_give_the_loss_and_gradient_of_the_whole_batch(make_model: MakeModel, name: str) -> None:
    whole, expected, _ = step(make_model, *LOSSES[name])
    accumulated, gradients, model = step(make_model, *LOSSES[name], "training.accumulate=4")
    assert model.seen[1] in (2, 3)
    assert accumulated == pytest.approx(whole, rel=1e-6)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-5, atol=1e-7)


def test_micro_batches_are_of_nearly_equal_size_and_hold_every_sample() -> None:
    for samples, size in [(64, 16), (49, 16), (17, 16), (16, 16), (1, 16), (5, 2)]:
        batch = {"x": torch.arange(samples), "y": -torch.arange(samples)}, torch.arange(samples)
        parts = list(micro_batches(batch, -(-samples // size)))
        sizes = [len(target) for _, target in parts]
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1, sizes
        for name in ("x", "y"):
            assert torch.equal(torch.cat([inputs[name] for inputs, _ in parts]), batch[0][name])
        assert torch.equal(torch.cat([target for _, target in parts]), batch[1])


def test_more_micro_batches_than_samples_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(RecipeError, match=r"training\.accumulate is 7, a batch has only 6 samples"):
        load_recipe(make_model(), overrides=["training.accumulate=7"])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_bf16_computes_in_bfloat16_and_leaves_weights_and_loss_in_float32(
    make_model: MakeModel, accumulate: int
) -> None:
    given = LOSSES["nll, weighted"]
    plain, expected, _ = step(make_model, *given)
    loss, gradients, model = step(make_model, *given, "training.precision=bf16", f"training.accumulate={accumulate}")
    assert model.seen[0] == torch.float32 and model.computed == torch.bfloat16
    assert loss == pytest.approx(plain, rel=2e-2) and loss != plain
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    for key, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected[key], rtol=0.1, atol=0.02)


def test_gradient_is_clipped_by_value_and_by_norm(make_model: MakeModel) -> None:
    given = LOSSES["mse"]
    _, gradients, _ = step(make_model, *given, "training.clip_value=0.25")
    assert max(float(each.abs().max()) for each in gradients.values()) == 0.25
    _, gradients, _ = step(make_model, *given, "training.clip_norm=0.5")
    norm = torch.cat([each.reshape(-1) for each in gradients.values()]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)
