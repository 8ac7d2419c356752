"""The attention that goes into compiled packages computes what torch does, and the graph uses it where it may."""

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
from py_authoring.export.kernels import attention
from py_authoring.export.kernels.graph import let_views_copy
from py_authoring.export.kernels.heads import read_as_they_lie
from py_authoring.tools import find_compiler

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no kernel for a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]
WIDTHS = [lanes for name, lanes in kernels.LANES.items() if name <= CAPABILITY]


@pytest.fixture(scope="module", params=WIDTHS)
def attend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    lanes = request.param
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    machine = {8: "x86-64-v3", 16: "x86-64-v4"}[lanes]
    # -O1: the same arithmetic in a fifth of the time to compile
    options = ["-shared", "-fPIC", "-O1", "-std=c++17", f"-march={machine}", f"-DLANES={lanes}", f"-I{kernels.NATIVE}"]
    source = Path(__file__).with_name("attention_kernel.cpp")
    subprocess.run([find_compiler(), *options, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).attend

    def run(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor,
        scale: float, causal: bool, threads: int, by_hand: bool = False,
    ) -> Tensor:  # fmt: skip
        none_is_nan = ctypes.c_bool(by_hand)
        sizes = (*q.shape[:2], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3])
        strides = [step for each in (q, k, v, out) for step in each.stride()[:3]]
        if mask is None:
            strides += [0] * 4
        else:
            strides += [0 if size == 1 else step for size, step in zip(mask.shape, mask.stride(), strict=True)]
        pointers = [ctypes.c_void_p(None if each is None else each.data_ptr()) for each in (q, k, v, mask, out)]
        numbers = ((ctypes.c_int64 * 7)(*sizes), (ctypes.c_int64 * 16)(*strides))
        function(
            *numbers, *pointers, ctypes.c_float(scale), ctypes.c_bool(causal), none_is_nan, ctypes.c_int64(threads)
        )
        return out

    return run


# Of these sizes, in rows of numbers, but otherwise anyhow: its axes in any order, among numbers of others.
def lying_anyhow(r: random.Random, *sizes: int) -> Tensor:
    order = r.sample(range(3), 3)
    wider = [sizes[axis] + r.choice([0, 0, 1]) for axis in order]
    lying = torch.randn(*wider, sizes[3] + r.choice([0, 0, 3])).permute(*(order.index(axis) for axis in range(3)), 3)
    return lying[: sizes[0], : sizes[1], : sizes[2], : sizes[3]]


def any_mask(r: random.Random, *sizes: int) -> Tensor:
    mask = torch.randn([r.choice([1, size]) for size in sizes])
    if r.random() < 0.5:
        mask = torch.where(mask < r.choice([-0.5, 1.5]), -torch.inf, 0.0)
    if r.random() < 0.2:
        mask = mask.masked_fill(mask < -0.5, torch.finfo(torch.float32).min)
    return mask if r.random() < 0.5 else mask.transpose(2, 3).contiguous().transpose(2, 3)


