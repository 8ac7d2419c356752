"""What detectors of objects need: boxes in plain tensor operations, which TorchScript compiles, and their metric.

Boxes are float32 `[n, 4]`: left, top, right, bottom, in pixels. In: boxes, scores, feature maps. Out: the same, chosen,
pooled, measured.
"""

# No `from __future__ import annotations`: TorchScript reads these annotations.
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ignite.metrics import Metric
from torch import Tensor


def box_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of each box with each.

    Args:
        one: `[n, 4]`.
        other: `[m, 4]`.

    Returns:
        `[n, m]`, between 0 and 1.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]))
        tensor([[1.0000, 0.3333, 0.0000]])
    """
    top_left = torch.maximum(one[:, None, :2], other[None, :, :2])
    bottom_right = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    areas = (one[:, 2:] - one[:, :2]).prod(dim=1)[:, None] + (other[:, 2:] - other[:, :2]).prod(dim=1)[None]
    return shared / (areas - shared).clamp(min=1e-6)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Where boxes are, seen from anchors, `[n, 4]` each: shift of the middle in sizes of the anchor, log of the scale.

    Example:
        >>> encode_boxes(torch.tensor([[2.0, 0, 6, 4]]), torch.tensor([[0.0, 0, 4, 4]]))
        tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """
    size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + size / 2 - anchors[:, :2] - anchor_size / 2) / anchor_size
    return torch.cat([shift, torch.log(size / anchor_size)], dim=1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The way back from `encode_boxes`; no box becomes more than sixteen times as wide or high as its anchor."""
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    middle = anchors[:, :2] + anchor_size / 2 + deltas[:, :2] * anchor_size
    half = anchor_size * torch.exp(deltas[:, 2:].clamp(max=2.7726)) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: of boxes that overlap the best alone stays.

    Args:
        boxes: `[n, 4]`.
        scores: `[n]`.
        threshold: overlap, as intersection over union, above which the worse one goes.

    Returns:
        The places of those that stay, int64, the best first; of equal scores the earlier.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9]])
        >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    order = torch.argsort(scores, dim=0, descending=True, stable=True)
    overlaps = box_iou(boxes[order], boxes[order]) > threshold
    stays, places = torch.ones_like(order, dtype=torch.bool), torch.arange(order.size(0), device=order.device)
    for place in range(order.size(0)):
        if bool(stays[place]):  # no `stays[place + 1 :] &= …`: compiled, it changes a copy
            stays = stays & ~(overlaps[place] & (places > place))
    return order[stays]


def roi_align(features: Tensor, boxes: Tensor, stride: float, size: int) -> Tensor:
    """What a feature map shows in each box, as a grid of equal size for all, read between its cells.

    Args:
        features: of one picture, `[channels, height, width]`.
        boxes: `[n, 4]`, in pixels of the picture.
        stride: pixels that a cell of the map is wide and high.
        size: of the grid; each of its cells is read once, in its middle.

    Returns:
        `[n, channels, size, size]`.

    Example:
        >>> ramp = torch.arange(8.0).expand(1, 8, 8)
        >>> roi_align(ramp, torch.tensor([[0.0, 0, 4, 4]]), 1.0, 2)
        tensor([[[[0.5000, 2.5000],
                  [0.5000, 2.5000]]]])
    """
    height, width = features.size(1), features.size(2)
    middles = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    x = boxes[:, None, 0] + middles * (boxes[:, None, 2] - boxes[:, None, 0])
    y = boxes[:, None, 1] + middles * (boxes[:, None, 3] - boxes[:, None, 1])
    x, y = x / stride * 2 / width - 1, y / stride * 2 / height - 1  # grid_sample's -1 … 1 are the edges of the map
    grid = torch.stack([x[:, None, :].expand(-1, size, size), y[:, :, None].expand(-1, size, size)], dim=3)
    repeated = features[None].expand(boxes.size(0), -1, -1, -1)
    return F.grid_sample(repeated, grid, mode="bilinear", padding_mode="border", align_corners=False)


class MeanAveragePrecision(Metric):
    """The mean over the classes of the area under the curve of precision against recall.

    A detection is right where its box overlaps one of its class that no better detection has taken. Ignite's own needs
    torchvision. Takes `(detections, targets)`, lists with a dict for each picture: `boxes`, `labels` and, of
    detections, `scores`.

    Args:
        threshold: intersection over union from which two boxes are the same.
        output_transform: an evaluator's output → detections and targets.

    Example:
        >>> metric = MeanAveragePrecision()
        >>> box = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]])
        >>> said = {"boxes": box, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.8])}
        >>> metric.update(([said], [{"boxes": box, "labels": torch.tensor([1, 1])}]))
        >>> metric.compute()  # one of two found
        0.5
    """

    def __init__(self, threshold: float = 0.5, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        self.threshold = threshold
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forgets everything."""
        self._found: dict[int, list[tuple[float, bool]]] = {}
        self._there: dict[int, int] = {}

    def update(self, output: tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]) -> None:
        """Adds some pictures."""
        for said, wanted in zip(*output, strict=True):
            said, wanted = ({key: value.cpu() for key, value in each.items()} for each in (said, wanted))
            for label in {*said["labels"].tolist(), *wanted["labels"].tolist()}:
                ours, theirs = said["labels"] == label, wanted["labels"] == label
                order = torch.argsort(said["scores"][ours], descending=True, stable=True)
                overlaps = box_iou(said["boxes"][ours][order], wanted["boxes"][theirs])
                found = self._found.setdefault(label, [])
                self._there[label] = self._there.get(label, 0) + int(theirs.sum())
                for score, row in zip(said["scores"][ours][order].tolist(), overlaps, strict=True):
                    best, place = row.max(dim=0) if len(row) else (torch.tensor(0.0), torch.tensor(0))
                    right = bool(best >= self.threshold)
                    if right:
                        overlaps[:, place] = -1
                    found.append((score, right))

    def compute(self) -> float:
        """Between 0 and 1; 0 where no picture has an object."""
        areas = []
        for label, there in self._there.items():
            if there:
                found = sorted(self._found[label], key=lambda each: -each[0])
                right = torch.tensor([each[1] for each in found], dtype=torch.float64)
                precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
                best = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
                areas.append(float((best * right).sum()) / there)
        return sum(areas) / len(areas) if areas else 0.0
