"""Pictures in other sizes, and sampling at places that are computed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import operator


@operator("Upsample", since=7)
def upsample(x: Tensor, scales: list[float], mode: str = "nearest") -> Tensor:
    """By factors, counted from the corner."""
    return resize(x, None, scales, None, mode, "asymmetric", "floor")


@operator("Resize", since=10)
def resize_by_scales(x: Tensor, scales: list[float], mode: str = "nearest") -> Tensor:
    """By factors, counted from the corner, as opset 10 has it."""
    return resize(x, None, scales, None, mode, "asymmetric", "floor")


@operator("Resize", since=11)
def resize(
    x: Tensor,
    roi: list[float] | None = None,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    antialias: int = 0,
    axes: list[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> Tensor:
    """Each axis by itself: where its elements lie in the old one, and what is taken there."""
    places = list(range(x.dim())) if axes is None else [axis + x.dim() if axis < 0 else axis for axis in axes]
    count = len(places)
    factors = [1.0 for _ in range(count)]
    wanted = [0 for _ in range(count)]
    if sizes is not None and len(sizes) > 0:
        for position in range(count):
            factors[position] = sizes[position] / x.shape[places[position]]
            wanted[position] = sizes[position]
        if keep_aspect_ratio_policy != "stretch":
            one = min(factors) if keep_aspect_ratio_policy == "not_larger" else max(factors)
            for position in range(count):
                factors[position] = one
                wanted[position] = math.floor(one * x.shape[places[position]] + 0.5)
    elif scales is not None:
        for position in range(count):
            factors[position] = scales[position]
            wanted[position] = math.floor(_narrow(x.shape[places[position]] * scales[position]))
    region = [0.0] * count + [1.0] * count if roi is None or len(roi) == 0 else roi
    outside = torch.zeros([1] * x.dim(), dtype=torch.bool, device=x.device)
    result = x
    for position in range(count):
        axis = places[position]
        have = x.shape[axis]
        if wanted[position] == have and factors[position] == 1.0 and coordinate_transformation_mode[:2] != "tf":
            continue
        where = _coordinates(
            wanted[position],
            have,
            factors[position],
            region[position],
            region[position + count],
            coordinate_transformation_mode,
            # a pixel next to a step goes where ONNX Runtime puts it, which counts in float32
            torch.float32 if mode == "nearest" else torch.float64,
        ).to(x.device)
        if coordinate_transformation_mode == "tf_crop_and_resize":
            shape = [1] * x.dim()
            shape[axis] = -1
            outside = outside | ((where < 0) | (where > have - 1)).reshape(shape)
        if mode == "nearest":
            result = torch.index_select(result, axis, _nearest(where, nearest_mode).clamp(0, have - 1))
        else:
            shrink = min(factors[position], 1.0) if antialias else 1.0
            weights = _weights(where, have, mode, shrink, cubic_coeff_a, exclude_outside != 0)
            moved = result.movedim(axis, -1).to(torch.float32)
            result = torch.matmul(moved, weights.t()).movedim(-1, axis)
    result = result.to(x.dtype)
    if coordinate_transformation_mode == "tf_crop_and_resize":
        fill = torch.full([], extrapolation_value, dtype=x.dtype, device=x.device)
        result = torch.where(outside, fill, result)
    return result


def _narrow(number: float) -> float:
    return float(torch.tensor([number], dtype=torch.float32)[0])


def _coordinates(
    size: int, have: int, factor: float, start: float, end: float, mode: str, dtype: torch.dtype
) -> Tensor:
    place = torch.arange(size, dtype=dtype)
    step = torch.full_like(place, factor)
    if mode == "asymmetric":
        return place / step
    if mode == "align_corners":
        whole = factor * have
        return place * ((have - 1) / (whole - 1)) if size > 1 else torch.zeros_like(place)
    if mode == "tf_crop_and_resize":
        if size == 1:
            return torch.zeros_like(place) + 0.5 * (start + end) * (have - 1)
        return start * (have - 1) + place * ((end - start) * (have - 1) / (size - 1))
    if mode == "pytorch_half_pixel" and size == 1:
        return torch.zeros_like(place) - 0.5
    middle = (place + 0.5) / step - 0.5
    if mode == "half_pixel_symmetric":
        return middle + have / 2 * (1 - size / (factor * have))
    return middle


def _nearest(where: Tensor, mode: str) -> Tensor:
    if mode == "round_prefer_floor":
        return torch.ceil(where - 0.5).to(torch.int64)
    if mode == "round_prefer_ceil":
        return torch.floor(where + 0.5).to(torch.int64)
    return (torch.floor(where) if mode == "floor" else torch.ceil(where)).to(torch.int64)


# [new, old]: what each new element takes of the old ones.
def _weights(where: Tensor, have: int, mode: str, shrink: float, a: float, exclude: bool) -> Tensor:
    reach = 2 if mode == "cubic" else 1
    first = math.floor(-reach / shrink) + 1
    taps = torch.arange(first, reach + 1 - first if shrink < 1.0 else reach + 1, device=where.device)
    base = torch.floor(where)
    far = torch.abs((taps.unsqueeze(0) - (where - base).unsqueeze(1)) * shrink)
    if mode == "cubic":
        near = ((a + 2) * far - (a + 3)) * far * far + 1
        rest = ((far - 5) * far + 8) * far * a - 4 * a
        weights = torch.where(far <= 1, near, torch.where(far < 2, rest, torch.zeros_like(far)))
    else:
        weights = torch.clamp(1 - far, min=0.0)
    index = base.unsqueeze(1).to(torch.int64) + taps.unsqueeze(0)
    if exclude:
        weights = torch.where((index >= 0) & (index < have), weights, torch.zeros_like(weights))
    weights = weights / weights.sum(1, keepdim=True)
    whole = torch.zeros([where.shape[0], have], dtype=torch.float64, device=where.device)
    return whole.scatter_add(1, index.clamp(0, have - 1), weights).to(torch.float32)


@operator("AffineGrid")
def affine_grid(theta: Tensor, size: list[int], align_corners: int = 0) -> Tensor:
    """The places that an affine map gives for each pixel."""
    return torch.nn.functional.affine_grid(theta, size, align_corners=align_corners != 0)


@operator("GridSample", since=16)
def grid_sample(
    x: Tensor, grid: Tensor, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    """The values of a picture at places between its pixels."""
    word = "bilinear" if mode == "linear" else mode
    if mode == "cubic":
        word = "bicubic"
    return torch.nn.functional.grid_sample(x, grid, word, padding_mode, align_corners != 0)


@operator("RoiAlign", since=10)
def roi_align_plain(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Boxes of a feature map, each in one size; corners as they stand."""
    return roi_align(
        x,
        rois,
        batch_indices,
        mode,
        output_height,
        output_width,
        sampling_ratio,
        spatial_scale,
        "output_half_pixel",
    )


