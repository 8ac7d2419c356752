"""Operators that take or put elements by index, and those that search."""

from __future__ import annotations

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import operator


@operator("Gather")
def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Slices of an axis by index."""
    size = x.shape[axis]
    flat = indices.reshape(-1).to(torch.int64)
    taken = torch.index_select(x, axis, torch.where(flat < 0, flat + size, flat))
    first = axis + x.dim() if axis < 0 else axis
    return taken.reshape(list(x.shape[:first]) + list(indices.shape) + list(x.shape[first + 1 :]))


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Elements of an axis by index, one for each index."""
    places = indices.to(torch.int64)
    return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places))


# Instead of -1 in a reshape, which has no answer where there are no elements.
def _product(sizes: list[int]) -> int:
    result = 1
    for size in sizes:
        result = result * size
    return result


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    """Slices by tuples of indices."""
    depth = indices.shape[-1]
    leading = list(x.shape[:batch_dims])
    rest = list(x.shape[batch_dims + depth :])
    rows = _product(leading)
    flat = x.reshape([rows, _product(list(x.shape[batch_dims : batch_dims + depth]))] + rest)
    tuples = indices.reshape([rows, _product(list(indices.shape[batch_dims:-1])), depth])
    place = torch.zeros([rows, tuples.shape[1]], dtype=torch.int64, device=x.device)
    for axis in range(depth):
        size = x.shape[batch_dims + axis]
        part = tuples[:, :, axis].to(torch.int64)
        place = place * size + torch.where(part < 0, part + size, part)
    row = torch.arange(rows, device=x.device).unsqueeze(1)
    return flat[row, place].reshape(list(indices.shape[:-1]) + rest)


@operator("Scatter", "ScatterElements")
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, reduction: str = "none") -> Tensor:
    """Elements put, added, multiplied, … at indices of an axis."""
    places = indices.to(torch.int64)
    places = torch.where(places < 0, places + x.shape[axis], places)
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _reduction(reduction))


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """Slices put, added, multiplied, … at tuples of indices."""
    depth = indices.shape[-1]
    tuples = indices.reshape([_product(list(indices.shape[:-1])), depth])
    place = torch.zeros([tuples.shape[0]], dtype=torch.int64, device=x.device)
    for axis in range(depth):
        size = x.shape[axis]
        part = tuples[:, axis].to(torch.int64)
        place = place * size + torch.where(part < 0, part + size, part)
    slices, width = _product(list(x.shape[:depth])), _product(list(x.shape[depth:]))
    flat = x.reshape([slices, width])
    new = updates.reshape([tuples.shape[0], width])
    where = place.unsqueeze(1).expand(new.shape)
    if reduction == "none":
        return flat.scatter(0, where, new).reshape(x.shape)
    return flat.scatter_reduce(0, where, new, _reduction(reduction)).reshape(x.shape)


def _reduction(word: str) -> str:
    if word == "add":
        return "sum"
    if word == "mul":
        return "prod"
    return "amax" if word == "max" else "amin"


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    """The indices of what is not 0, a column each."""
    return torch.nonzero(x).t()


@operator("Compress")
def compress(x: Tensor, condition: Tensor, axis: int | None = None) -> Tensor:
    """The slices for which a condition holds; of all elements, without an axis."""
    chosen = torch.nonzero(condition).reshape(-1)
    if axis is None:
        return x.reshape(-1)[chosen]
    return torch.index_select(x, axis, chosen)


@operator("OneHot")
def one_hot(indices: Tensor, depth: int, values: Tensor, axis: int = -1) -> Tensor:
    """One value at the index, another elsewhere, along a new axis."""
    rank = indices.dim() + 1
    place = axis + rank if axis < 0 else axis
    whole = indices.to(torch.int64)
    whole = torch.where(whole < 0, whole + depth, whole).unsqueeze(place)
    shape = [1] * rank
    shape[place] = depth
    same = whole == torch.arange(depth, device=indices.device).reshape(shape)
    return torch.where(same, values[1], values[0])


@operator("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(x: Tensor, y: Tensor) -> Tensor:
    """Columns by index."""
    return torch.index_select(x, -1, y.reshape(-1)).reshape([-1, y.numel()])


@operator("Binarizer", domain="ai.onnx.ml")
def binarizer(x: Tensor, threshold: float = 0.0) -> Tensor:
    """1 above a threshold, 0 up to it."""
    return (x > threshold).to(x.dtype)


@operator("TopK")
def top_k_by_attribute(x: Tensor, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The largest numbers of an axis, and where they are."""
    return top_k(x, k, axis, 1, 1)


@operator("TopK", since=10)
def top_k(x: Tensor, k: int, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The largest or smallest numbers of an axis, and where they are; of equal ones the first."""
    values, indices = torch.sort(x, stable=True, dim=axis, descending=largest != 0)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@operator("Unique")
def unique(x: Tensor, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each number or slice once; where it first was, which one each was, and how often."""
    if axis is None:
        flat = x.reshape(-1)
        values, inverse, counts = torch._unique2(flat, sorted=True, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
    else:
        values, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    total = inverse.shape[0]
    place = torch.arange(total, device=x.device)
    first = torch.full_like(counts, total).scatter_reduce(0, inverse, place, "amin")
    if not sorted:
        order = torch.argsort(first)
        rank = torch.empty_like(order).scatter(0, order, torch.arange(order.shape[0], device=x.device))
        values = torch.index_select(values, 0 if axis is None else axis, order)
        return values, first[order], rank[inverse], counts[order]
    return values, first, inverse, counts


@operator("NonMaxSuppression")
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int = 0,
    iou_threshold: float = 0.0,
    score_threshold: float | None = None,
    center_point_box: int = 0,
) -> Tensor:
    """Boxes by score, without those that overlap a better one; rows of batch, class, box."""
    if center_point_box:
        x, y, width, height = boxes.unbind(-1)
        boxes = torch.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], -1)
    low = torch.minimum(boxes[:, :, :2], boxes[:, :, 2:])
    high = torch.maximum(boxes[:, :, :2], boxes[:, :, 2:])
    area = (high - low).prod(-1)
    chosen = [torch.zeros([0, 3], dtype=torch.int64, device=boxes.device)]
    for batch in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            score = scores[batch, label]
            order = torch.argsort(score, descending=True, stable=True)
            if score_threshold is not None:
                order = order[score[order] > score_threshold]
            count = 0
            while order.numel() > 0 and count < max_output_boxes_per_class:
                best = order[0]
                row = torch.stack([torch.full_like(best, batch), torch.full_like(best, label), best])
                chosen.append(row.unsqueeze(0))
                count += 1
                rest = order[1:]
                top = torch.maximum(low[batch, rest], low[batch, best])
                bottom = torch.minimum(high[batch, rest], high[batch, best])
                shared = (bottom - top).clamp(min=0).prod(-1)
                union = area[batch, rest] + area[batch, best] - shared
                overlap = torch.where(union > 0, shared / union, torch.zeros_like(union))
                order = rest[overlap <= iou_threshold]
    return torch.cat(chosen)
