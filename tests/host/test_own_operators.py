"""What compiled packages call in a host without libtorch, beside libtorch's functions: thousands of random tensors."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, byref, c_bool, c_int32, c_int64, c_void_p
from pathlib import Path

import numpy as np
import pytest
import torch
from rust_host._native import functions_of_packages

#: Name in the interface → torch's dtype, and what `item_<name>` gives, where there is such a function.
TYPES = {
    "bool": (torch.bool, ctypes.c_uint8),
    "uint8": (torch.uint8, ctypes.c_uint8),
    "int8": (torch.int8, ctypes.c_int8),
    "int16": (torch.int16, ctypes.c_int16),
    "int32": (torch.int32, ctypes.c_int32),
    "int64": (torch.int64, ctypes.c_int64),
    "float32": (torch.float32, ctypes.c_float),
    "float64": (torch.float64, ctypes.c_double),
    "float16": (torch.float16, None),
    "bfloat16": (torch.bfloat16, None),
    "uint16": (torch.uint16, None),
    "uint32": (torch.uint32, None),
    "uint64": (torch.uint64, None),
}


class Host:
    """One side: its functions by torch's names without the prefix."""

    def __init__(self, find: Callable[[str], Callable[..., int]]):
        self.find = functools.cache(find)

    def call(self, name: str, *arguments: object) -> int:
        return int(self.find(f"aoti_torch_{name}")(*arguments))

    def made(self, name: str, *arguments: object) -> Tensor:
        handle = c_void_p()
        assert self.call(name, *arguments, byref(handle)) == 0, name
        return Tensor(self, handle)

    def from_blob(self, memory: np.ndarray, sizes: list[int], strides: list[int], offset: int, dtype: str) -> Tensor:
        handle = c_void_p()
        code = self.call(f"dtype_{dtype}")
        head = (c_void_p(memory.ctypes.data), c_int64(len(sizes)), numbers(sizes), numbers(strides), c_int64(offset))
        tail = (self.call("layout_strided"), None, c_int64(0))
        assert self.call("create_tensor_from_blob_v2", *head, code, 0, 0, byref(handle), *tail) == 0
        return Tensor(self, handle)


def numbers(values: list[int]) -> ctypes.Array[c_int64]:
    return (c_int64 * max(len(values), 1))(*values)


class Tensor:
    """A handle of one side."""

    def __init__(self, host: Host, handle: c_void_p):
        self.host, self.handle = host, handle

    def __del__(self) -> None:
        assert self.host.call("delete_tensor_object", self.handle) == 0

    def ask(self, name: str, kind: type = c_int64, *arguments: object) -> object:
        place = kind()
        assert self.host.call(name, self.handle, *arguments, byref(place)) == 0, name
        return place.value

    def axis(self, name: str, count: int) -> list[int]:
        place = POINTER(c_int64)()
        assert self.host.call(name, self.handle, byref(place)) == 0
        return place[:count]

    @property
    def sizes(self) -> list[int]:
        return self.axis("get_sizes", int(str(self.ask("get_dim"))))

    @property
    def strides(self) -> list[int]:
        return self.axis("get_strides", int(str(self.ask("get_dim"))))

    def about(self) -> dict[str, object]:
        """All that is asked about a tensor, without its address."""
        names = ("get_dim", "get_numel", "get_storage_size", "get_storage_numel", "get_storage_offset")
        found: dict[str, object] = {name: self.ask(name) for name in names}
        found |= {name: self.ask(name, c_int32) for name in ("get_dtype", "get_device_type", "get_layout")}
        found |= {name: self.ask(name, c_bool) for name in ("is_contiguous", "is_defined")}
        axes = range(len(self.sizes))
        each = {name: [self.ask(name, c_int64, c_int64(n)) for n in axes] for name in ("get_size", "get_stride")}
        return found | each | {"sizes": self.sizes, "strides": self.strides}

    def bytes(self) -> bytes:
        """Of its elements, in row-major order."""
        item = self.host.call("dtype_element_size", self.ask("get_dtype", c_int32))
        if 0 in self.sizes:
            return b""
        reach = sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True)) + 1
        memory = (ctypes.c_uint8 * (reach * item)).from_address(int(str(self.ask("get_data_ptr", c_void_p))))
        flat = np.frombuffer(memory, np.dtype((np.void, item)))
        shown = np.lib.stride_tricks.as_strided(flat, self.sizes, [stride * item for stride in self.strides])
        return np.ascontiguousarray(shown).tobytes()


@pytest.fixture(scope="module")
def hosts() -> tuple[Host, Host]:
    ours = functions_of_packages()
    theirs = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
    return Host(lambda name: ctypes.CFUNCTYPE(ctypes.c_int)(ours[name])), Host(functools.partial(getattr, theirs))


def layout(random: np.random.Generator) -> tuple[list[int], list[int], int]:
    """Sizes, strides (dense in any order, with gaps, repeated) and an offset, in elements."""
    axes = int(random.integers(0, 8))
    sizes = [int(n) for n in random.integers(0 if random.random() < 0.1 else 1, 5, axes)]
    strides, step = [0] * axes, 1
    for axis in random.permutation(axes) if random.random() < 0.6 else range(axes - 1, -1, -1):
        step *= int(random.integers(1, 3)) if random.random() < 0.2 else 1
        strides[axis] = step
        step *= max(sizes[axis], 1)
    if random.random() < 0.2:
        strides = [0 if random.random() < 0.3 else stride for stride in strides]
    elif random.random() < 0.1:
        strides = [int(n) for n in random.integers(0, 7, axes)]
    return sizes, strides, int(random.integers(0, 4))


