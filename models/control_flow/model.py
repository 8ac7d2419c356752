"""A result that depends on values, not only on shapes: an `if` and a loop that a trace would lose."""

import torch
from torch import Tensor, nn


class ControlFlow(nn.Module):
    """Halves or keeps a layer's output, as often as the input's sum says."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer between one and four times.

        Args:
            x: float32 `[batch, 4]`.

        Returns:
            float32 `[batch, 4]`.
        """
        steps = 1 + int(x.abs().sum()) % 4
        for _ in range(steps):
            x = torch.tanh(self.linear(x))
        if bool(x.sum() > 0):
            return x * 0.5
        return x - 1.0


def example_inputs(batch_size: int) -> dict[str, Tensor]:
    """What to try an exported file with, as this model has no data."""
    return {"x": 3.0 * torch.randn(batch_size, 4)}
