"""How many pictures a call of the model gets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

BINARY = Path(__file__).resolve().parents[2] / "target/release/rust-host"


class Count(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.full([image.size(0)], image.size(0), dtype=torch.int64)


@pytest.mark.parametrize(("options", "rows"), [([], [3, 3, 3, 3, 3, 3, 1]), (["--batch-size", "5"], [5] * 5 + [2] * 2)])
def test_large_pictures_are_run_few_at_a_time_unless_a_number_is_asked_for(
    tmp_path: Path, options: list[str], rows: list[int]
) -> None:
    contract = {
        "format_version": 1,
        "name": "count",
        "platform": "pytorch_torchscript",
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, 1, -1, -1], "dims": ["batch", 1, "height", "width"]}
        ],
        "outputs": [{"name": "rows", "datatype": "INT64", "shape": [-1], "dims": ["batch"], "rtol": 0, "atol": 0}],
        "returns": "rows",
        "dims": {"batch": {"min": 0}},
        "image": {"input": "image", "color": "L", "layout": "NCHW"},
        "golden": {"file": "golden.safetensors", "count": 0},
        "producer": {"name": "a test", "version": "1"},
    }
    model, folder = tmp_path / "count.pt", tmp_path / "pictures"
    torch.jit.script(Count()).save(str(model), _extra_files={"contract.json": json.dumps(contract)})
    folder.mkdir()
    for i in range(7):  # 4 MiB each as FP32
        Image.new("L", (1024, 1024)).save(folder / f"{i}.png")
    command = [BINARY, "run", model, "--input", folder, "--output", tmp_path / "out.csv", "--device", "cpu", *options]
    subprocess.run(command, check=True, capture_output=True)
    got = [int(line.rpartition(",")[2]) for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert got == rows
