"""A detector of two stages, as R-CNN's: where could something be, and what is it? Shapes in pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from ignite.metrics import Metric
from torch import Tensor, nn

from py_authoring.detection import MeanAveragePrecision, box_iou, decode_boxes, encode_boxes, nms, roi_align


class Detector(nn.Module):
    """Four convolutions, proposals from anchors in each cell, and a head that looks at each proposal.

    Args:
        classes: how many kinds of objects there are; 0 in the output is none.
        anchors: heights and widths of the boxes from which proposals start, in pixels.
        proposals: most proposals of a picture that the head looks at.
        detections: most objects of a picture.
    """

    def __init__(
        self, classes: int = 3, anchors: Sequence[float] = (12, 20), proposals: int = 24, detections: int = 8
    ) -> None:
        super().__init__()
        self.proposals, self.detections, self.anchor_sizes = proposals, detections, list(map(float, anchors))
        self.stride = 8.0  # pixels that a cell of the feature map is wide and high
        layers: list[nn.Module] = []
        for channels, wider, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
            layers += [nn.Conv2d(channels, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.proposer = nn.Conv2d(64, 5 * len(anchors), 1)  # of each anchor: is it an object, and where exactly
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, classes + 1 + 4))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Finds objects.

        Args:
            image: float32 `[batch, 3, height, width]`, values in [0, 1].

        Returns:
            `boxes` `[batch, detections, 4]` (left, top, right, bottom in pixels), `scores` `[batch, detections]`,
            `labels` int64 `[batch, detections]`, best first, and `count` int64 `[batch]`: so many of them are
            objects, the rest is 0.
        """
        features, raw, anchors = self.look(image)
        batch = image.size(0)
        boxes, scores = image.new_zeros(batch, self.detections, 4), image.new_zeros(batch, self.detections)
        labels = torch.zeros(batch, self.detections, dtype=torch.int64, device=image.device)
        count = torch.zeros(batch, dtype=torch.int64, device=image.device)
        for i in range(batch):
            proposals = self.propose(raw[i], anchors)
            said = self.head(roi_align(features[i], proposals, self.stride, 4))
            score, label = said[:, :-4].softmax(dim=1).max(dim=1)
            found = torch.nonzero((label > 0) & (score > 0.5))[:, 0]
            exact = decode_boxes(said[found, -4:], proposals[found])
            kept = nms(exact, score[found], 0.4)[: self.detections]
            n = kept.size(0)
            boxes[i, :n], scores[i, :n], labels[i, :n] = exact[kept], score[found][kept], label[found][kept]
            count[i] = n
        return {"boxes": boxes, "scores": scores, "labels": labels, "count": count}

    def look(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, what is said of each anchor (`[batch, anchors, 5]`), and the anchors, `[anchors, 4]`."""
        features = self.backbone(image)
        height, width = features.size(2), features.size(3)
        y = (torch.arange(height, device=image.device) + 0.5) * self.stride
        x = (torch.arange(width, device=image.device) + 0.5) * self.stride
        middles = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)
        anchors = torch.cat([torch.cat([middles - s / 2, middles + s / 2], dim=1) for s in self.anchor_sizes])
        kinds = len(self.anchor_sizes)
        raw = self.proposer(features).reshape(image.size(0), kinds, 5, height * width)
        return features, raw.permute(0, 1, 3, 2).reshape(image.size(0), -1, 5), anchors

    def propose(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """The most likely boxes of one picture, `[at most proposals, 4]`."""
        likely = raw[:, 0].topk(min(3 * self.proposals, raw.size(0)))[1]
        boxes = decode_boxes(raw[likely, 1:], anchors[likely])
        return boxes[nms(boxes, raw[likely, 0], 0.7)[: self.proposals]]


def loss(model: Detector, inputs: Mapping[str, Tensor], target: list[dict[str, Tensor]]) -> Tensor:
    """Of both stages: is it an object, which, and how far is its box off; each picture has at least one."""
    features, raw, anchors = model.look(inputs["image"])
    total = raw.new_zeros(())
    for i, wanted in enumerate(target):
        boxes, labels = wanted["boxes"], wanted["labels"]
        overlap, nearest = box_iou(anchors, boxes).max(dim=1)
        positive = (overlap > 0.5) | (box_iou(anchors, boxes) == box_iou(anchors, boxes).max(dim=0)[0]).any(dim=1)
        ignored = ~positive & (overlap > 0.3)
        sure = F.binary_cross_entropy_with_logits(raw[i, ~ignored, 0], positive[~ignored].float())
        total = total + sure + far_off(raw[i, positive, 1:], boxes[nearest[positive]], anchors[positive])
        proposals = torch.cat([model.propose(raw[i].detach(), anchors), boxes])
        overlap, nearest = box_iou(proposals, boxes).max(dim=1)
        right = overlap > 0.5
        said = model.head(roi_align(features[i], proposals, model.stride, 4))
        total = total + F.cross_entropy(said[:, :-4], torch.where(right, labels[nearest], 0))
        total = total + far_off(said[right, -4:], boxes[nearest[right]], proposals[right])
    return total / len(target)


def far_off(deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
    """How far the boxes that `deltas` mean are from `boxes`."""
    return F.smooth_l1_loss(deltas, encode_boxes(boxes, anchors), beta=0.1)


def map_50() -> Metric:
    """Mean average precision, where boxes are the same that overlap by half."""

    def per_picture(seen: dict[str, Any]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        outputs, counts = seen["outputs"], seen["outputs"]["count"].tolist()
        names = ("boxes", "scores", "labels")
        return [{name: outputs[name][i, :n] for name in names} for i, n in enumerate(counts)], seen["target"]

    return MeanAveragePrecision(0.5, per_picture)


class Shapes(torch.utils.data.Dataset):
    """Pictures of 64 × 64 pixels with one to four shapes, which may overlap a little; each follows from its number."""

    def __init__(self, first: int, samples: int) -> None:
        self.first, self.samples = first, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        draw = torch.Generator().manual_seed(self.first + index)
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        image = 0.3 * torch.rand(3, 1, 1, generator=draw) + 0.15 * torch.rand(3, 64, 64, generator=draw)
        boxes, labels = [], []
        for _ in range(1 + int(torch.randint(4, (), generator=draw))):
            size = float(10 + 14 * torch.rand((), generator=draw))
            left, top = (torch.rand(2, generator=draw) * (64 - size)).tolist()
            box = torch.tensor([[left, top, left + size, top + size]])
            if boxes and bool((box_iou(box, torch.cat(boxes)) > 0.1).any()):
                continue
            label = 1 + int(torch.randint(3, (), generator=draw))
            u, v = (x - left) / size, (y - top) / size  # 0 … 1 in the box
            inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
            if label == 1:
                inside = (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
            elif label == 3:
                inside = inside & ((u - 0.5).abs() <= v / 2)
            colour = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=draw)
            image = torch.where(inside, colour, image)
            boxes.append(box)
            labels.append(label)
        return {"image": image}, {"boxes": torch.cat(boxes), "labels": torch.tensor(labels)}


def load_data(samples: int = 600) -> tuple[Shapes, Shapes, Shapes]:
    """Training, validation and test pictures, a tenth as many in each of the latter two."""
    return Shapes(0, samples), Shapes(10**6, samples // 10), Shapes(2 * 10**6, samples // 10)
