"""The recurrent cell of PyTorch's TorchScript tutorial: two inputs, two outputs."""

import torch
from torch import Tensor, nn


class SomeNNArch(nn.Module):
    """One linear layer and a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            x: float32 `[batch, 4]`.
            h: the state before, float32 `[batch, 4]`.

        Returns:
            The new state twice, as output and as what the next step takes.
        """
        new_h = torch.tanh(self.linear(x) + h)
        return new_h, new_h


def example_inputs(batch_size: int) -> dict[str, Tensor]:
    """What to try an exported file with, as this model has no data."""
    return {"x": torch.rand(batch_size, 4), "h": torch.rand(batch_size, 4)}