def compare(attend, r: random.Random, odd: bool = False) -> None:
    batch, key_heads, copies = r.randint(1, 3), r.randint(1, 3), r.choice([1, 1, 1, 2, 3])
    queries, keys = r.choice([1, 2, 5, 8, 17, 40, 130]), r.choice([1, 3, 16, 33, 64, 65, 200])
    heads = key_heads * copies
    size, value_size = r.choice([1, 4, 10, 16, 33, 64]), r.choice([1, 7, 16, 32, 65])
    q = lying_anyhow(r, batch, heads, queries, size)
    k, v = lying_anyhow(r, batch, key_heads, keys, size), lying_anyhow(r, batch, key_heads, keys, value_size)
    # hidden scores that are no number: torch's own ways differ there
    causal, scale = r.random() < 0.3 and not odd, r.choice([size**-0.5, 0.3, -0.5, 0.0])
    mask = None if causal or r.random() < 0.4 else any_mask(r, batch, heads, queries, keys)
    if odd:
        for special in (torch.nan, torch.inf, -torch.inf, 1e-40):
            each = r.choice([q, k, v])
            each[tuple(r.randrange(axis) for axis in each.shape)] = special
    others = {"dropout_p": 0.0, "is_causal": causal, "scale": scale, "enable_gqa": copies > 1}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(
            q.double(), k.double(), v.double(), None if mask is None else mask.double(), **others
        ).float()
    out = torch.full((batch, queries, heads, value_size + 1), torch.nan)
    found = attend(q, k, v, mask, out.transpose(1, 2)[..., :value_size], scale, causal, r.choice([1, 2, 3, 7]))
    said = f"{tuple(q.shape)} {tuple(k.shape)} {value_size} {None if mask is None else tuple(mask.shape)} {others}"
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5, equal_nan=True, msg=lambda t: f"{said}: {t}")
    assert out[..., value_size].isnan().all(), said  # nothing is written beside the result


def test_it_computes_what_torch_does_at_any_shape(attend):
    r = random.Random(1)
    torch.manual_seed(1)
    for _ in range(500):
        compare(attend, r)


def test_nan_and_infinity_come_out_where_torch_has_them(attend):
    r = random.Random(2)
    torch.manual_seed(2)
    for _ in range(200):
        compare(attend, r, odd=True)


def test_a_query_that_sees_no_key_gets_zeros_or_nan_as_torch_has_it(attend):
    q, k, v = (torch.randn(1, 2, 20, 16) for _ in range(3))
    mask = torch.zeros(1, 1, 20, 20)
    mask[:, :, 3] = -torch.inf
    for queries in (20, 4):
        q, mask = q[:, :, :queries], mask[:, :, :queries]
        found = attend(q, k, v, mask, torch.empty(1, 2, queries, 16), 0.25, False, 1)
        assert found[:, :, 3].eq(0).all()
        expected = F.scaled_dot_product_attention(q, k, v, mask, scale=0.25)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        found = attend(q, k, v, mask, torch.empty(1, 2, queries, 16), 0.25, False, 1, by_hand=True)
        expected = torch.softmax(q @ k.transpose(2, 3) / 4 + mask, -1) @ v
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


class Layers(nn.Module):
    """torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.cross = nn.MultiheadAttention(64, 2, batch_first=True)
        self.learnt = nn.Parameter(torch.randn(5, 64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x, src_key_padding_mask=x[..., 0] > 1)
        return self.cross(self.learnt.expand(x.shape[0], -1, -1), y, y, need_weights=False)[0]


class Calls(nn.Module):
    """What a graph may hold of attention."""

    def forward(self, x: Tensor) -> Tensor:
        padding = x[..., 0] > 1
        parts = x.sin().unflatten(2, (4, 16)).transpose(1, 2)
        few = parts[:, :2].transpose(2, 3).contiguous().transpose(2, 3)  # not in rows
        a = F.scaled_dot_product_attention(parts, few, few, is_causal=True, enable_gqa=True).transpose(1, 2)
        b = F.scaled_dot_product_attention(x[:, :5], x, x.cos(), x[:, :5, :1].sigmoid(), scale=0.2)
        c = F.scaled_dot_product_attention(x, x.exp(), x, ~padding[:, None, :] | padding[:, :, None])
        d = F.scaled_dot_product_attention(parts, parts, parts, ~padding[:, None, None, :])
        earlier = torch.tril(torch.ones(x.shape[1], x.shape[1]))
        scores = (parts @ parts.transpose(-2, -1) / 4).masked_fill(earlier == 0, -torch.inf)
        e = F.dropout(torch.softmax(scores, -1), training=self.training) @ parts
        f = torch.bmm(torch.softmax(torch.bmm(x, x.permute(0, 2, 1)) * 0.3 + earlier, 2), x)
        y = a + d.transpose(1, 2) + e.transpose(1, 2)
        return y.flatten(2) + b.mean(1, keepdim=True) + c + f


def exported(model: nn.Module, x: Tensor):
    with torch.no_grad():
        return torch.export.export(model.eval(), (), kwargs={"x": x}, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})


class Other(nn.Module):
    """What the kernel does not take."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(2, (4, -1)).transpose(1, 2)
        a = F.scaled_dot_product_attention(parts, parts[:1], parts[:1])  # one batch for all
        b = F.scaled_dot_product_attention(parts, parts, parts, dropout_p=0.1)
        c = F.scaled_dot_product_attention(parts.double(), parts.double(), parts.double())
        scores = parts @ parts.transpose(2, 3)
        weights = torch.softmax(scores, -1)  # used twice
        d = torch.softmax((scores + scores.mean()) * 2, -1) @ parts  # a mask of the scores themselves, multiplied too
        e = torch.softmax(parts @ parts.transpose(2, 3), 2) @ parts  # over the queries
        return a + b + c + d + e + weights @ parts + weights.sum()


