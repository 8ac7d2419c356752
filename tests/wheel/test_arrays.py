"""Every array that NumPy or torch can make goes in with its values, uncopied where that is possible, unchanged."""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import rust_host

DTYPES = [
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("bool", "float16", "float32", "float64"),
]


class Echo(nn.Module):
    def forward(self, x):
        return x.contiguous().clone()


class Inplace(nn.Module):
    def forward(self, x):
        x += 1
        return x.sum()


@pytest.fixture
def echo(load):
    return load(Echo())[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [3, 5000])  # below and above the size from which memory is shared
def test_every_datatype_comes_back_as_it_was(echo, dtype, count):
    x = np.random.default_rng(0).integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    if dtype == "bool":
        x = np.arange(count) % 3 == 0
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(echo(x), x, strict=True)
        assert echo(torch.from_numpy(x)).tobytes() == x.tobytes()


@pytest.mark.parametrize("count", [3, 5000])
def test_bfloat16_goes_in_from_torch_and_comes_out_as_float32_or_as_torch(echo, count):
    x = torch.randn(count).to(torch.bfloat16)
    result = echo(x)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, x.float().numpy())
    assert torch.equal(echo.run({"x": x}, to="torch")["output_0"], x)


BASE = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
READ_ONLY = BASE.copy()
READ_ONLY.flags.writeable = False
UNALIGNED = np.frombuffer(b"\0" + BASE.tobytes(), np.uint8)[1:].view(np.float32).reshape(BASE.shape)
FIELD = np.zeros((7,), dtype=[("a", np.int8), ("b", np.float32)])
FIELD["b"] = np.arange(7)
ARRAYS = {
    "contiguous": BASE,
    "transposed": BASE.T,
    "strided": BASE[:, ::2, :, 1::3],
    "reversed": BASE[::-1, :, ::-2],
    "broadcast": np.broadcast_to(BASE[0], (6, 3, 4, 5)),
    "read-only": READ_ONLY,
    "unaligned": UNALIGNED,
    "big-endian": BASE.astype(">f4"),
    "big-endian reversed": BASE.astype(">f4")[::-1],
    "fortran": np.asfortranarray(BASE),
    "zero-size": BASE[:0],
    "zero-size strided": BASE[:, 1:1, ::2],
    "0-d": np.array(3.5, dtype=np.float32),
    "scalar": np.float32(3.5),
    "size-one dimensions": BASE[:1, :, None, :1],
    "one element": BASE[1:, 2:, 3:, 4:],
    "overlapping windows": np.lib.stride_tricks.sliding_window_view(BASE.ravel(), 7),
    "field of a record": FIELD["b"],
    "subclass": BASE[0, 0].view(np.matrix),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_layout_is_read_as_its_values_say(echo, name):
    array = ARRAYS[name]
    before = array.copy()
    result = echo(array)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.asarray(array))
    np.testing.assert_array_equal(array, before)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert result.flags.aligned


@pytest.mark.parametrize("name", ARRAYS)
def test_a_graph_that_writes_to_its_input_does_not_change_the_callers_array(load, name):
    model, _ = load(Inplace())
    array = ARRAYS[name]
    before = array.copy()
    result = model(array)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_allclose(result, (before + np.float32(1)).sum(dtype=np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(2, 3, 4),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[::2, :, 1:],
        torch.arange(3.0).expand(5, 3),
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.arange(24.0)[5:],
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    ],
    ids=["contiguous", "permuted", "expanded", "0-d", "empty", "offset", "channels last"],
)
def test_torch_tensors_are_read_where_they_lie(echo, tensor):
    before = tensor.clone()
    np.testing.assert_array_equal(echo(tensor), before.numpy())
    assert torch.equal(tensor, before)


def test_a_tensor_that_must_not_be_handed_out_is_refused_with_torchs_own_words(echo):
    with pytest.raises(rust_host.InvalidInputError, match=r"input `x` is not handed out.*tensor\.detach\(\)"):
        echo(torch.ones(3, requires_grad=True))
    negative = torch.view_as_complex(torch.ones(3, 2)).conj().imag
    with pytest.raises(rust_host.InvalidInputError, match="resolve_neg"):
        echo(negative)
    with pytest.raises(rust_host.InvalidInputError, match="complex64"):
        echo(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(rust_host.InvalidInputError, match=r"input `x` is not handed out.*meta"):
        echo(torch.ones(3, device="meta"))


class Foreign:
    """An array of some other library: only the protocol, in its oldest or newest form."""

    def __init__(self, array, versioned):
        self.array, self.versioned = array, versioned

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Old(Foreign):
    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()


class New(Foreign):
    def __dlpack__(self, *, max_version=None):
        return self.array.__dlpack__(max_version=max_version)


@pytest.mark.parametrize("kind", [Old, New])
def test_anything_with_dlpack_goes_in_and_is_released(echo, kind):
    array = BASE.copy()[:, ::-1, ::2]
    references = sys.getrefcount(array)
    np.testing.assert_array_equal(echo(kind(array, True)), array)
    assert sys.getrefcount(array) == references


def test_memory_of_another_device_is_refused_with_the_way_out(echo):
    class OnGpu(Foreign):
        def __dlpack__(self, **options):
            raise AssertionError("must not be asked")

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(rust_host.InvalidInputError, match=r"another device.*`\.cpu\(\)`"):
        echo(OnGpu(BASE, True))


def test_an_exception_in_dlpack_reaches_the_caller_as_a_sentence(echo):
    class Broken(Foreign):
        def __dlpack__(self, **options):
            raise ValueError("no more arrays today")

    with pytest.raises(rust_host.InvalidInputError, match="input `x` is not handed out by its library: no more arrays"):
        echo(Broken(BASE, False))

    class NoCapsule(Foreign):
        def __dlpack__(self, **options):
            return 3

    with pytest.raises(rust_host.InvalidInputError, match="input `x`"):
        echo(NoCapsule(BASE, False))

    class Interrupted(Foreign):
        def __dlpack__(self, **options):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        echo(Interrupted(BASE, False))


def test_a_capsule_that_was_used_before_is_refused(echo):
    class Twice(Foreign):
        capsule = BASE.copy().__dlpack__()

        def __dlpack__(self, **options):
            return self.capsule

    np.testing.assert_array_equal(echo(Twice(BASE, False)), BASE)
    with pytest.raises(rust_host.InvalidInputError, match="input `x`"):
        echo(Twice(BASE, False))


@pytest.mark.parametrize("dtype", ["complex64", "object", "datetime64[s]", "U3", "S3", "longdouble", "V4"])
def test_elements_that_no_datatype_stands_for_are_refused_by_name(echo, dtype):
    with pytest.raises(rust_host.InvalidInputError, match=r"input `x` has the dtype .*expected one of bool, int8"):
        echo(np.zeros(2, dtype=dtype))


def test_an_array_is_not_copied_on_its_way_in(load):
    class Address(nn.Module):
        def forward(self, x):
            return x[0, 0] + 0

    model, _ = load(Address())
    big = np.zeros((1 << 15, 1 << 10), np.float32)  # 128 MB: a copy would take milliseconds
    import time

    model(big)
    start = time.perf_counter()
    for _ in range(20):
        model(big)
        model(big[:, ::2])
        model(big.T)
    assert (time.perf_counter() - start) / 60 < 0.002


def test_an_array_is_let_go_after_the_call(echo):
    array = np.zeros((100, 100), np.float32)
    references = sys.getrefcount(array)
    result = echo(array)
    assert sys.getrefcount(array) == references
    gone = weakref.ref(array)
    del array
    gc.collect()
    assert gone() is None
    assert not result.any()