@operator("RoiAlign", since=16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
    coordinate_transformation_mode: str = "half_pixel",
) -> Tensor:
    """Boxes of a feature map, each in one size; corners half a pixel lower."""
    half = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    made = [torch.zeros([0, x.shape[1], output_height, output_width], dtype=x.dtype, device=x.device)]
    for number in range(rois.shape[0]):
        left, top, right, bottom = (rois[number] * spatial_scale - half).unbind()
        height, width = bottom - top, right - left
        if half == 0.0:
            height, width = height.clamp(min=1.0), width.clamp(min=1.0)
        down, across = sampling_ratio, sampling_ratio
        if sampling_ratio <= 0:
            down = int(torch.ceil(height / output_height))
            across = int(torch.ceil(width / output_width))
        rows = (torch.arange(output_height * down, device=x.device) + 0.5) * (height / (output_height * down)) + top
        columns = (torch.arange(output_width * across, device=x.device) + 0.5) * (width / (output_width * across))
        columns = columns + left
        picture = x[int(batch_indices[number])]
        low, high, share = _between(rows, x.shape[2])
        left_side, right_side, part = _between(columns, x.shape[3])
        inside_rows = (rows >= -1) & (rows <= x.shape[2])
        inside = inside_rows.unsqueeze(1) & ((columns >= -1) & (columns <= x.shape[3])).unsqueeze(0)
        share, part = share.unsqueeze(1), part.unsqueeze(0)
        corners = [
            picture[:, low][:, :, left_side] * ((1 - share) * (1 - part)),
            picture[:, low][:, :, right_side] * ((1 - share) * part),
            picture[:, high][:, :, left_side] * (share * (1 - part)),
            picture[:, high][:, :, right_side] * (share * part),
        ]
        stacked = torch.stack(corners) * inside
        blocks = [x.shape[1], output_height, down, output_width, across]
        if mode == "avg":
            made.append(stacked.sum(0).reshape(blocks).mean([2, 4]).unsqueeze(0))
        else:
            made.append(stacked.amax(0).reshape(blocks).amax([2, 4]).unsqueeze(0))
    return torch.cat(made)


def _between(where: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    place = where.clamp(min=0)
    low = torch.floor(place).to(torch.int64).clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    share = torch.where(low >= size - 1, torch.zeros_like(place), place - low)
    return low, high, share
