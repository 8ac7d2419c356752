"""`--cpu`: code for every processor of a level, made on one that has more."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor import cpu_vec_isa

from py_authoring.errors import UnavailableError
from py_authoring.export import compiled, kernels
from py_authoring.export.processors import find_processor, find_processors, generating_for
from py_authoring.tools import find_compiler
from tests.authoring.export.test_kernels import exported, in_package

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(CAPABILITY not in kernels.LANES, reason=f"no levels on a processor with {CAPABILITY}"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, while it records and compiles
]


def test_code_for_avx2_has_no_wider_instructions_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(6)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Softmax(dim=1)).eval(), torch.randn(40, 64)
    program = exported(Named(model), x)
    files = compiled.compile_program(program, {"x": x}, find_compiler(), find_processor("x86-64-v3"))
    metadata = next(json.loads(data) for name, data in files.items() if name.endswith("_metadata.json"))
    assert metadata["AOTI_CPU_ISA"] == "AVX2"
    if objdump := shutil.which("objdump"):  # it comes with g++
        library = tmp_path / "model.so"
        library.write_bytes(next(data for name, data in files.items() if name.endswith(".so")))
        code = subprocess.run([objdump, "-d", str(library)], capture_output=True, text=True, check=True).stdout
        assert "%ymm" in code
        assert [line for line in code.splitlines() if "%zmm" in line or "%k1" in line] == []
    package = compiled.Package(in_package(files))
    for batch in (1, 3, 40):
        x = torch.randn(batch, 64)
        with torch.no_grad():
            torch.testing.assert_close(package.run(["x"], {"x": x})[0], model(x))


class Named(nn.Module):
    """A model whose input has the name that recordings give it here."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.skipif(CAPABILITY != "AVX512", reason="no AVX-512 here")
def test_a_level_has_none_of_what_this_processor_has_beyond_it() -> None:
    usual = cpu_vec_isa.valid_vec_isa_list
    for cpu, isa in (("x86-64-v3", "avx2"), ("x86-64-v4", "avx512")):
        with generating_for(find_processor(cpu)):
            assert str(cpu_vec_isa.pick_vec_isa()) == isa
        assert cpu_vec_isa.valid_vec_isa_list is usual
    with generating_for(find_processor("native")):
        assert cpu_vec_isa.valid_vec_isa_list is usual


@pytest.mark.parametrize(("here", "cpu"), [("AVX2", "x86-64-v4"), ("DEFAULT", "x86-64-v3")])
def test_a_level_that_this_processor_does_not_reach_is_refused(
    monkeypatch: pytest.MonkeyPatch, here: str, cpu: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: here)
    with pytest.raises(
        UnavailableError, match=rf"`--cpu {cpu}` is code with AVX\S+, which this processor does not have"
    ):
        find_processor(cpu)
    with pytest.raises(UnavailableError, match=r"`--cpu x86-64-v3\+v4` is code with AVX\S+, which this processor"):
        find_processors("x86-64-v3+v4")
