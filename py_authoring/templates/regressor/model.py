"""A small network that predicts one number. Put your own network and data here."""

from torch import Tensor, nn


class Regressor(nn.Module):
    """Two linear layers.

    Args:
        features: how many numbers go in.
        mean: of the target; the network itself predicts the distance from it, in units of `deviation`.
        deviation: of the target.
    """

    def __init__(self, features: int = 10, hidden: int = 32, mean: float = 152.0, deviation: float = 77.0) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.mean = mean
        self.deviation = deviation

    def forward(self, features: Tensor) -> Tensor:
        """Predicts: float32 `[batch, features]` → float32 `[batch, 1]`."""
        distance: Tensor = self.network(features)
        return self.mean + self.deviation * distance


def load_data() -> tuple[dict[str, Tensor], Tensor]:
    """Ten measurements of 442 diabetes patients, and how their disease went on within a year."""
    import torch
    from sklearn.datasets import load_diabetes  # type: ignore[import-untyped,unused-ignore]

    bunch = load_diabetes()
    features = torch.tensor(bunch.data, dtype=torch.float32) * 442**0.5  # each column: mean 0, deviation 1
    return {"features": features}, torch.tensor(bunch.target, dtype=torch.float32)
