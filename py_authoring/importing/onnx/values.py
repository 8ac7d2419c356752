"""What an ONNX name stands for while its graph becomes Python."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Larger constants are weights; smaller ones may be written into the code.
SMALL = 4096

#: onnx.TensorProto's numbers → torch's datatypes.
DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
}


@dataclass
class Value:
    """An ONNX value.

    Attributes:
        kind: `tensor`, `ints` (a list of sizes), `int` (one of them), `tensors` (a sequence), `none` (nothing).
        text: the Python expression; None for a constant that nobody has asked for yet.
        constant: what it is, where that is known before any input.
        name: in the ONNX graph.
        trainable: a weight of the graph, not a number of its code.
        parts: of `ints`: the expression of each, where their number is known.
    """

    kind: str
    text: str | None
    constant: Tensor | None = None
    name: str = ""
    trainable: bool = False
    parts: list[str] | None = None

    @property
    def small(self) -> bool:
        """A constant that may be computed with before any input is there."""
        return self.constant is not None and self.constant.numel() <= SMALL


NONE = Value("none", "None")
