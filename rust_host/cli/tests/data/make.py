"""Writes the small TorchScript files and the picture beside it that the tests of rust-host read.

usage: make.py   (needs torch, safetensors and Pillow)

Weights are whole numbers and halves, so that results are equal on every machine.
"""

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

HERE = Path(__file__).parent


class Classifier(nn.Module):
    """[batch, 1, 4, 4] → log-probabilities of "left", "right", "dark"."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        left = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.stack([left, 1 - left, -torch.ones(16)]))
            self.linear.bias.copy_(torch.tensor([0.0, 0.0, 2.0]))

    def forward(self, image: Tensor) -> Tensor:
        """Score each picture."""
        return torch.log_softmax(self.linear(image.flatten(1)), 1)


class Cell(nn.Module):
    """Two inputs, two outputs, all exact: `total = 2 x + h`."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Add, and count."""
        total = 2 * x + h
        return total, x.to(torch.int64).sum(1)


class Plain(nn.Module):
    """No contract, arguments with defaults, an error of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, -0.5]]))
            self.linear.bias.copy_(torch.tensor([0.25]))

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        """Scale a linear layer."""
        if scale < 0:
            raise ValueError("scale is negative")
        return self.linear(x) * scale


class Nested(nn.Module):
    """Text and lists in, a dict with difficult keys out."""

    def forward(self, text: str, numbers: list[int]) -> dict[str, Tensor]:
        """Return names that no file may have."""
        values = torch.tensor(numbers)
        return {"a/b": values, ".hidden": values + 1, "Same": values + 2, "same": values + 3, text: values + 4}


class Mixed(nn.Module):
    """Every kind of leaf."""

    def forward(self, n: int) -> tuple[int, float, bool, str, list[Tensor]]:
        """Return one of each."""
        return n, n / 2, n > 1, "n is " + str(n), [torch.ones(n, dtype=torch.bool)]


class Writer(nn.Module):
    """What no model has business with."""

    def forward(self, x: Tensor) -> Tensor:
        """Write a file."""
        torch.save(x, "/tmp/rust-host-must-not-write-this")
        return x


class Saver(nn.Module):
    """Writes where it is told to."""

    def forward(self, x: Tensor, path: str) -> Tensor:
        """Write a file."""
        torch.save(x, path)
        return x


class Reader(nn.Module):
    """Reads what it is told to."""

    def forward(self, path: str) -> Tensor:
        """Eight bytes of a file."""
        return torch.from_file(path, False, 8, dtype=torch.uint8)


class Endless(nn.Module):
    """Never returns."""

    def forward(self, x: Tensor) -> Tensor:
        """Loop."""
        while bool(x.sum() > 0):
            x = x + 1
        return x


class Large(nn.Module):
    """Takes as much memory as it is told to."""

    def forward(self, n: int) -> Tensor:
        """Four bytes each."""
        return torch.ones(n).cumsum(0)


class Counter(nn.Module):
    """Keeps how often it was called, and has a method beside `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Count."""
        self.calls += 1
        return x * self.calls

    @torch.jit.export
    def half_of(self, x: Tensor, offset: float = 0.0) -> Tensor:
        """Compute without state."""
        return x / 2 + offset


class Colours(nn.Module):
    """[batch, 3, 8, 8] → how much there is of each colour, as Ultralytics would ship it."""

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        return (x.mean([2, 3]) * 8).softmax(1)


COLOURS = {
    "description": "Ultralytics YOLO11n-cls model trained on colours",
    "author": "Ultralytics",
    "version": "8.3.40",
    "stride": 1,
    "task": "classify",
    "batch": 1,
    "imgsz": [8, 8],
    "names": {"0": "red", "1": "green", "2": "blue"},
    "args": {"batch": 1, "half": False, "dynamic": True},
    "channels": 3,
}


def tensor(name: str, datatype: str, dims: list, **more: object) -> dict:
    """Describe one tensor of a contract."""
    shape = [-1 if isinstance(d, str) else d for d in dims]
    return {"name": name, "datatype": datatype, "shape": shape, "dims": dims, **more}


EXACT = {"rtol": 0.0, "atol": 0.0}
CLASSIFIER = {
    "format_version": 1,
    "name": "classifier",
    "description": "Which half of a picture is bright",
    "license": "Apache-2.0",
    "platform": "pytorch_torchscript",
    "inputs": [tensor("image", "FP32", ["batch", 1, 4, 4])],
    "outputs": [
        tensor(
            "scores",
            "FP32",
            ["batch", 3],
            labels=["left", "right", "dark"],
            activation="log_softmax",
            rtol=1e-5,
            atol=1e-5,
        )
    ],
    "returns": "scores",
    "dims": {"batch": {"min": 0, "max": 64}},
    "image": {
        "input": "image",
        "color": "L",
        "layout": "NCHW",
        "size": {"height": 4, "width": 4},
        "rescale_factor": 1 / 255,
    },
    "metrics": [{"name": "accuracy", "value": 0.975, "dataset": "halves", "split": "test", "samples": 1200}],
    "golden": {"file": "golden.safetensors", "count": 2},
    "producer": {"name": "make.py", "version": "1"},
    "provenance": {"torch_version": "2.13.0", "created": "2026-01-02T03:04:05Z"},
}
CELL = {
    "format_version": 1,
    "name": "cell",
    "platform": "pytorch_torchscript",
    "inputs": [tensor("x", "FP32", ["batch", 2]), tensor("h", "FP32", ["batch", 2])],
    "outputs": [tensor("total", "FP32", ["batch", 2], **EXACT), tensor("count", "INT64", ["batch"], **EXACT)],
    "returns": ["total", "count"],
    "dims": {"batch": {"min": 0}},
    "golden": {"file": "golden.safetensors", "count": 2},
    "producer": {"name": "make.py", "version": "1"},
}


def golden(model: nn.Module, contract: dict, examples: list[list[Tensor]], shift: float = 0.0) -> bytes:
    """Run the examples; `shift` makes the results wrong."""
    tensors = {}
    for i, inputs in enumerate(examples):
        results = model(*inputs)
        results = [results] if isinstance(results, Tensor) else results
        for about, value in zip(contract["inputs"], inputs, strict=True):
            tensors[f"{i}.input.{about['name']}"] = value
        for about, value in zip(contract["outputs"], results, strict=True):
            tensors[f"{i}.output.{about['name']}"] = (value.detach() + shift).to(value.dtype).contiguous()
    return save(tensors)


def write(
    name: str, model: nn.Module, contract: object = None, examples: bytes = b"", others: dict[str, str] | None = None
) -> None:
    """Save one file, with a contract or without, or with files of others."""
    extra = dict(others or {})
    if contract is not None:
        extra = {"contract.json": json.dumps(contract, indent=1), "golden.safetensors": examples}
    torch.jit.save(torch.jit.script(model.eval()), HERE / f"{name}.torchscript", _extra_files=extra)


def main() -> None:
    """Write all of them."""
    Image.frombytes("L", (4, 4), bytes([255, 204, 0, 51] * 4)).save(HERE / "left.png")
    Image.new("RGB", (16, 16), (0, 255, 51)).save(HERE / "green.png")
    Image.new("RGB", (16, 8), (0, 255, 51)).save(HERE / "wide.png")
    classifier, cell = Classifier(), Cell()
    pictures = [torch.arange(16.0).reshape(1, 1, 4, 4) / 16, torch.arange(48.0).reshape(3, 1, 4, 4) / 64]
    pairs = [[torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0]])], [torch.ones(3, 2), torch.zeros(3, 2)]]
    examples = golden(classifier, CLASSIFIER, [[p] for p in pictures])
    write("classifier", classifier, CLASSIFIER, examples)
    write("drifted", classifier, CLASSIFIER, golden(classifier, CLASSIFIER, [[p] for p in pictures], shift=0.5))
    write("cell", cell, CELL, golden(cell, CELL, pairs))
    write("plain", Plain())
    write("nested", Nested())
    write("mixed", Mixed())
    write("writer", Writer())
    write("saver", Saver())
    write("reader", Reader())
    write("endless", Endless())
    write("large", Large())
    write("future", classifier, {**CLASSIFIER, "format_version": 99}, examples)
    write("wrong_types", classifier, {**CLASSIFIER, "inputs": [{**CLASSIFIER["inputs"][0], "shape": "any"}]}, examples)
    write("counter", Counter())
    write("colours", Colours(), others={"config.txt": json.dumps(COLOURS)})
    write("misread", Colours(), others={"config.txt": '{"names": {"0": "a", "5": "b"}}', "notes.md": "# Notes"})
    write("duplicate_names", classifier, {**CLASSIFIER, "outputs": CLASSIFIER["outputs"] * 2}, examples)


if __name__ == "__main__":
    main()
