"""What a trace would lose is refused with its line; what it keeps is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring.errors import RefusedError
from py_authoring.export import Version

Make = Callable[..., Version]

LOST = {
    "an if on a value": ("if x.sum() > 0:\n    return self.linear(x)\nreturn x", 12, "control flow"),
    "a while on a value": ("while x.abs().sum() > 1:\n    x = x / 2\nreturn x", 12, "control flow"),
    "a conditional expression": ("y = x\nreturn self.linear(y) if y.mean() > 0 else y", 13, "control flow"),
    "an and on a value": ("return self.linear(x) if x.shape[1] and x.max() > 0 else x", 12, "control flow"),
    "a loop as often as a value says": (
        "y = x\nfor _ in range(int(x.abs().sum())):\n    y = self.linear(y)\nreturn y",
        13,
        "a number at .* depends on data",
    ),
    "an if on a number taken out": ("if x.max().item() > 99:\n    return x\nreturn self.linear(x)", 12, "on data"),
    "a branch that no example takes": ("if bool((x > 99).any()):\n    return x\nreturn self.linear(x)", 12, "on data"),
    "as many as a mask has": ("return self.linear(x) * int((x > 0).nonzero().shape[0])", 12, "depends on data"),
    "as many as a mask leaves": ("return self.linear(x) * float(x[x > 0].shape[0])", 12, "depends on data"),
    "a branch on the batch size": (
        "if x.shape[0] > 64:\n    return x\nreturn self.linear(x)",
        12,
        "control flow .* depends on a size that changes",
    ),
    "a number taken out": ("return self.linear(x) * x.sum().item()", 12, "a number at .* depends on data"),
    "values that went through numpy": (
        "return self.linear(x) + torch.from_numpy(x.numpy() * 2)",
        12,
        "a number at .* depends on data",
    ),
    "a list of values": ("return self.linear(x) + max(x.flatten().tolist())", 12, "depends on data"),
    "a value as index": ("return self.linear(x)[:, [0, 1, 2][x.argmax().clamp(0, 2)]]", 12, "depends on data"),
    "two tensors compared": ("return x if torch.equal(x, x.abs()) else self.linear(x)", 12, "control flow"),
    "a batch size as int": (
        "n = int(x.shape[0])\nreturn self.linear(x).view(n, 2, 2)",
        12,
        "what changes with the input",
    ),
    "a loop over the batch": (
        "y = self.linear(x)\nfor i in range(x.shape[0]):\n    y = y + x[i]\nreturn y",
        13,
        "what changes with the input",
    ),
    "a batch size from len": ("return self.linear(x) / len(x)", 12, "what changes with the input"),
    "zeros without a device": ("return self.linear(x) + torch.zeros(x.shape[0], 4)", 12, "the device"),
    "zeros with the input's device": (
        "y = self.linear(x)\nreturn y + torch.zeros(x.shape[0], 4, device=x.device)",
        13,
        "the device",
    ),
    "a tensor of numbers": ("return self.linear(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])", 12, "the device"),
    "indices": ("return self.linear(x)[:, torch.arange(3)]", 12, "the device"),
    "a move to the cpu": ('return self.linear(x.to("cpu"))', 12, "the device"),
}
KEPT = {
    "no control flow": "return torch.tanh(self.linear(x))",
    "a fixed loop": "for _ in range(3):\n    x = torch.tanh(self.linear(x))\nreturn x",
    "a branch on a constant": "return self.linear(x) if self.training is False else x",
    "an assert on a shape": "assert x.shape[1] == 4, 'four columns'\nreturn self.linear(x)",
    "an if that only raises": "if x.shape[1] != 4:\n    raise ValueError('four columns')\nreturn self.linear(x)",
    "a branch on a fixed size": "if x.shape[1] == 4:\n    return self.linear(x)\nreturn x",
    "a branch on a fixed size further on": "y = self.linear(x)\nreturn y / 2 if y.shape[-1] > 2 else y",
    "a root of a fixed size": "return self.linear(x) / (x.shape[-1] ** 0.5) / float(x.size(1))",
    "a number of weights": "return self.linear(x) * float(self.linear.weight.sum())",
    "a size in a message": "str(x.shape), f'{x.size(0)}'\nreturn self.linear(x)",
    "an assert on values": "assert bool((x < 99).all())\nreturn self.linear(x)",
    "a view by the batch size": "return self.linear(x).view(x.shape[0], 2, 2)",
    "a view by a size": "return self.linear(x).reshape(x.size(0), -1, 2)",
    "zeros like another": "return self.linear(x) + torch.zeros_like(x) + x.new_ones(4)",
    "a single number as tensor": "return self.linear(x) * torch.tensor(2.0)",
    "numbers as buffers": "return self.linear(x) + self.linear.bias",
    "a where instead of an if": "return torch.where(x > 0, self.linear(x), x)",
}


@pytest.mark.parametrize("name", LOST)
def test_what_a_trace_loses_is_refused_with_its_line(make_export: Make, name: str) -> None:
    forward, line, what = LOST[name]
    with pytest.raises(RefusedError, match=what) as caught:
        make_export(forward, method="trace")
    assert f"models/small/model.py:{line}`" in caught.value.message, caught.value.message
    assert caught.value.hint is not None
    assert "--method script" in caught.value.hint
    assert not Path("models/small/1").exists()


@pytest.mark.parametrize("name", KEPT)
def test_what_a_trace_keeps_is_exported(make_export: Make, name: str) -> None:
    version = make_export(KEPT[name], method="trace")
    assert version.cases >= 8  # at batch 0 eager itself refuses one of them
    assert version.notes == ["untrained: the weights are the initial ones of seed 0"]


def test_every_line_that_loses_something_is_named(make_export: Make) -> None:
    forward = "if x.sum() > 0:\n    x = -x\nif x.mean() > 0:\n    x = x + 1\nreturn x * int(x.max())"
    with pytest.raises(RefusedError) as caught:
        make_export(forward, method="trace")
    assert "model.py:12" in caught.value.message
    assert ["model.py:14" in caught.value.problems[0], "model.py:16" in caught.value.problems[1]] == [True, True]


def test_a_trace_of_torch_s_own_layers_is_not_suspected(make_export: Make) -> None:
    code = """class M(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm = nn.BatchNorm1d(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.encoder(x))


def example_inputs(count):
    return {"x": torch.randn(count, 9, 8)}
"""
    assert make_export("", code=code, method="trace").contract.outputs[0].dims == ["batch", 9, 8]


def test_script_only_remarks_on_a_device_that_nobody_chose(make_export: Make) -> None:
    chosen = make_export("return self.linear(x) + torch.zeros(x.size(0), 4, device=x.device)")
    assert len(chosen.notes) == 1
    for forward in ("return self.linear(x) + torch.zeros(x.size(0), 4)", 'return self.linear(x).to("cpu")'):
        noted = make_export(forward)
        assert "models/small/model.py:12" in noted.notes[1]
        assert "device" in noted.notes[1]


def test_scripted_recurrent_layers_are_not_remarked_on(make_export: Make) -> None:
    code = """class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def example_inputs(count):
    return {"x": torch.randn(count, 6, 3)}
"""
    assert len(make_export("", code=code).notes) == 1
