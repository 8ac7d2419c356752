"""A picture file → the bytes that a host makes of it: decoded, resized, then grey or coloured, in this order.

Training, `predict` and rust-host must see the same numbers. Pillow decodes; resizing and grey are done here, because
Pillow rounds both otherwise than the `image` crate of the host (by 1 of 255, in 10 to 19 % of all bytes).
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from py_authoring.errors import DataError
from py_authoring.model_file import first_line

Pixels = npt.NDArray[np.uint8]
#: Red, green and blue of sRGB as the host weighs them: the row Y of BT.709's primaries at the white (0.31272, 0.32903).
_BRIGHTNESS = np.array([0.21264781, 0.71517915, 0.07217304])
#: As the host: wider or higher ones are refused before they are unpacked.
LARGEST_SIDE = 16_384


def levels(rescale_factor: float | None, dtype: torch.dtype) -> Tensor:
    """What the bytes 0…255 become: multiplied in 64 bits, then rounded once, as the host does."""
    exact = np.arange(256, dtype=np.float64) * (1.0 if rescale_factor is None else rescale_factor)
    if dtype == torch.float16:
        return torch.from_numpy(exact.astype(np.float16))  # torch would round twice
    return torch.from_numpy(exact).to(dtype)


def read_picture(data: bytes, color: str, size: tuple[int, int] | None, shown: str) -> Pixels:
    """Decodes a PNG or JPEG file.

    Args:
        data: the file's bytes.
        color: L (grey) or RGB.
        size: height and width to resize to; None leaves it as it is.
        shown: the file, for messages.

    Returns:
        uint8 `[channels, height, width]`.

    Raises:
        DataError: it cannot be decoded, or is too large.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (3, 2), (255, 0, 0)).save(file, "PNG")
        >>> read_picture(file.getvalue(), "L", None, "red.png").tolist()
        [[[54, 54, 54], [54, 54, 54]]]
    """
    from PIL import Image

    if not data:
        raise DataError(f"`{shown}` is empty, expected a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of large pictures, for which the limit is below
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
                if max(picture.size) > LARGEST_SIDE:
                    raise DataError(
                        f"`{shown}` is {picture.width} x {picture.height} pixels, "
                        f"expected at most {LARGEST_SIDE} a side"
                    )
                pixels = _plain(picture)
    except DataError:
        raise
    except Exception as error:  # Pillow raises its own error, OSError, SyntaxError, ValueError, struct.error
        reason = first_line(error).replace("<_io.BytesIO object at", "<file at")
        if type(error).__name__ == "UnidentifiedImageError":
            reason = "it is no PNG and no JPEG"
        raise DataError(f"`{shown}`: the picture cannot be decoded: {reason}") from error
    if size is not None and pixels.shape[:2] != size:
        pixels = resize(pixels, *size)
    if color == "L":
        pixels = grey(pixels) if pixels.shape[2] == 3 else pixels
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes by the triangle filter, each step rounded as the `image` crate's `FilterType::Triangle` rounds it.

    Args:
        pixels: uint8 `[height, width, channels]`.
        height: of the result.
        width: of the result.

    Returns:
        uint8 `[height, width, channels]`.
    """
    rows = _along_first_axis(pixels, height)
    columns = _along_first_axis(np.ascontiguousarray(rows.transpose(1, 0, 2)), width)
    # halves away from zero, as Rust rounds; NumPy rounds them to even
    whole = np.floor(np.clip(columns, 0, 255).astype(np.float64) + 0.5)
    result: Pixels = whole.astype(np.uint8).transpose(1, 0, 2)
    return result


def grey(pixels: Pixels) -> Pixels:
    """The brightness of colours, to the nearest whole number.

    Args:
        pixels: uint8 `[height, width, 3]`.

    Returns:
        uint8 `[height, width, 1]`.
    """
    bright: Pixels = np.floor(pixels.astype(np.float64) @ _BRIGHTNESS + 0.5).astype(np.uint8)
    return bright[:, :, None]


# What the file holds, without its palette and opacity: grey as one channel, all else as three.
def _plain(picture: object) -> Pixels:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        wide = np.asarray(picture).astype(np.uint32)  # 16 bits of grey: to the nearest byte
        return ((wide + 128) // 257).astype(np.uint8)[:, :, None]
    if picture.mode in ("L", "1", "LA", "La"):
        return np.asarray(picture.convert("L"))[:, :, None]
    return np.asarray(picture.convert("RGB"))


def _along_first_axis(values: npt.NDArray[np.float32] | Pixels, size: int) -> npt.NDArray[np.float32]:
    places, weights = _taps(values.shape[0], size)
    total = np.zeros((size, *values.shape[1:]), np.float32)
    product = np.empty_like(total)
    for tap in range(places.shape[1]):  # added up one after the other in 32 bits, as there
        np.multiply(values[places[:, tap]], weights[:, tap, None, None], out=product)
        total += product
    return total


@lru_cache(maxsize=256)
def _taps(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each new pixel the old ones that it is made of, and their weights; all in 32 bits."""
    one, half = np.float32(1), np.float32(0.5)
    ratio = np.float32(old) / np.float32(new)
    stretch = max(ratio, one)
    found = []
    for place in range(new):
        middle = (np.float32(place) + half) * ratio
        left = min(max(int(np.floor(middle - stretch)), 0), old - 1)
        right = min(max(int(np.ceil(middle + stretch)), left + 1), old)
        distances = np.abs((np.arange(left, right, dtype=np.float32) - (middle - half)) / stretch)
        weights = np.where(distances < one, one - distances, np.float32(0)).astype(np.float32)
        total = np.float32(0)
        for weight in weights:
            total += weight
        found.append((left, weights / total))
    most = max(len(weights) for _, weights in found)
    places = np.zeros((new, most), np.int64)
    padded = np.zeros((new, most), np.float32)
    for row, (left, weights) in enumerate(found):
        places[row, : len(weights)] = np.arange(left, left + len(weights))
        padded[row, : len(weights)] = weights
    return places, padded