def memory_for(
    random: np.random.Generator, sizes: list[int], strides: list[int], offset: int, dtype: str
) -> np.ndarray:
    """Random values of which some are not finite, a few more than are needed."""
    elements = offset + sum(max(size - 1, 0) * stride for size, stride in zip(sizes, strides, strict=True)) + 8
    kind = TYPES[dtype][0]
    values = torch.from_numpy(random.standard_normal(elements) * 100)
    for special in (torch.nan, torch.inf, -torch.inf, -0.0):
        values[random.integers(0, elements)] = special if kind.is_floating_point else 0
    # abs: a negative number as one without a sign is whatever the processor says
    made = values.abs().to(kind) if dtype.startswith("uint") or kind is torch.bool else values.to(kind)
    return np.frombuffer(bytearray(made.view(torch.uint8).numpy().tobytes()), np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_tensors_are_those_of_libtorch(hosts: tuple[Host, Host], seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(500):
        dtype = str(random.choice(list(TYPES)))
        sizes, strides, offset = layout(random)
        memory = memory_for(random, sizes, strides, offset, dtype)
        ours, theirs = (host.from_blob(memory, sizes, strides, offset, dtype) for host in hosts)
        case = (dtype, sizes, strides, offset)
        assert ours.about() == theirs.about(), case
        assert ours.bytes() == theirs.bytes(), case
        # views
        again = [tensor.host.made("new_tensor_handle", tensor.handle) for tensor in (ours, theirs)]
        assert again[0].about() == again[1].about() and again[0].bytes() == again[1].bytes(), case
        if 0 not in sizes and sizes:
            axis = int(random.integers(len(sizes)))
            start = int(random.integers(sizes[axis]))
            part = [*sizes[:axis], sizes[axis] - start, *sizes[axis + 1 :]]
            words = (c_int64(len(part)), numbers(part), numbers(strides), c_int64(start * strides[axis]))
            views = [tensor.host.made("_reinterpret_tensor", tensor.handle, *words) for tensor in (ours, theirs)]
            assert views[0].about() == views[1].about() and views[0].bytes() == views[1].bytes(), case
            words = (numbers(part), numbers(strides))
            views = [tensor.host.made("as_strided", tensor.handle, *words) for tensor in (ours, theirs)]
            assert views[0].about() == views[1].about() and views[0].bytes() == views[1].bytes(), case
        # copies
        for name in ("clone", "clone_preserve_strides"):
            copies = [tensor.host.made(name, tensor.handle) for tensor in (ours, theirs)]
            assert copies[0].bytes() == copies[1].bytes() == ours.bytes(), (name, case)
            assert copies[0].strides == copies[1].strides, (name, case)
            assert copies[0].ask("get_data_ptr", c_void_p) != ours.ask("get_data_ptr", c_void_p) or 0 in sizes
        # values
        kind = TYPES[dtype][1]
        if kind is not None and sizes and 0 not in sizes:
            words = (c_int64(0), None, None, c_int64(int(random.integers(0, 2)) if len(memory) > 64 else 0))
            ones = [tensor.host.made("_reinterpret_tensor", tensor.handle, *words) for tensor in (ours, theirs)]
            items = [one.ask(f"item_{dtype}", kind) for one in ones]
            assert np.array_equal(*items, equal_nan=True), (items, case)
        # what is written
        zeroed = [memory.copy(), memory.copy()]
        for host, into in zip(hosts, zeroed, strict=True):
            assert host.call("zero_", host.from_blob(into, sizes, strides, offset, dtype).handle) == 0, case
        assert zeroed[0].tobytes() == zeroed[1].tobytes(), case


@pytest.mark.parametrize("seed", range(2))
def test_new_memory_is_as_large_as_libtorchs(hosts: tuple[Host, Host], seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(500):
        dtype = str(random.choice(list(TYPES)))
        sizes, strides, _offset = layout(random)
        words = (c_int64(len(sizes)), numbers(sizes), numbers(strides))
        made = [host.made("empty_strided", *words, host.call(f"dtype_{dtype}"), 0, 0) for host in hosts]
        assert made[0].about() == made[1].about(), (dtype, sizes, strides)
        assert int(str(made[0].ask("get_data_ptr", c_void_p) or 0)) % 64 == 0


def test_constants_are_libtorchs(hosts: tuple[Host, Host]) -> None:
    names = [f"dtype_{name}" for name in TYPES]
    names += ["device_type_cpu", "device_type_cuda", "layout_strided", "memory_format_channels_last"]
    names += ["memory_format_contiguous_format", "memory_format_preserve_format"]
    ours, theirs = ({name: host.call(name) for name in names} for host in hosts)
    assert ours == theirs
    sizes = [{name: host.call("dtype_element_size", host.call(f"dtype_{name}")) for name in TYPES} for host in hosts]
    assert sizes[0] == sizes[1]
