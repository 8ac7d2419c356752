"""ResNet-18 with the names of torchvision's, so that a file of its weights fits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a way around them; where the size changes, the way around has a convolution of its own."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != wider:
            self.downsample = nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, height, width]` → `[batch, wider, height / stride, width / stride]`."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """A stem, four layers of two blocks, a mean over the picture, a linear layer.

    Args:
        classes: how many there are.
        width: channels of the first layer; 64 is torchvision's.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        # of ImageNet's pictures, which the weights of torchvision were learnt from; no part of their file
        for name, values in (("mean", [0.485, 0.456, 0.406]), ("deviation", [0.229, 0.224, 0.225])):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Classifies pictures.

        Args:
            image: float32 `[batch, 1 or 3, height, width]`, values in [0, 1]; grey is three equal colours.

        Returns:
            Raw scores, float32 `[batch, classes]`.
        """
        x = (image.expand(-1, 3, -1, -1) - self.mean) / self.deviation
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))
