"""A compiled package brings all that it calls but the C library, and what only a host can answer."""

import ctypes

import pytest
import torch
from torch import Tensor, nn

from py_authoring.export import compiled, elf, kernels, linking
from py_authoring.tools import find_compiler
from tests.authoring.export.test_kernels import exported, in_package

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no kernel for a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]


class Functions(nn.Module):
    """What needs vector functions, large enough for threads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(96, 96)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(self.layer(x)) + torch.tanh(x) * torch.sin(x) + torch.log1p(x * x)
        y = y + torch.atan2(x, y) + torch.exp2(x) + torch.hypot(x, y) + torch.fmod(x, 0.7) + torch.pow(x * x + 1, y)
        y = y + torch.cosh(x.double()).log().float()
        return torch.log_softmax(y, dim=1)


@pytest.fixture(scope="module")
def package() -> tuple[nn.Module, dict[str, bytes], bytes]:
    """The only compile of this file."""
    torch.manual_seed(5)
    model, x = Functions().eval(), torch.randn(300, 96)
    files = compiled.compile_program(exported(model, x), {"x": x}, find_compiler())
    return model, files, next(data for name, data in files.items() if name.endswith(".so"))


def test_it_needs_the_c_library_alone(package) -> None:
    library = package[2]
    assert set(elf.needed_libraries(library)) <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
    undefined = elf.undefined_symbols(library)
    assert [name for name in undefined if name.startswith(("Sleef_", "_Z", "__gxx", "_Unwind", "__cxa_throw"))] == []
    assert "GOMP_parallel" in undefined
    assert elf.host_operators(undefined) == []
    assert "libgomp.so.1" not in elf.needed_versions(library)


def test_it_opens_on_the_oldest_systems_that_are_supported(package) -> None:
    versions = elf.needed_versions(package[2])
    assert (2, 2) < elf.needed_glibc(package[2]) <= linking.OLDEST_GLIBC, versions


def test_it_computes_what_eager_does(package) -> None:
    model, files, _ = package
    opened = compiled.Package(in_package(files))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for batch in (1, 7, 300):
                x = torch.randn(batch, 96)
                with torch.no_grad():
                    torch.testing.assert_close(opened.run(["x"], {"x": x})[0], model(x), rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_an_exception_inside_becomes_an_error_code(package, tmp_path) -> None:
    compiled.Package(in_package(package[1]))  # libtorch is there for all
    path = tmp_path / "model.so"
    path.write_bytes(package[2])
    library, container, name = ctypes.CDLL(str(path)), ctypes.c_void_p(), ctypes.c_char_p()
    assert (
        library.AOTInductorModelContainerCreateWithDevice(ctypes.byref(container), ctypes.c_size_t(1), b"cpu", None)
        == 0
    )
    get = library.AOTInductorModelContainerGetInputName
    assert get(container, ctypes.c_size_t(0), ctypes.byref(name)) == 0
    for index in (1, 99):  # std::out_of_range
        assert get(container, ctypes.c_size_t(index), ctypes.byref(name)) == 1
    assert library.AOTInductorModelContainerDelete(container) == 0


def test_what_a_library_asks_for_is_read_from_the_file_itself(package) -> None:
    assert "libm.so.6" in elf.needed_libraries(package[2])
    assert elf.needed_versions(package[2])["libc.so.6"]
    for read in (elf.needed_libraries, elf.needed_versions, elf.undefined_symbols):
        with pytest.raises(elf.UnreadableLibraryError, match=r"^it is no 64-bit"):
            read(b"MZ", "it")
        for cut in (64, 1000, len(package[2]) - 1):
            with pytest.raises(elf.UnreadableLibraryError, match=r"^it cannot be read"):
                read(package[2][:cut], "it")
