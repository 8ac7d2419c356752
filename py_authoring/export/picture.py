"""A picture among the golden examples, so that a verifier replays what a host does with a file.

In: an input and the contract's `image`. Out: a PNG, and the input that it becomes; and back.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from py_authoring.contract import Image
from py_authoring.errors import InvalidContractError
from py_authoring.pictures import levels


def encode(pictures: Tensor, image: Image) -> bytes | None:
    """The first picture of a batch as a PNG; each value becomes the nearest of the 256 that a byte can be.

    Returns:
        None where no file becomes such an input: values beyond 0…255 times `rescale_factor`, or a size that is not
        `image.size`.
    """
    from PIL import Image as Pillow

    factor = 1.0 if image.rescale_factor is None else image.rescale_factor
    takes_bytes = pictures.dtype == torch.uint8 and image.rescale_factor is None
    if not len(pictures) or not (takes_bytes or pictures.is_floating_point()):
        return None
    planes = pictures[0] if image.layout == "NCHW" else pictures[0].permute(2, 0, 1)
    channels, height, width = planes.shape
    if channels != (1 if image.color == "L" else 3) or not height or not width:
        return None
    if image.size is not None and (height, width) != (image.size.height, image.size.width):
        return None
    bytes_of = planes.double() / factor
    if not bool(((bytes_of > -0.5) & (bytes_of < 255.5)).all()):
        return None
    pixels = bytes_of.round().byte().permute(1, 2, 0).numpy()
    stored = io.BytesIO()
    Pillow.fromarray(pixels[:, :, 0] if image.color == "L" else pixels).save(stored, "PNG")
    return stored.getvalue()


def decode(data: bytes, image: Image, dtype: torch.dtype) -> Tensor:
    """A batch of the one picture.

    Raises:
        InvalidContractError: it is no picture.

    Example:
        >>> about = Image(input="x", color="L", layout="NCHW", rescale_factor=1 / 255)
        >>> data = encode(torch.tensor([[[[0.0, 0.2, 1.0]]]]), about)
        >>> decode(data, about, torch.float32)
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture.convert(image.color))
    except Exception as error:  # Pillow raises its own error, OSError, SyntaxError and ValueError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidContractError(f"the picture cannot be decoded: {reason}") from error
    values = levels(image.rescale_factor, dtype)[torch.from_numpy(pixels.astype(np.int64))]
    values = values[..., None] if values.dim() == 2 else values
    return (values if image.layout == "NHWC" else values.permute(2, 0, 1))[None].contiguous()
