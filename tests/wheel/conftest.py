from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rust_host

Load = Callable[..., tuple[rust_host.Model, torch.jit.ScriptModule]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Scripts a module, saves it, and opens the file with rust_host: (ours, torch's)."""

    def scripted(module: torch.nn.Module, **options: Any) -> tuple[rust_host.Model, torch.jit.ScriptModule]:
        torch.manual_seed(0)
        script = torch.jit.script(module.eval())
        path = tmp_path / f"{type(module).__name__}.pt"
        path.write_bytes(script.save_to_buffer())
        return rust_host.Model(path, "cpu", **options), script

    return scripted
