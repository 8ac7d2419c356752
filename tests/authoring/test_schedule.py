"""Learning rates: each schedule against its formula or torch's own, warm-up by iteration, plateau by the score."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from py_authoring.errors import RecipeError
from py_authoring.recipe import load_recipe
from py_authoring.schedule import Schedule

MakeModel = Callable[..., Path]
LENGTH = 5  # iterations in an epoch


def rates(make_model: MakeModel, epochs: int, *overrides: str, scores: list[float] | None = None) -> list[float]:
    """The learning rate of every iteration, of an optimizer whose own is 2."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    recipe = load_recipe(make_model(), overrides=overrides).recipe
    schedule = Schedule(optimizer, recipe, LENGTH)
    found: list[float] = []
    trainer = Engine(lambda trainer, batch: found.append(optimizer.param_groups[0]["lr"]))
    trainer.add_event_handler(Events.ITERATION_STARTED, schedule.before_iteration)
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda trainer: schedule.after_epoch(trainer, (scores or [0.0] * 99)[trainer.state.epoch - 1]),
    )
    trainer.run(range(LENGTH), max_epochs=epochs)
    return found


def test_schedules_by_epoch_follow_their_formulas(make_model: MakeModel) -> None:
    epochs = [epoch for epoch in range(6) for _ in range(LENGTH)]
    expected = {
        "constant": lambda epoch: 1.0,
        "step": lambda epoch: 0.5 ** (epoch // 2),
        "exponential": lambda epoch: 0.5**epoch,
        "cosine": lambda epoch: 0.1 + 0.9 * (1 + math.cos(math.pi * min(epoch / 4, 1))) / 2,
    }
    keys = {
        "constant": [],
        "step": ["step_size=2", "gamma=0.5"],
        "exponential": ["gamma=0.5"],
        "cosine": ["period=4", "floor=0.1"],
    }
    for name, formula in expected.items():
        overrides = [f"scheduler.name={name}", *(f"scheduler.{key}" for key in keys[name])]
        plain = rates(make_model, 6, *overrides)
        assert plain == pytest.approx([2 * formula(epoch) for epoch in epochs]), name
        warmed = rates(make_model, 6, *overrides, "scheduler.warmup=1.6")
        ramp = [min((iteration + 1) / 8, 1) for iteration in range(30)]
        assert warmed == pytest.approx([share * rate for share, rate in zip(ramp, plain, strict=True)]), name
        assert warmed == rates(make_model, 6, *overrides, "scheduler.warmup_iterations=8"), name


def test_warmup_is_that_of_torch(make_model: MakeModel) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 7, total_iters=6)
    expected = []
    for _ in range(2 * LENGTH):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(make_model, 2, "scheduler.name=constant", "scheduler.warmup_iterations=7") == pytest.approx(expected)


def test_one_cycle_is_that_of_torch_and_stays_at_the_floor_after_it(make_model: MakeModel) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=4 * LENGTH, cycle_momentum=False)
    expected = []
    for iteration in range(4 * LENGTH):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if iteration < 4 * LENGTH - 1:
            theirs.step()
    ours = rates(make_model, 5, "scheduler.name=one_cycle", "scheduler.period=4")
    assert ours == pytest.approx([*expected, *[expected[-1]] * LENGTH])
    assert max(ours) == pytest.approx(2.0)


def test_plateau_lowers_the_rate_when_the_score_stays_and_counts_after_the_warmup(make_model: MakeModel) -> None:
    plateau = ["scheduler.name=plateau", "scheduler.patience=1", "scheduler.gamma=0.5", "scheduler.floor=0.2"]
    scores = [-3.0, -2.0, -2.0, -2.5, -1.0, -math.inf, -1.0, -1.0, -1.0, -1.0]
    by_epoch = [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.4]
    assert rates(make_model, 10, *plateau, scores=scores)[::LENGTH] == pytest.approx(by_epoch)
    warmed = rates(make_model, 6, *plateau, "scheduler.warmup=2.4", scores=[0.0] * 6)
    assert warmed[:12] == pytest.approx([2 * (iteration + 1) / 12 for iteration in range(12)])
    assert warmed[12::LENGTH] == pytest.approx([2.0, 2.0, 2.0, 1.0][: len(warmed[12::LENGTH])])
    # an epoch that is only as much better as training.min_delta is not better
    slowly = [-3.0, -2.9, -2.8, -2.7]
    assert rates(make_model, 4, *plateau, "training.min_delta=0.5", scores=slowly)[-1] == pytest.approx(1.0)
    assert rates(make_model, 4, *plateau, scores=slowly)[-1] == pytest.approx(2.0)


def test_warmup_said_twice_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(RecipeError, match="say the same in two units"):
        load_recipe(make_model(), overrides=["scheduler.warmup=1", "scheduler.warmup_iterations=5"])
