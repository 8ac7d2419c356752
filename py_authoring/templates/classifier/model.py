"""A small convolutional network for handwritten digits. Put your own network here."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """Two convolutions and a linear layer.

    Args:
        classes: how many there are to tell apart.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(32 * 6 * 6, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies pictures: float32 `[batch, 1, 28, 28]` in [0, 1] → raw scores, float32 `[batch, classes]`."""
        x = (image - 0.1307) / 0.3081  # inside the graph, so that the exported file needs no preprocessing
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        scores: Tensor = self.linear(self.dropout(torch.flatten(x, 1)))
        return scores
