"""Sums along an axis, sorting and the largest of many in a package give what torch does, in torch's order."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR

from py_authoring.export import kernels
from py_authoring.export.compiled import Package, compile_program
from py_authoring.export.kernels import order
from py_authoring.export.operators import needs_of
from py_authoring.tools import find_compiler

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no kernel for a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]


class Ranks(nn.Module):
    """Every function of the kernel, along each axis, of several types, of views."""

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        across, some = x.permute(2, 0, 1), x[:, :, ::2]
        return (
            torch.sort(x, 1)[0], *torch.sort(across, stable=True, dim=2, descending=True),
            *torch.sort(some, stable=True, dim=0),
            *torch.sort(x.unsqueeze(1).expand(-1, 4, -1, -1), stable=True, dim=-1, descending=True),
            torch.sort(x[:, :1].expand(-1, 3, -1), stable=True, dim=0)[0] + 1,
            *torch.topk(x, 3, 1), *torch.topk(across, 4, 0, largest=False), torch.topk(some, 2, 2, sorted=False)[0],
            torch.argsort(ids, stable=True, dim=-1, descending=True),
            *torch.topk(ids, 5, 0), *torch.sort(ids % 3 == 0, stable=True, dim=0),
            torch.cumsum(x, 1), torch.cumsum(across, 0), torch.cumsum(some.double(), 2), torch.cumprod(x, 2),
            torch.cumsum(ids, 0), torch.cumsum(ids % 3 == 0, 0), torch.cumsum(ids.int(), 0, dtype=torch.float32),
            torch.cumprod(ids, 0), torch.topk(x.flatten(1), 1, 1)[1], torch.topk(x.flatten(1), 20, 1)[0],
        )  # fmt: skip


@pytest.fixture(scope="module")
def package() -> Package:
    model, x, ids = Ranks().eval(), torch.randn(6, 9, 8), torch.randint(0, 9, (12,))
    with torch.no_grad():
        free = {"x": {0: Dim.AUTO, 1: Dim.AUTO}, "ids": {0: Dim.AUTO}}
        exported = torch.export.export(model, (), kwargs={"x": x, "ids": ids}, dynamic_shapes=free)
    assert kernels.with_own_kernels(exported, 16)[1] == [order]
    files = compile_program(exported, {"x": x, "ids": ids}, find_compiler())
    assert needs_of(files, {}) == []
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, data in files.items():
            writer.write_bytes(f"{AOTINDUCTOR_DIR}model/{name}", data)
    return Package(buffer.getvalue())


@pytest.mark.parametrize("kind", ["usual", "alike", "odd"])
def test_it_gives_what_torch_does_at_any_size(package, kind):
    torch.manual_seed(1)
    for number in range(100):
        rows, columns, ids = 2 + number % 7, 3 + number * 13 % 90, 5 + number * 31 % 400
        x = torch.randn(rows, columns, 8)
        if kind == "alike":
            x = x.round()
        if kind == "odd":
            for special in (float("nan"), float("nan"), float("inf"), -float("inf"), -0.0):
                x.view(-1)[torch.randint(x.numel(), ())] = special
        inputs = {"x": x, "ids": torch.randint(-9, 9, (ids,))}
        found, expected = package.run(["x", "ids"], inputs), Ranks()(**inputs)
        assert len(found) == len(expected)
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert one.dtype == other.dtype and one.stride() == other.stride(), place
            bounds = {"rtol": 1e-6, "atol": 1e-6} if one.is_floating_point() else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(one, other, equal_nan=True, **bounds, msg=lambda t, p=place: f"output {p}: {t}")


class Halves(nn.Module):
    """Of numbers that the kernel does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x.half())[0] + torch.cumsum(x, 0).half()


class Places(nn.Module):
    """Of equal numbers in whatever order torch has them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x)[1] + torch.cumsum(x, 0)


class Ranked(nn.Module):
    """The same."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.argsort(x)


@pytest.mark.parametrize("model", [Halves, Places, Ranked])
def test_others_are_left_to_the_host(model):
    exported = torch.export.export(model(), (), kwargs={"x": torch.randn(5)})
    assert kernels.with_own_kernels(exported, 16) is None
