"""Windows, Fourier transforms and mel filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import operator


def _cosines(size: int, periodic: int, weights: list[float]) -> Tensor:
    last = float(size) if periodic else float(size - 1)
    angle = torch.arange(size, dtype=torch.float32) * (2 * math.pi) / last
    result = torch.zeros_like(angle)
    for order, weight in enumerate(weights):
        result = result + weight * torch.cos(order * angle)
    return result


@operator("HannWindow")
def hann_window(size: int, periodic: int = 1, output_datatype: int = 1) -> Tensor:
    """A raised cosine."""
    return _cosines(size, periodic, [0.5, -0.5])


@operator("HammingWindow")
def hamming_window(size: int, periodic: int = 1, output_datatype: int = 1) -> Tensor:
    """A raised cosine on a pedestal."""
    return _cosines(size, periodic, [25.0 / 46.0, -21.0 / 46.0])


@operator("BlackmanWindow")
def blackman_window(size: int, periodic: int = 1, output_datatype: int = 1) -> Tensor:
    """Two cosines."""
    return _cosines(size, periodic, [0.42, -0.5, 0.08])


@operator("DFT")
def dft_by_attribute(
    x: Tensor, dft_length: int | None = None, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """A Fourier transform; the last axis holds real and imaginary part."""
    return dft(x, dft_length, axis, inverse, onesided)


@operator("DFT", since=20)
def dft(x: Tensor, dft_length: int | None = None, axis: int = -2, inverse: int = 0, onesided: int = 0) -> Tensor:
    """A Fourier transform; the last axis holds real and imaginary part."""
    place = axis + x.dim() if axis < 0 else axis
    if x.shape[-1] == 1:
        wide = torch.complex(x[..., 0], torch.zeros_like(x[..., 0]))
    else:
        wide = torch.view_as_complex(x.contiguous())
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(wide, dft_length, place)
        return real.unsqueeze(-1)
    result = torch.fft.ifft(wide, dft_length, place) if inverse else torch.fft.fft(wide, dft_length, place)
    if onesided:
        result = result.narrow(place, 0, result.shape[place] // 2 + 1)
    parts: Tensor = torch.view_as_real(result.resolve_conj().contiguous())
    return parts


@operator("STFT")
def stft(
    signal: Tensor,
    frame_step: int,
    window: Tensor | None = None,
    frame_length: int | None = None,
    onesided: int = 1,
) -> Tensor:
    """Fourier transforms of overlapping frames: `[batch, frames, frequencies, 2]`."""
    length = 0
    if frame_length is not None:
        length = frame_length
    elif window is not None:
        length = window.shape[0]
    else:
        raise ValueError("STFT needs a window or a frame length")
    if signal.dim() == 2:
        signal = signal.unsqueeze(-1)
    frames = signal.unfold(1, length, frame_step).movedim(-1, 2)
    if window is not None:
        frames = frames * window.reshape([1, 1, -1, 1])
    return dft(frames, None, 2, 0, onesided)


@operator("MelWeightMatrix")
def mel_weight_matrix(
    num_mel_bins: int,
    dft_length: int,
    sample_rate: int,
    lower_edge_hertz: float,
    upper_edge_hertz: float,
    output_datatype: int = 1,
) -> Tensor:
    """How much each frequency belongs to each mel band."""
    bins = dft_length // 2 + 1
    low = 2595.0 * math.log1p(lower_edge_hertz / 700.0) / math.log(10.0)
    high = 2595.0 * math.log1p(upper_edge_hertz / 700.0) / math.log(10.0)
    step = (high - low) / (num_mel_bins + 2)
    mel = torch.arange(num_mel_bins + 2, dtype=torch.float64) * step + low
    hertz = 700.0 * torch.expm1(mel / 2595.0 * math.log(10.0))
    edges = torch.floor((dft_length + 1) * hertz / sample_rate)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    frequency = torch.arange(bins, dtype=torch.float64).unsqueeze(1)
    rise, fall = middle - left, right - middle
    up = torch.where(rise == 0, torch.ones_like(rise), (frequency - left) / torch.where(rise == 0, 1.0, rise))
    down = (right - frequency) / torch.where(fall == 0, 1.0, fall)
    result = torch.where((frequency >= left) & (frequency <= middle) & (rise > 0), up, torch.zeros_like(up))
    result = torch.where((frequency >= middle) & (frequency < right), down, result)
    result = torch.where((rise == 0) & (frequency == middle), torch.ones_like(result), result)
    return result.to(torch.float32)
