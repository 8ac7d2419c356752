"""Weights of a compiled package are used where they lie in its library."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from py_authoring.export import compiled
from py_authoring.export.in_place import header_in_place
from py_authoring.tools import find_compiler
from tests.authoring.export.test_kernels import exported, in_package
from tests.authoring.export.test_processors import Named

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it records and compiles

OPENED = """
import ctypes, sys
from pathlib import Path
import torch
def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
library, container = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p()
before = resident()
assert library.AOTInductorModelContainerCreateWithDevice(ctypes.byref(container), ctypes.c_size_t(1), b"cpu", None) == 0
print(resident() - before)
"""


def test_the_header_is_the_one_that_is_known(tmp_path: Path) -> None:
    folder = header_in_place(tmp_path)
    assert folder is not None  # otherwise: read torch's new one, and what is changed in it
    (header,) = (path for path in folder.rglob("*") if path.is_file())
    assert header.relative_to(folder) == Path("torch/csrc/inductor/aoti_runtime/model_base.h")


def test_opening_takes_no_memory_for_the_weights(tmp_path: Path) -> None:
    model, x = Named(nn.Linear(1024, 2048)).eval(), torch.randn(3, 1024)
    files = compiled.compile_program(exported(model, x), {"x": x}, find_compiler())
    with torch.no_grad():
        torch.testing.assert_close(compiled.Package(in_package(files)).run(["x"], {"x": x})[0], model(x))
    library = tmp_path / "model.so"
    library.write_bytes(next(data for name, data in files.items() if name.endswith(".so")))
    ran = subprocess.run([sys.executable, "-c", OPENED, library], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 1 << 20  # of 8 MB
