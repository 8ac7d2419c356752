"""The vector functions that go into compiled packages: all that torch's headers call, as exact as libsleef's."""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from py_authoring.export import kernels, linking
from py_authoring.tools import find_compiler

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no vectors on a processor with {CAPABILITY}")
WIDTHS = [lanes for name, lanes in kernels.LANES.items() if name <= CAPABILITY]
HEADERS = Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vec"
OF_TWO = {"atan2", "copysign", "fmod", "hypot", "nextafter", "pow"}
#: Units in the last place of a float; what is exact is within 0.5.
BOUND = 1.0
BOUND_OF_ERF = 1.15


class Functions:
    """The functions for vectors of so many floats, by the names in torch's headers: `exp_u10`."""

    def __init__(self, lanes: int, folder: Path) -> None:
        self.floats, self.doubles = f"f{lanes}", f"d{lanes // 2}"
        text = "".join(file.read_text() for file in HEADERS.rglob("*.h"))
        pattern = rf"\bSleef_([a-z0-9]+?)({self.floats}|{self.doubles})(_u\d+)?\b"
        self.names = sorted({(name, kind, ending) for name, kind, ending in re.findall(pattern, text)})
        lines = ['#include "vector_math.cpp"']
        for name, kind, ending in self.names:
            vector, function = "F" if kind == self.floats else "D", f"{name}{kind}{ending}"
            arguments, result = "x[i], y[i]" if name in OF_TWO else "x[i]", ".y" if name == "sincos" else ""
            lines.append(
                f'extern "C" void run_{function}(const {vector} *x, const {vector} *y, {vector} *out, long n)'
                f" {{ for (long i = 0; i < n; ++i) out[i] = Sleef_{function}({arguments}){result}; }}"
            )
        source, library = folder / "run.cpp", folder / "run.so"
        source.write_text("\n".join(lines))
        machine = {8: "x86-64-v3", 16: "x86-64-v4"}[lanes]
        options = ["-shared", "-fPIC", "-O1", "-std=c++17", "-Wno-psabi", f"-march={machine}", f"-I{kernels.NATIVE}"]
        options += linking.SOURCES["vector_math.cpp"]
        subprocess.run([find_compiler(), *options, str(source), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))

    def __call__(self, name: str, kind: str, ending: str, x: Tensor, y: Tensor) -> Tensor:
        inputs = [aligned(each) for each in (x, y)]
        out = aligned(torch.zeros_like(x))
        vectors = x.numel() * x.element_size() // (64 if self.floats == "f16" else 32)
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (*inputs, out)]
        getattr(self.library, f"run_{name}{kind}{ending}")(*pointers, ctypes.c_long(vectors))
        return out


def aligned(x: Tensor) -> Tensor:
    room = torch.empty(x.numel() + 64 // x.element_size(), dtype=x.dtype)
    start = -room.data_ptr() % 64 // x.element_size()
    room[start : start + x.numel()] = x
    return room[start : start + x.numel()]


@pytest.fixture(scope="module", params=WIDTHS)
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Functions:
    return Functions(request.param, tmp_path_factory.mktemp("functions"))


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-45,
    -1e-45,
    1.1754944e-38,
    3.4028235e38,
]
SPECIAL += [
    -3.4028235e38,
    88.722839,
    88.72284,
    -87.33655,
    -103.97,
    -104.0,
    0.625,
    0.9,
    4.0,
    -4.0,
    2.0**28,
    2.0**29,
    1e10,
]


def values(count: int = 1 << 18) -> Tensor:
    """Floats of every size: any bits at all, and as many around 1, where functions have their form."""
    r = np.random.default_rng(1)
    bits = torch.from_numpy(r.integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32).copy())
    usual = [torch.from_numpy(r.normal(0, scale, count // 4).astype(np.float32)) for scale in (0.1, 1, 5, 40)]
    near_one = 1 + torch.from_numpy(r.normal(0, 0.01, count // 4).astype(np.float32))
    return torch.cat([torch.tensor(SPECIAL).repeat(64), *usual, near_one, bits])


def reference(name: str, x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    if name == "sincos":
        return torch.cos(x)
    function = getattr(torch, name)
    result: Tensor = function(x, y) if name in OF_TWO else function(x)
    return result


def units(found: Tensor, expected: Tensor) -> Tensor:
    """How far a float is from a double, in units of the last place of the float beside it."""
    rounded = expected.float()
    exponent = torch.frexp(rounded.abs().clamp(min=2.0**-126))[1].clamp(min=-125)
    off = (found.double() - expected).abs() / torch.ldexp(torch.ones_like(expected), exponent - 24)
    return torch.where((found == rounded) | (found.isnan() & expected.isnan()), 0.0, off)


def test_every_function_that_torch_calls_is_there_and_exact_for_floats(functions: Functions) -> None:
    x = values()
    assert len(functions.names) >= 60
    worst = {}
    for name, kind, ending in functions.names:
        if kind != functions.floats:
            continue
        y = x.roll(1237) if name in OF_TWO else x
        found = functions(name, kind, ending, x, y)
        if name == "nextafter":
            assert torch.equal(found.nan_to_num(7), torch.nextafter(x, y).nan_to_num(7))
            continue
        off = units(found, reference(name, x, y))
        at = int(off.nan_to_num(torch.inf).argmax())
        worst[name] = (float(off[at]), float(x[at]), float(y[at]), float(found[at]))
    assert {name: off for name, off in worst.items() if not off[0] <= (BOUND_OF_ERF if name == "erf" else BOUND)} == {}


def test_every_function_that_torch_calls_is_there_and_exact_for_doubles(functions: Functions) -> None:
    x = values(1 << 14).double() * (1 + 1e-9)
    for name, kind, ending in functions.names:
        if kind == functions.doubles:
            y = x.roll(1237) if name in OF_TWO else x
            found = functions(name, kind, ending, x, y)
            torch.testing.assert_close(found, reference(name, x, y), rtol=4e-15, atol=1e-300, equal_nan=True)


@pytest.mark.parametrize(
    "name", ["tanh", "erf", "sin", "tan", "sinh", "asinh", "atanh", "expm1", "log1p", "asin", "atan"]
)
def test_zero_keeps_its_sign(functions: Functions, name: str) -> None:
    zeros = torch.tensor([0.0, -0.0] * 16)
    found = functions(name, functions.floats, "_u10", zeros, zeros)
    assert torch.equal(torch.signbit(found), torch.signbit(zeros))
