"""The matrix products that go into compiled packages compute what torch does, and answer before a host is asked."""

import ctypes
import io
import random
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR

from py_authoring.export import elf, kernels
from py_authoring.export.compiled import Package, compile_program
from py_authoring.export.kernels import matmul
from py_authoring.tools import find_compiler

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no kernel for a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]
WIDTHS = [lanes for name, lanes in kernels.LANES.items() if name <= CAPABILITY]


@pytest.fixture(scope="module", params=WIDTHS)
def multiply(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    lanes = request.param
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    machine = {8: "x86-64-v3", 16: "x86-64-v4"}[lanes]
    # -O1: the same arithmetic in a fifth of the time to compile
    options = ["-shared", "-fPIC", "-O1", "-std=c++17", f"-march={machine}", f"-DLANES={lanes}", f"-I{kernels.NATIVE}"]
    source = Path(__file__).with_name("matmul_kernel.cpp")
    subprocess.run([find_compiler(), *options, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).multiply_matrices

    def run(a: Tensor, b: Tensor, out: Tensor, factor: float, adds: bool, threads: int) -> Tensor:
        sizes, strides = (*a.shape[:2], b.shape[2], a.shape[2]), (*a.stride(), *b.stride(), *out.stride())
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (a, b, out)]
        numbers = ((ctypes.c_int64 * 4)(*sizes), (ctypes.c_int64 * 9)(*strides))
        function(*numbers, *pointers, ctypes.c_float(factor), ctypes.c_bool(adds), ctypes.c_int64(threads))
        return out

    return run


# Of these sizes, its axes in any order, among numbers of others.
def lying_anyhow(r: random.Random, *sizes: int) -> Tensor:
    order = r.sample(range(3), 3) if r.random() < 0.5 else r.choice([[0, 1, 2], [0, 2, 1]])
    lying = torch.randn([sizes[axis] + r.choice([0, 0, 1]) for axis in order])
    return lying.permute(*(order.index(axis) for axis in range(3)))[: sizes[0], : sizes[1], : sizes[2]]


def compare(multiply, r: random.Random, odd: bool = False) -> None:
    batch, sizes = r.randint(1, 3), [1, 2, 3, 7, 8, 15, 16, 17, 31, 40, 64, 65, 130, 200]
    rows, columns, inner = r.choice(sizes), r.choice(sizes), r.choice([*sizes, 0, 256, 257, 600])
    a, b, out = (lying_anyhow(r, batch, *each) for each in ((rows, inner), (inner, columns), (rows, columns)))
    if odd and inner:
        for special in (torch.nan, torch.inf, -torch.inf, 1e-40):
            each = r.choice([a, b])
            each[tuple(r.randrange(axis) for axis in each.shape)] = special
    factor, adds = r.choice([1.0, 1.0, -0.5]), r.random() < 0.3
    before = out._base.clone()
    expected = (a.double() @ b.double() * factor + (out.double() if adds else 0)).float()
    multiply(a, b, out, factor, adds, r.choice([1, 2, 3, 7]))
    said = f"{tuple(a.shape)} {a.stride()} · {tuple(b.shape)} {b.stride()} → {out.stride()} {factor} {adds}"
    bound = 2e-6 * inner**0.5 + 1e-6
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=bound, equal_nan=True, msg=lambda t: f"{said}: {t}")
    found = out._base.clone()
    out.fill_(0)
    torch.as_strided(before, out.shape, out.stride()).fill_(0)
    torch.as_strided(found, out.shape, out.stride()).fill_(0)
    assert found.equal(before), said  # nothing is written beside the result


def test_it_computes_what_torch_does_at_any_shape(multiply):
    r = random.Random(1)
    torch.manual_seed(1)
    for _ in range(500):
        compare(multiply, r)


def test_nan_and_infinity_come_out_where_torch_has_them(multiply):
    r = random.Random(2)
    torch.manual_seed(2)
    for _ in range(200):
        compare(multiply, r, odd=True)


class Products(nn.Module):
    """What generated code leaves to its host: sizes that are free, and weights for each place of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Parameter(torch.randn(9, 16, 5))

    def forward(self, x: Tensor) -> Tensor:
        each = torch.einsum("bnk,nkm->bnm", x, self.each)
        alike = x[:, 0] @ x[:, 1].T  # as many rows and columns as there are in the batch
        return each * alike.sum(0)[:, None, None]


def exported(model: nn.Module, x: Tensor):
    with torch.no_grad():
        return torch.export.export(model.eval(), (), kwargs={"x": x}, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})


class Mixed(nn.Module):
    """A product that the kernel cannot answer beside one that it could."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ x.transpose(1, 2) + (x.double() @ x.double().transpose(1, 2)).float()


def test_products_are_left_to_the_host_where_one_is_not_of_float32():
    assert kernels.with_own_kernels(exported(Mixed(), torch.randn(3, 9, 16)), 16) is None
    _, used = kernels.with_own_kernels(exported(Products(), torch.randn(3, 9, 16)), 16)
    assert used == [matmul]


def test_a_compiled_network_multiplies_as_eager_does_at_any_batch_without_asking_its_host():
    torch.manual_seed(3)
    model, x = Products().eval(), torch.randn(3, 9, 16)
    files = compile_program(exported(model, x), {"x": x}, find_compiler())
    library = next(data for name, data in files.items() if name.endswith(".so"))
    assert elf.host_operators(elf.undefined_symbols(library)) == []
    package = Package(in_package(files))
    with torch.no_grad():
        for batch in (1, 2, 3, 33):
            x = torch.randn(batch, 9, 16)
            torch.testing.assert_close(package.run(["x"], {"x": x})[0], model(x), rtol=1e-4, atol=1e-3)


def in_package(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, data in files.items():
            writer.write_bytes(f"{AOTINDUCTOR_DIR}model/{name}", data)
    return buffer.getvalue()
