"""A recurrent cell whose state goes in and comes out: a host feeds it one step at a time, for as long as it likes."""

import math

import torch
from torch import Tensor, nn


class Forecaster(nn.Module):
    """An LSTM and a linear layer that say what is measured next.

    Args:
        hidden: size of the state.
    """

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some steps, or a single one.

        Args:
            x: measurements, float32 `[batch, time, 1]`.
            h: the state before, float32 `[batch, hidden]`; zeros at the beginning.
            c: the cell's, likewise.

        Returns:
            The prediction after each step, `[batch, time, 1]`, and the state to give with the next.
        """
        y, (h, c) = self.lstm(x, (h.unsqueeze(0), c.unsqueeze(0)))
        return self.linear(y), h.squeeze(0), c.squeeze(0)


def load_data(samples: int = 600, steps: int = 60, hidden: int = 48) -> tuple[dict[str, Tensor], Tensor]:
    """Angles of pendulums that swing as far as they like and lose some energy, measured ten times a second with noise.

    Their states begin near zero and not at it, so that the golden examples in the exported file try other states too.
    """
    angle = (torch.rand(samples) - 0.5) * 2 * 2.5  # radians: far from where a pendulum is a sine
    speed = torch.zeros(samples)
    frequency = 0.6 + 0.6 * torch.rand(samples)
    angles = []
    for _ in range(steps + 1):
        angles.append(angle)
        for _ in range(10):  # of a hundredth of a second, speed before angle, which keeps the energy
            speed = speed - 0.01 * ((2 * math.pi * frequency) ** 2 * torch.sin(angle) + 0.2 * speed)
            angle = angle + 0.01 * speed
    truth = torch.stack(angles, dim=1).unsqueeze(2)
    measured = truth + 0.02 * torch.randn(truth.shape)
    start = 0.1 * torch.rand(2, samples, hidden)
    return {"x": measured[:, :-1], "h": start[0], "c": start[1]}, truth[:, 1:]
