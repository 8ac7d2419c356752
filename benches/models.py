"""The models of the benches, in a module of their own, because TorchScript reads its source."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    """PyTorch's MNIST example without its dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        x = torch.relu(self.fc1(torch.flatten(torch.max_pool2d(x, 2), 1)))
        return torch.log_softmax(self.fc2(x), dim=1)


def _normed(a: int, b: int, size: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, size, stride, padding, bias=False), nn.BatchNorm2d(b))


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.one, self.two, self.relu = _normed(a, b, 3, stride, 1), _normed(b, b, 3, 1, 1), nn.ReLU(inplace=True)
        self.skip = nn.Identity() if a == b else _normed(a, b, 1, stride, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.two(self.relu(self.one(x)))
        y += self.skip(x)
        return self.relu(y)


def resnet18() -> nn.Module:
    """ResNet-18 as torchvision has it."""
    sizes = [(64, 64, 1)] * 2 + [s for n in (64, 128, 256) for s in ((n, 2 * n, 2), (2 * n, 2 * n, 1))]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*stem, *(Block(*s) for s in sizes), *head)


class Lstm(nn.Module):
    """Two layers of 128 over a sequence, and a class from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 128, 2, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def transformer() -> nn.Module:
    """Four encoder layers of torch's own, 256 wide."""
    return nn.Sequential(*(nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True) for _ in range(4)))


def mlp() -> nn.Module:
    """So small that a call is almost only overhead."""
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


MAKERS = {"mlp": mlp, "net": Net, "resnet": resnet18, "lstm": Lstm, "transformer": transformer}
SHAPES = {"mlp": (4,), "net": (1, 28, 28), "resnet": (3, 224, 224), "lstm": (32, 64), "transformer": (64, 256)}
"""Of one row of the one input, `x`."""


def make(name: str) -> nn.Module:
    """The model, always with the same weights, ready for inference."""
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # which tracing does not see
    return MAKERS[name]().eval()


def scripted(name: str) -> torch.jit.ScriptModule:
    """The model as TorchScript."""
    model = make(name)
    if name == "transformer":  # TorchScript cannot compile torch's own
        return torch.jit.trace(model, torch.zeros(2, *SHAPES[name]), check_trace=False)
    return torch.jit.script(model)


def save(name: str, folder: Path) -> Path:
    """Writes `<name>.pt`."""
    path = folder / f"{name}.pt"
    scripted(name).save(str(path))
    return path
