"""The learning-rate finder: where it points, that it leaves nothing, and what it says where there is nothing to say."""

import csv
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring import checkpoint
from py_authoring.cli import main
from py_authoring.errors import TrainingError, UsageError
from py_authoring.lr_finding import find_learning_rate, suggest, write_curve
from py_authoring.training import train

MakeModel = Callable[..., Path]


def silent(text: str) -> None:
    pass


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in str(file)
    }


def test_search_points_into_the_falling_part_and_leaves_nothing(make_model: MakeModel, own_folder: Path) -> None:
    folder = make_model()
    train(folder, epochs=1, say=silent)
    before = files(own_folder)
    curve = find_learning_rate(folder, iterations=60, overrides=["optimizer.name=sgd"], seed=2)
    assert files(own_folder) == before
    assert curve.rates[0] == 1e-7 and curve.rates[1] / curve.rates[0] == pytest.approx(1e8 ** (1 / 59))
    assert len(curve.rates) == len(curve.losses) == len(curve.smooth) <= 60
    assert curve.suggestion is not None and 1e-3 < curve.suggestion < 3
    again = find_learning_rate(folder, iterations=60, overrides=["optimizer.name=sgd"], seed=2)
    assert again == curve


def test_each_loss_stands_beside_the_rate_of_its_own_step(make_model: MakeModel) -> None:
    code = """
import torch
class One(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))
    def forward(self, x):
        return x * self.weight
def load_data():
    x, y = torch.ones(8, 1), torch.zeros(8, 1)
    return ({"x": x}, y), ({"x": x}, y), ({"x": x}, y)
"""
    recipe = '[model]\nclass = "One"\n[data]\nkind = "function"\n[loss]\nname = "l1"\n[optimizer]\nname = "sgd"\n'
    curve = find_learning_rate(make_model("one", recipe, code), lowest=0.001, highest=0.1, iterations=20)
    weight = 1.0
    for rate, loss in zip(curve.rates, curve.losses, strict=True):
        assert loss == pytest.approx(abs(weight), abs=1e-6)
        weight -= rate * math.copysign(1, weight)


def test_loss_that_only_varies_gives_no_suggestion() -> None:
    rates = [1e-7 * 1.2**step for step in range(100)]
    found = 0
    for seed in range(40):
        draw = random.Random(seed)
        losses = [2 + 0.3 * draw.gauss(0, 1) for _ in rates]
        smooth, value, weight = [], 0.0, 0.0
        for loss in losses:
            value, weight = 0.9 * value + 0.1 * loss, 0.9 * weight + 0.1
            smooth.append(value / weight)
        found += suggest(rates, losses, smooth) is not None
    assert found <= 2
    rising = [2.0 + 0.1 * step for step in range(100)]
    assert suggest(rates, rising, rising) is None


def test_first_loss_that_is_not_finite_is_a_sentence(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(code.read_text().replace("return self.last(", "return float('nan') * self.last("))
    with pytest.raises(TrainingError, match="loss of the first iteration is not finite"):
        find_learning_rate(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lowest": 0.0}, "expected 0 < first < last"),
        ({"lowest": 1.0, "highest": 0.1}, "expected 0 < first < last"),
        ({"highest": math.inf}, "expected 0 < first < last"),
        ({"iterations": 5}, "at least 20"),
    ],
)
def test_bounds_that_are_none_are_refused(make_model: MakeModel, given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_learning_rate(make_model(), **given)


def test_command_prints_a_curve_and_writes_only_what_is_asked(
    make_model: MakeModel, run_command: Callable, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model()
    result = run_command(
        "lr-find", "tiny", "--iterations", "60", "--output", "curve.csv", "--set", "optimizer.name=sgd"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("learning rate    loss\n") and "<- " in result.stdout
    assert "next: py-authoring train tiny --lr " in result.stderr
    rows = list(csv.DictReader((own_folder / "curve.csv").read_text().splitlines()))
    assert rows[0]["learning_rate"] == "1e-07" and rows[0].keys() == {"learning_rate", "loss", "smooth_loss"}
    assert not (own_folder / "models" / "tiny" / "runs").exists()

    with pytest.raises(SystemExit) as ended:
        main(["lr-find", "tiny", "--to", "1e-6", "--iterations", "60", "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and json.loads(said.out)["suggestion"] is None
    assert "no suggestion: between 1e-07 and 1e-06 the loss never falls beyond its noise" in said.err


def test_curve_of_another_ending_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    curve = find_learning_rate(make_model(), iterations=20)
    with pytest.raises(UsageError, match=r"expected a name that ends in \.csv, \.png or \.svg"):
        write_curve(curve, tmp_path / "curve.txt")
    write_curve(curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoint.list_runs(Path("models/tiny")) == []
