"""Writes the small TorchScript files beside this script; needs torch. usage: python make.py"""

import io
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent


class Point(NamedTuple):
    x: Tensor
    n: int


class Types(nn.Module):
    """Takes and returns every type that can cross the boundary."""

    def forward(
        self,
        t: Tensor,
        i: int,
        f: float,
        b: bool,
        s: str,
        o: Optional[Tensor],
        li: List[int],
        lt: List[Tensor],
        tu: Tuple[int, str],
        d: Dict[str, Tensor],
    ) -> Tuple[
        Tensor,
        int,
        float,
        bool,
        str,
        Optional[Tensor],
        List[int],
        List[Tensor],
        Tuple[int, str],
        Dict[str, Tensor],
        Point,
    ]:
        return t + 1, i + 1, f * 2, not b, s + "!", o, li + [9], lt + [t], (tu[0] + 1, tu[1]), d, Point(t * 2, i)


class Defaults(nn.Module):
    def forward(self, x: Tensor, mask: Optional[Tensor] = None, power: int = 2, bias: float = 0.25) -> Tensor:
        y = x**power + bias
        return y if mask is None else y.masked_fill(mask, -1.0)


class Aliases(nn.Module):
    """Hands out a weight, a view of it, its input, a view of that, and one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        y = x + self.weight
        return self.weight, self.weight[1:3], x, x[1:], y, y


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[0] = 100.0
        return x.add_(1)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.state + x
        return self.state


class Hooked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def add_ten(self, inputs: Tuple[Tensor], output: Tensor) -> Tensor:
    return output + 10


class Gradient(nn.Module):
    """A force is a derivative: autograd inside forward, as interatomic potentials have it."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        energy = (x**3).sum()
        gradient = torch.autograd.grad([energy], [x])[0]
        assert gradient is not None
        return gradient.detach()


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(-1) != 4:
            raise ValueError("expected four sensor channels, recalibrate the rig")
        return x * 2


class Regularised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


class Flips(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0)


class Copies(nn.Module):
    """Returns what it is given, through an operation that every datatype has."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class Odd(nn.Module):
    """Results that no datatype stands for."""

    def forward(self, kind: str, x: Tensor) -> Tensor:
        if kind == "complex":
            return torch.complex(x, x)
        if kind == "sparse":
            return x.to_sparse()
        if kind == "quantized":
            return torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
        return x.expand(3, 2)


class OnlyOther(nn.Module):
    @torch.jit.export
    def double(self, x: Tensor) -> Tensor:
        return x * 2


class Kills(nn.Module):
    """Honest code that ends the process in a plain host: SIGFPE and SIGSEGV."""

    def forward(self, what: str, a: int, b: int, t: Tensor) -> Tensor:
        if what == "remainder":
            return torch.tensor([a % b])
        if what == "floordiv":
            return torch.tensor([a // b])
        if what == "divmod":
            return torch.tensor([divmod(a, b)[1]])
        if what == "trunc":
            return torch.div(t, b, rounding_mode="trunc")
        if what == "trunc_tensor":
            return torch.div(t, torch.full_like(t, b), rounding_mode="trunc")
        return torch.linalg.eigvals(t).real


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() > 0):
            x = x + 1
        return x


def main() -> None:
    torch.manual_seed(0)
    models = {
        m.__name__.lower(): m()
        for m in (Types, Defaults, Aliases, WritesInput, Stateful, Gradient, Raises, Flips, Copies, Odd, Kills, Endless)
    }
    hooked = Hooked()
    hooked.register_forward_hook(add_ten)
    models["hooked"] = hooked
    models["onlyother"] = OnlyOther()
    for name, model in models.items():
        write(name, torch.jit.script(model.eval()))
    write("training", torch.jit.script(Regularised().train()))


def write(name: str, module: torch.jit.ScriptModule) -> None:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    (HERE / f"{name}.torchscript").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
