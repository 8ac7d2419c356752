"""Pictures of digits → a few numbers, and back: trained against its own input."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from ignite.metrics import PSNR, Metric
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Two linear layers down to the code, two up again.

    Args:
        size: height and width of the pictures.
        code: numbers in a code.
        hidden: size of the layers between.
    """

    def __init__(self, size: int = 28, code: int = 16, hidden: int = 256) -> None:
        super().__init__()
        self.size = size
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size * size, hidden), nn.ReLU(), nn.Linear(hidden, code))
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, size * size))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Encodes and decodes.

        Args:
            image: float32 `[batch, 1, size, size]`, values in [0, 1].

        Returns:
            `reconstruction` of the image's shape, and `code`, float32 `[batch, code]`.
        """
        code = self.encoder(image)
        return {"reconstruction": self.decode(code), "code": code}

    @torch.jit.export
    def decode(self, code: Tensor) -> Tensor:
        """A picture of each code; a host calls it with `--method decode`."""
        return torch.sigmoid(self.decoder(code)).reshape(-1, 1, self.size, self.size)


def loss(model: nn.Module, inputs: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """How far the reconstruction is from the image; which digit it shows, the target, does not matter."""
    return F.mse_loss(model(**inputs)["reconstruction"], inputs["image"])


def psnr() -> Metric:
    """Peak signal to noise of the reconstructions, in decibels."""
    return PSNR(1.0, output_transform=lambda seen: (seen["outputs"]["reconstruction"], seen["inputs"]["image"]))
