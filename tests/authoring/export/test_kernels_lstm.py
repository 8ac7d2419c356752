"""LSTMs of compiled packages: the kernel computes what torch does, and a package asks its host for nothing."""

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

from py_authoring.export import elf, kernels, program
from py_authoring.export.compiled import Package, _is_small, compile_program
from py_authoring.export.kernels import convolution, lstm
from py_authoring.tools import find_compiler

CAPABILITY = torch.backends.cpu.get_cpu_capability()
#: The narrower vectors run on every processor that has the wider ones.
WIDTHS = [lanes for name, lanes in kernels.LANES.items() if name <= CAPABILITY]
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no kernel for a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]


@pytest.fixture(scope="module", params=WIDTHS)
def steps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    lanes = request.param
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    machine = {8: "x86-64-v3", 16: "x86-64-v4"}[lanes]
    options = ["-shared", "-fPIC", "-O1", "-std=c++17", f"-march={machine}", f"-DLANES={lanes}", f"-I{kernels.NATIVE}"]
    source = Path(__file__).with_name("lstm_kernel.cpp")
    subprocess.run([find_compiler(), *options, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).run_steps

    def run(x: Tensor, own: list[Tensor], state: list[Tensor] | None, time_first: bool, backwards: bool, threads: int):
        hidden = own[1].shape[1]
        time, batch = (x.shape[0], x.shape[1]) if time_first else (x.shape[1], x.shape[0])
        h, c = [each.clone() for each in state] if state else [torch.zeros(batch, hidden) for _ in range(2)]
        share = [lstm.in_groups(each, lanes) for each in (own[0], *([own[2] + own[3]] if len(own) > 2 else []))]
        gates, weight = nn.functional.linear(x, *share).contiguous(), lstm.pack(own[1], lanes)
        out = torch.full((*x.shape[:2], hidden), 7e7)
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (gates, weight, h, c, out)]
        flags = [ctypes.c_bool(each) for each in (time_first, backwards, state is None)]
        function((ctypes.c_int64 * 3)(batch, time, hidden), *pointers, *flags, ctypes.c_int64(threads))
        return out, h, c

    return run


def compare(steps, r: random.Random, batch: int, time: int, inputs: int, hidden: int, values: str = "usual") -> None:
    time_first, backwards, bias, given = (r.random() < 0.5 for _ in range(4))
    cells = nn.LSTM(inputs, hidden, bias=bias, batch_first=not time_first)
    own = [each.detach() * r.choice([1, 3]) for each in cells.parameters()]
    x = torch.randn((time, batch, inputs) if time_first else (batch, time, inputs)) * r.choice([0.01, 1, 30])
    state = [torch.randn(batch, hidden) for _ in range(2)] if given else None
    if values == "odd":
        for special in (float("nan"), float("inf"), -float("inf"), 1e-40, 1e30):
            x.view(-1)[r.randrange(x.numel())] = special
            for each in state or []:
                each.view(-1)[r.randrange(each.numel())] = special
    # float64 would have numbers where there are none, where a gate is closed to infinity, say
    dtype = torch.float32 if values == "odd" else torch.float64
    axis = 0 if time_first else 1
    first = [each[None].to(dtype) for each in state or [torch.zeros(batch, hidden)] * 2]
    weights = [each.to(dtype) for each in own]
    y, h, c = torch.lstm(
        (x.flip(axis) if backwards else x).to(dtype), first, weights, bias, 1, 0.0, False, False, not time_first
    )
    expected = [each.float() for each in (y.flip(axis) if backwards else y, h[0], c[0])]
    found = steps(x, own, state, time_first, backwards, r.choice([1, 2, 3]))
    where = f"{batch} × {time} × {inputs} × {hidden}, {time_first=}, {backwards=}, {bias=}, {given=}"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-5, equal_nan=True, msg=lambda t: f"{where}: {t}")


def test_it_computes_what_torch_does_at_any_size(steps):
    r = random.Random(1)
    torch.manual_seed(1)
    for _ in range(300):
        batch, hidden = r.choice([1, 2, 3, 4, 5, 7, 8, 15, 33]), r.choice([1, 2, 7, 8, 15, 16, 17, 40, 100, 128, 256])
        compare(steps, r, batch, r.randint(1, 9), r.choice([1, 3, 20]), hidden)


