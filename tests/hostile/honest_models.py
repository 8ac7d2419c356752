# ruff: noqa: UP006, UP035, UP045 - as torch.jit reads them
"""Models that people have, each with inputs. (torch reads annotations as they stand: no `from __future__` here.)"""

import enum
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import nn

X = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
T = torch.linspace(-1, 1, 2 * 5 * 16).reshape(2, 5, 16)

LAYERS = [
    (nn.Conv1d(3, 4, 3), X[:, :, 0]),
    (nn.Conv2d(3, 4, 3, padding="same"), X),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), X),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), X),
    (nn.Conv3d(3, 4, 3), X.reshape(1, 3, 8, 8, 8)),
    (nn.ConvTranspose2d(3, 4, 3), X),
    (nn.Sequential(nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.GroupNorm(3, 3), nn.LayerNorm(16), nn.RMSNorm(16)), X),
    (nn.Sequential(nn.LocalResponseNorm(2), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)), X),
    (nn.Sequential(nn.LPPool2d(2, 2), nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Unflatten(1, (3, 9))), X),
    (nn.FractionalMaxPool2d(2, output_size=3), X),
    (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Upsample(scale_factor=2, mode="bicubic")), X),
    (nn.Sequential(nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 2.0), nn.CircularPad2d(1)), X),
    (nn.Sequential(nn.Unfold(3), nn.PReLU(), nn.GELU(), nn.SELU(), nn.Hardswish(), nn.Mish(), nn.Softmax(-1)), X),
    (nn.Sequential(nn.PixelShuffle(1), nn.ChannelShuffle(3), nn.GLU(), nn.Dropout(), nn.AlphaDropout()), X),
    (nn.GRUCell(16, 8), T[0]),
    (nn.Embedding(5, 4, padding_idx=0, max_norm=1.0), torch.tensor([[1, 2]])),
    (nn.EmbeddingBag(5, 4, mode="max"), torch.tensor([[1, 2]])),
    (nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), T),
]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 4)
        self.gru = nn.GRU(4, 8, 2, bidirectional=True)
        self.rnn = nn.RNN(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(self.gru(self.lstm(x)[0])[0])[0]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32), 1)
        self.attention = nn.MultiheadAttention(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(self.decoder(x, x), x, x)[0]


class Functions(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.interpolate(x, size=[8, 9], mode="area") + F.interpolate(x, [8, 9], mode="bilinear", antialias=True)
        grid = F.affine_grid(
            torch.eye(2, 3).unsqueeze(0).repeat(x.size(0), 1, 1), [x.size(0), 3, 8, 9], align_corners=False
        )
        y = y + F.grid_sample(x, grid, align_corners=False)
        square = x @ x.transpose(-1, -2) + torch.eye(16)
        y = y + torch.linalg.inv(square).mean() + torch.linalg.norm(square) + torch.linalg.solve(square, square).sum()
        with torch.no_grad():
            y = y + torch.fft.irfft(torch.fft.rfft(x)).mean()
        z = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return y + z.mean() + torch.topk(x, 2)[0].sum() + torch.einsum("bchw->b", x).sum()


class Python(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 4, f"bad {x.dim()}"
        if x.size(0) > 50:
            raise ValueError("too many")
        d: Dict[str, torch.Tensor] = {"a": x}
        items = [x]
        items.append(x)
        pair = (x, 1)
        words = ["a", "b"]
        i = len(words) + int("3") + ord("a")
        while i < 300:
            i += 1
        z = torch.zeros_like(x)
        z[0] = 1
        z[:, 0, ...] = x[:, 0]
        z = torch.where(z > 0, z, x)
        return d["a"] + i + torch.cat([a * 2 for a in items])[:2] + pair[1] + z.masked_fill(z > 1, 0.0) + x.new_zeros(1)


class Fork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(self.linear, x)) + 1


class Autocast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu"):
            y = torch.mm(x[0, 0], x[0, 0])
        return y.float()


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Pair(NamedTuple):
    a: torch.Tensor
    b: Optional[torch.Tensor]


@torch.jit.interface
class Adder(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class One(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@torch.jit.script
class Point:
    def __init__(self, a: int) -> None:
        self.a = a

    def get(self) -> int:
        return self.a


class Types(nn.Module):
    adder: Adder

    def __init__(self) -> None:
        super().__init__()
        self.color = Color.RED
        self.adder = One()
        self.point = Point(3)
        self.points: List[Point] = [Point(1), Point(2)]

    def forward(self, x: torch.Tensor) -> Pair:
        point: Optional[Point] = None
        if x.size(0) > 1:
            point = Point(2)
        if point is not None:
            x = x + point.get()
        y: Any = x
        if isinstance(y, torch.Tensor) and self.color == Color.RED:
            x = y + self.color.value
        return Pair(self.adder.forward(x) + self.point.a + self.points[0].get(), x)


class Names(nn.Module):
    """Own parts with the names of operators that are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.ReLU()])
        self.by_name = nn.ModuleDict({"a": nn.Tanh()})
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(1))])
        self.register_buffer("seed", torch.ones(1))
        self.save = nn.Identity()
        self.set = nn.Linear(16, 16)

    def resize_(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def _cat(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        for layer in self.by_name.values():
            x = layer(x)
        for weight in self.weights:
            x = x * weight
        return self.resize_(self._cat(self.set(self.save(x)))) + self.seed


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.linear.register_forward_hook(add_one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def add_one(self, input: Tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    return output + 1


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(14, 3)
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.linear(self.relu(self.conv(self.quant(x)))))


def quantised() -> List[Tuple[str, nn.Module, torch.Tensor]]:
    q = torch.ao.quantization
    model = Quantised().eval()
    model.qconfig = q.get_default_qconfig("x86")
    prepared = q.prepare(model)
    prepared(X)
    class_of = {nn.Linear, nn.LSTM}
    return [
        ("static", q.convert(prepared), X),
        ("dynamic", q.quantize_dynamic(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), class_of, dtype=torch.qint8), X),
        ("dynamic lstm", q.quantize_dynamic(nn.Sequential(nn.LSTM(16, 8)), class_of, dtype=torch.qint8), T),
        ("half", q.quantize_dynamic(nn.Sequential(nn.Linear(16, 16)), class_of, dtype=torch.float16), X),
    ]
