"""The kernel that goes into compiled packages computes what torch does, and the graph uses it where it may."""

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
from torch.nn import functional as F

from py_authoring.export import elf, kernels
from py_authoring.export.compiled import Package, compile_program
from py_authoring.export.kernels import convolution
from py_authoring.tools import find_compiler

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no kernel for a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]
#: Each with what torch itself uses here; the narrower vectors run on every such processor.
WIDTHS = [lanes for name, lanes in kernels.LANES.items() if name <= CAPABILITY]


@pytest.fixture(scope="module", params=WIDTHS)
def convolve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    lanes = request.param
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    machine = {8: "x86-64-v3", 16: "x86-64-v4"}[lanes]
    # -O1: the same arithmetic in a fifth of the time to compile
    options = ["-shared", "-fPIC", "-O1", "-std=c++17", f"-march={machine}", f"-DLANES={lanes}", f"-I{kernels.NATIVE}"]
    source = Path(__file__).with_name("kernel.cpp")
    subprocess.run([find_compiler(), *options, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).convolve

    def run(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, stride, padding, relu: bool, threads: int):
        outputs, channels, height, width = weight.shape
        out_h = (x.shape[2] + 2 * padding[0] - height) // stride[0] + 1
        out_w = (x.shape[3] + 2 * padding[1] - width) // stride[1] + 1
        sizes = (x.shape[0], x.shape[2], x.shape[3], channels, outputs, out_h, out_w, height, width, *stride, *padding)
        packed = convolution.pack(weight, lanes)
        biases = torch.zeros(packed.numel() // (channels * height * width))
        biases[:outputs] = bias
        pictures = [None if each is None else each.permute(0, 2, 3, 1).contiguous() for each in (x, other)]
        out = torch.full((x.shape[0], out_h, out_w, outputs), float("nan"))
        tensors = (pictures[0], packed, biases, pictures[1], out)
        pointers = [ctypes.c_void_p(None if each is None else each.data_ptr()) for each in tensors]
        function((ctypes.c_int64 * 13)(*sizes), *pointers, ctypes.c_bool(relu), ctypes.c_int64(threads))
        return out.permute(0, 3, 1, 2)

    return run


def compare(convolve, r: random.Random, sizes: tuple[int, ...], values: str = "usual") -> None:
    count, channels, h, w, outputs, height, width, stride_h, stride_w, padding_h, padding_w = sizes
    x, weight = torch.randn(count, channels, h, w), torch.randn(outputs, channels, height, width)
    bias, stride, padding = torch.randn(outputs), (stride_h, stride_w), (padding_h, padding_w)
    if values == "odd":
        for special in (float("nan"), float("inf"), -float("inf"), 1e-40):
            x.view(-1)[r.randrange(x.numel())] = special
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    other = torch.randn(expected.shape) if r.random() < 0.5 else None
    relu = r.random() < 0.5
    expected = expected if other is None else expected + other
    expected = (expected.relu() if relu else expected).float()
    found = convolve(x, weight, bias, other, stride, padding, relu, r.choice([1, 2, 3, 7]))
    bound = 8e-6 * (channels * height * width) ** 0.5 + 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=bound, equal_nan=True, msg=lambda t: f"{sizes}: {t}")


def test_it_computes_what_torch_does_at_any_shape(convolve):
    r = random.Random(1)
    torch.manual_seed(1)
    compared = 0
    while compared < 400:
        channels = r.choice([1, 2, 3, 5, 8, 16, 17, 31, 64, 100, 256, 257, 300, 512])
        strides, paddings = (r.randint(1, 3), r.randint(1, 3)), (r.randint(0, 3), r.randint(0, 3))
        pictures, kernel = (
            (r.randint(1, 3), channels, r.randint(1, 12), r.randint(1, 40)),
            (r.randint(1, 4), r.randint(1, 5)),
        )
        sizes = (*pictures, r.randint(1, 70), *kernel, *strides, *paddings)
        if r.random() < 0.3:
            sizes = (*sizes[:5], 1, 1, 1, 1, 0, 0)
        fits = sizes[2] + 2 * sizes[9] >= sizes[5] and sizes[3] + 2 * sizes[10] >= sizes[6]
        if fits:
            compare(convolve, r, sizes)
            compared += 1


def test_a_linear_layer_is_a_convolution_of_one_row(convolve):
    r = random.Random(2)
    torch.manual_seed(2)
    for rows in (1, 2, 3, 7, 13, 14, 15, 120, 300):
        for inputs, outputs in ((9, 200), (128, 10), (512, 96), (1024, 33)):
            compare(convolve, r, (1, inputs, 1, rows, outputs, 1, 1, 1, 1, 0, 0))


def test_nan_and_infinity_come_out_where_torch_has_them(convolve):
    r = random.Random(3)
    torch.manual_seed(3)
    for _ in range(40):
        # without padding: a zero that torch multiplies by infinity there is no number, and here it is not multiplied
        compare(convolve, r, (2, r.choice([1, 3, 40]), 9, 30, r.choice([4, 40]), 3, 3, r.randint(1, 2), 1, 0, 0), "odd")


class Block(nn.Module):
    """What a graph may hold around convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.same, self.other_norm = nn.Conv2d(24, 24, 3, padding="same"), nn.BatchNorm2d(24, affine=False)
        self.depth, self.even = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 24, 2, padding="same")
        self.down, self.head, self.last = nn.Conv2d(24, 40, 3, 2, 1), nn.Linear(40 * 3 * 2, 80), nn.Linear(80, 300)
        for norm in (self.norm, self.other_norm):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.first(x)))
        y = self.other_norm(self.same(x))
        y += x
        x = torch.relu(y) + self.depth(y)  # y has two users: its addition is not the depthwise layer's
        z = self.even(x)
        x = x.add(z, alpha=2)
        y = self.down(x)
        x.relu_()  # after y was computed
        y = F.dropout(F.max_pool2d(torch.relu(y), 2), training=self.training)
        y = torch.relu(self.head(torch.flatten(y, 1)))
        z = F.avg_pool2d(z + 1, 3).view(z.shape[0], -1)[:, :300]  # added to: no longer known to lie channels last
        return self.last(y.unsqueeze(1).expand(-1, 3, -1)) + x.mean() + F.pad(z, (0, 300 - z.shape[1])).unsqueeze(1)


def exported(model: nn.Module, x: Tensor):
    with torch.no_grad():
        return torch.export.export(model.eval(), (), kwargs={"x": x}, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})


def test_layers_that_are_not_plain_stay_as_they_are():
    module, _ = kernels.with_own_kernels(exported(Block(), torch.randn(6, 3, 12, 9)), 16)
    calls = [node for node in module.graph.nodes if node.target == convolution.direct_convolution()]
    relus = [node.args[-1] for node in calls]
    added = [node.args[3] is not None for node in calls]
    assert relus == [True, False, True, True, False]  # first, same (whose sum two others take), down, head, last
    assert added == [False, True, False, False, False]
    names = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("aten.conv2d") for name in names) == 2  # in groups, and of even size with `same`
    assert not any("batch_norm" in name for name in names)


class Tiny(nn.Module):
    """Too few weights to be worth a call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


def test_a_graph_without_such_layers_is_left_alone():
    assert kernels.with_own_kernels(exported(Tiny(), torch.randn(3, 4)), 16) is None


class Table(nn.Module):
    """A layer of constants alone, which torch computes while it compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.layer = nn.Parameter(torch.randn(6, 128)), nn.Linear(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) @ self.layer(self.queries).T


def test_a_layer_of_constants_is_left_to_torch():
    module, _ = kernels.with_own_kernels(exported(Table(), torch.randn(3, 128)), 16)
    assert sum(node.target == convolution.direct_convolution() for node in module.graph.nodes) == 1
    assert sum(node.target == torch.ops.aten.linear.default for node in module.graph.nodes) == 1


def test_a_compiled_network_computes_what_eager_does_at_any_batch():
    torch.manual_seed(4)
    model, x = Block().eval(), torch.randn(6, 3, 12, 9)
    files = compile_program(exported(model, x), {"x": x}, find_compiler())
    library = next(data for name, data in files.items() if name.endswith(".so"))
    undefined = elf.undefined_symbols(library)
    assert "aoti_torch_cpu_direct_convolution" not in undefined  # it is in the package
    package = Package(in_package(files))
    with torch.no_grad():
        for batch in (1, 2, 6, 33):
            x = torch.randn(batch, 3, 12, 9)
            torch.testing.assert_close(package.run(["x"], {"x": x})[0], model(x), rtol=1e-4, atol=2e-5)


def in_package(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, data in files.items():
            writer.write_bytes(f"{AOTINDUCTOR_DIR}model/{name}", data)
    return buffer.getvalue()


def test_a_free_batch_stays_free_in_the_graph_of_an_attention():
    x = torch.randn(6, 12, 128)
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    layer = nn.Sequential(layer).eval()
    with torch.no_grad():
        program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    module, _ = kernels.with_own_kernels(program, 16)
    taken = [node.meta["val"].shape[0] for node in module.graph.nodes if node.op == "placeholder"]
    assert not taken[-1].node.expr.is_number