def test_attentions_that_are_not_plain_stay_as_they_are():
    module = exported(Other(), torch.randn(3, 7, 64)).run_decompositions({}).module(check_guards=False)
    assert attention.replace(module, 16) == 0
    assert not any(node.target == attention.attention() for node in module.graph.nodes)


def test_a_result_lies_as_what_follows_wants_it():
    for model, expected in (
        (Layers(), [1, 1]),
        (Calls(), [1, 0, 0, 1, 1, 0]),
    ):
        module, _ = kernels.with_own_kernels(exported(model, torch.randn(3, 7, 64)), 16)
        calls = [node for node in module.graph.nodes if node.target == attention.attention()]
        assert [node.args[-2] for node in calls] == expected


class Decoder(nn.Module):
    """torch's own with words before the batch, in which one layer attends to another's words."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(64, 4, 128)

    def forward(self, x: Tensor) -> Tensor:
        words = x.transpose(0, 1)
        return self.layer(words[:3], words, tgt_is_causal=True, tgt_mask=torch.triu(torch.full((3, 3), -torch.inf), 1))


@pytest.mark.parametrize("layers", [Layers, Decoder])
def test_layers_of_torch_compute_the_same_without_the_copies_that_they_make(layers):
    torch.manual_seed(4)
    torch.backends.mha.set_fastpath_enabled(False)
    model = layers().eval()
    program = exported(model, torch.randn(3, 7, 64))
    module = program.run_decompositions({}).module(check_guards=False)
    for node in [node for node in module.graph.nodes if node.target in attention.LAYERS]:
        read_as_they_lie(module, node)
    let_views_copy(module)
    module.recompile()
    copied = [node.args[0] for node in module.graph.nodes if node.target == torch.ops.aten.clone.default]
    assert not any(node.target == torch.ops.aten.squeeze.dim for node in copied)  # query, key and value, packed
    with torch.no_grad():
        for batch in (1, 3, 8):
            x = torch.randn(batch, 7, 64)
            torch.testing.assert_close(module(x=x), model(x), rtol=1e-5, atol=1e-5)


def test_a_compiled_network_attends_as_eager_does_at_any_batch_without_asking_its_host():
    torch.manual_seed(3)
    model, x = Calls(), torch.randn(3, 7, 64)
    files = compile_program(exported(model, x), {"x": x}, find_compiler())
    library = next(data for name, data in files.items() if name.endswith(".so"))
    assert elf.host_operators(elf.undefined_symbols(library)) == []
    package = Package(in_package(files))
    for batch in (1, 2, 3, 33):
        x = torch.randn(batch, 7, 64)
        torch.testing.assert_close(package.run(["x"], {"x": x})[0], model(x), rtol=1e-4, atol=2e-5)


def in_package(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, data in files.items():
            writer.write_bytes(f"{AOTINDUCTOR_DIR}model/{name}", data)
    return buffer.getvalue()
