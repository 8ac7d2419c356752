"""The classic convolutional network for handwritten digits, as in PyTorch's own MNIST example."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions, two linear layers; normalises its input itself, so that the exported file needs nothing else.

    Args:
        in_channels: 1 for grey pictures.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies pictures.

        Args:
            image: float32 `[batch, in_channels, 28, 28]`, values in [0, 1].

        Returns:
            Log-probabilities, float32 `[batch, 10]`.
        """
        x = (image - 0.1307) / 0.3081  # mean and deviation of MNIST's training pictures
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)