def test_nan_and_infinity_come_out_where_torch_has_them(steps):
    r = random.Random(2)
    torch.manual_seed(2)
    for _ in range(100):
        compare(steps, r, r.randint(1, 9), r.randint(1, 4), r.choice([1, 5]), r.choice([3, 16, 40]), "odd")


def test_a_state_that_is_far_from_zero_keeps_its_digits(steps):
    """σ near 0 is a small number and not 0: what it is multiplied with may be large."""
    own = [torch.zeros(4, 1), torch.zeros(4, 1), torch.tensor([-30.0, -30.0, 1e-6, -30.0]), torch.zeros(4)]
    _, h, c = steps(torch.zeros(1, 1, 1), own, [torch.zeros(1, 1), torch.full((1, 1), 1e12)], False, False, 1)
    expected = torch.tensor(-30.0).double().sigmoid()
    torch.testing.assert_close(c.double(), expected[None, None] * 1e12, rtol=1e-6, atol=0)
    torch.testing.assert_close(h.double(), expected * c.double().tanh(), rtol=1e-6, atol=0)


class Reader(nn.Module):
    """Layers of every kind, on sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 5)
        self.both = nn.LSTM(5, 40, 2, batch_first=True, bidirectional=True)
        self.plain = nn.LSTM(80, 20, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, (last, _) = self.both(self.embedding(x))
        z, (h, c) = self.plain(y.transpose(0, 1), (h, c))
        return z, last, h, c


def recorded(model: nn.Module, inputs: dict[str, Tensor], free: dict[str, list[int]]):
    shapes = {name: dict.fromkeys(free[name], torch.export.Dim.AUTO) for name in inputs}
    return torch.export.export(model.eval(), (), kwargs=inputs, dynamic_shapes=shapes)


def test_a_package_with_lstms_needs_no_host_and_takes_any_batch_and_length():
    torch.manual_seed(3)
    model = Reader().eval()
    inputs = {"x": torch.randint(0, 9, (3, 6)), "h": torch.randn(1, 3, 20), "c": torch.randn(1, 3, 20)}
    with torch.no_grad(), program.lstms_of_any_length():
        exported = recorded(model, inputs, {"x": [0, 1], "h": [1], "c": [1]})
        files = compile_program(exported, inputs, find_compiler())
    undefined = elf.undefined_symbols(next(data for name, data in files.items() if name.endswith(".so")))
    assert elf.host_operators(undefined) == []
    archive = io.BytesIO()
    with PT2ArchiveWriter(archive) as writer:
        for name, data in files.items():
            writer.write_bytes(f"{AOTINDUCTOR_DIR}model/{name}", data)
    package = Package(archive.getvalue())
    for batch, time in ((1, 1), (2, 7), (3, 2), (8, 40), (33, 5)):
        state = [torch.randn(1, batch, 20) for _ in range(2)]
        given = dict(zip("xhc", (torch.randint(0, 9, (batch, time)), *state), strict=True))
        with torch.no_grad():
            expected = model(**given)
        for one, other in zip(package.run(["x", "h", "c"], given), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class Projected(nn.Module):
    """What the kernel does not compute, beside what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.projected, self.plain = nn.LSTM(6, 8, proj_size=3), nn.LSTM(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.projected(x)[0])[0]


def test_a_layer_with_a_projection_stays_as_it_is():
    with torch.no_grad(), program.lstms_of_any_length():
        exported = recorded(Projected(), {"x": torch.randn(4, 3, 6)}, {"x": [1]})
        module, used = kernels.with_own_kernels(exported, 16)
    assert used == [lstm, convolution]
    targets = [node.target for node in module.graph.nodes]
    assert targets.count(torch.ops.aten.lstm.input) == targets.count(lstm.lstm_layer()) == 1


@pytest.mark.parametrize(("rows", "small"), [(1, True), (40, False)])
def test_the_operations_of_an_lstm_count_where_threads_are_decided_about(rows: int, small: bool):
    with torch.no_grad():
        assert _is_small(nn.Sequential(nn.LSTM(16, 32)).eval(), {"input": torch.randn(5, rows, 16)}) is small
