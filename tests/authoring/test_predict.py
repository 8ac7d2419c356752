"""`predict` answers in Python what `rust-host run` answers, in the same form."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from py_authoring.cli import main
from py_authoring.export import export
from py_authoring.prediction_text import shortest
from py_authoring.training import train

Run = Callable[..., subprocess.CompletedProcess[str]]
MakeModel = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
EYE = """
import torch
from torch import Tensor, nn

class Eye(nn.Module):
    def forward(self, image: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        means = image.mean(dim=(2, 3)) * gain[:, None]
        return means, image * 255, (means > 0.25).to(torch.int64)

def example_inputs(batch_size):
    return {"image": torch.rand(batch_size, 3, 6, 8), "gain": torch.ones(batch_size)}
"""
RECIPE = """
[model]
class = "Eye"
[data]
kind = "none"
[export]
labels = ["red", "green", "blue"]
output_names = ["scores", "seen", "bright"]
image = { input = "image", color = "RGB", size = { height = 6, width = 8 } }
"""


@pytest.fixture
def eye(make_model: MakeModel) -> Path:
    """A model that shows what it sees."""
    export(make_model("eye", RECIPE, EYE))
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (13, 30, 3), dtype=np.uint8)).save("one.png")
    np.save("three.npy", random.random((3, 3, 6, 8), dtype=np.float32))
    np.save("wide.npy", random.random((2, 3, 6, 8)))
    np.savez("both.npz", image=random.random((2, 3, 6, 8), dtype=np.float32), gain=np.array([1.5, -1e-9], np.float32))
    return Path("models/eye")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs py-authoring in this process, which has torch already."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        code = ended.value.code
        return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, out, err)

    return run


def host(*arguments: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("rust_host")
    command = [sys.executable, "-m", "rust_host", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_prediction_is_printed_as_the_host_prints_it(eye: Path, call: Run) -> None:
    for words in (
        ["image=one.png", "gain=[0.3333333]"],
        ["image=three.npy", "gain=[1, 1e-7, -3000000]"],
        ["image=wide.npy", "gain=[1, 2]"],
        ["both.npz"],
    ):
        ours = call("predict", str(eye), *words)
        theirs = host(str(eye), *(part for word in words for part in ("--input", word)))
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout), ours.stderr + theirs.stderr
        if "wide.npy" in words[0]:
            assert "note: input `image` was float64, converted to float32 as the contract asks" in ours.stderr


def test_what_does_not_fit_is_said_in_the_words_of_the_host(eye: Path, call: Run) -> None:
    for words in (
        ["one.png", "[1]"],
        ["image=one.png", "gian=[1]"],
        ["image=one.png"],
        ["image=three.npy", "gain=[1, 2]"],
        ["image=three.npy", "gain=nowhere.npy"],
        ["image=one.png", "image=one.png"],
    ):
        ours = call("predict", str(eye), *words)
        theirs = host(str(eye), *(part for word in words for part in ("--input", word)))
        assert ours.returncode == theirs.returncode == 2
        assert ours.stderr.splitlines()[0] == theirs.stderr.splitlines()[0]


def test_document_is_that_of_the_host(eye: Path, call: Run) -> None:
    ours = json.loads(call("predict", str(eye), "both.npz", "--json", "--top-k", "2").stdout)
    theirs = json.loads(host(str(eye), "--input", "both.npz", "--json", "--top-k", "2").stdout)
    assert ours == theirs and len(ours["predictions"][0]["rows"][0]) == 2


def test_rows_of_a_csv_are_those_of_the_host(call: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "models" / "diabetes", "models/diabetes"))
    train(folder, epochs=2, say=lambda text: None)
    export(folder)
    lines = (folder / "patients.csv").read_text().splitlines()
    # an id that passes through, and the columns in another order
    table = [
        ",".join([*reversed(line.split(",")), f"p{number}" if number else "who"]) for number, line in enumerate(lines)
    ]
    Path("rows.csv").write_text("\n".join(table[:60]) + "\n")
    ours = call("predict", "diabetes", "rows.csv", "--output", "ours.csv")
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == "ours.csv\n" and "note: 59 rows" in ours.stderr
    assert host(str(folder), "--input", "rows.csv", "--output", "theirs.csv").returncode == 0
    with Path("ours.csv").open() as mine, Path("theirs.csv").open() as its:
        one, other = list(csv.reader(mine)), list(csv.reader(its))
    assert one[0] == other[0] == ["progression", "who", "predicted"] and len(one) == len(other) == 60
    assert [row[:2] for row in one] == [row[:2] for row in other]
    for mine_, its_ in zip(one[1:], other[1:], strict=True):
        assert float(mine_[2]) == pytest.approx(float(its_[2]), rel=1e-6)
    assert call("predict", "diabetes", "rows.csv").stdout == Path("ours.csv").read_text()
    Path("rows.csv").write_text("\n".join(table[:3]).replace("21.6", "thin") + "\n")
    wrong, said = (
        call("predict", "diabetes", "rows.csv"),
        host(str(folder), "--input", "rows.csv", "--output", "x.csv"),
    )
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[0] == said.stderr.splitlines()[0]
    assert wrong.stderr == "error: `rows.csv`: row 2: column `bmi`: `thin` is no number\n"
    Path("rows.csv").write_text("\n".join(table[:1]) + "\n")
    assert call("predict", "diabetes", "rows.csv").stdout == "progression,who,predicted\n"
    Path("rows.csv").write_text("age,bmi\n1,2\n")
    lacking, said = (
        call("predict", "diabetes", "rows.csv"),
        host(str(folder), "--input", "rows.csv", "--output", "x.csv"),
    )
    assert lacking.returncode == 2 and lacking.stderr == said.stderr


def test_columns_of_numbers_are_found_by_the_names_they_were_trained_under(make_model: MakeModel, call: Run) -> None:
    recipe = '[model]\nclass = "Net"\n[data]\nkind = "csv"\npath = "a.csv"\ntarget = "y"\ntask = "regression"\n'
    code = (
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def forward(self, features): return features[:, :1] * 10 + features[:, 1:]\n"
    )
    folder = make_model("sizes", recipe + '[loss]\nname = "mse"\n[export]\noutput_names = ["seen"]\n', code)
    (folder / "a.csv").write_text("wide,high,y\n" + "".join(f"{i},{i % 7},{i}\n" for i in range(20)))
    assert export(folder, untrained=True).contract.inputs[0].description == "columns `wide`, `high`"
    Path("rows.csv").write_text("high,y,wide\n1,5,2\n")
    found = call("predict", "sizes", "rows.csv")
    assert found.returncode == 0 and found.stdout == "y,seen\n5,21.0\n", found.stderr
    Path("rows.csv").write_text("high,width\n1,2\n")
    other = call("predict", "sizes", "rows.csv")
    assert other.returncode == 2 and "no column `wide`, on which input `features` was trained" in other.stderr


def test_folder_of_pictures_gives_a_row_each(make_model: MakeModel, call: Run) -> None:
    code = (
        EYE.replace(", gain: Tensor", "")
        .replace(" * gain[:, None]", "")
        .replace(', "gain": torch.ones(batch_size)', "")
    )
    folder = make_model("eye", RECIPE.replace('labels = ["red"', 'labels = ["a red, dark"'), code)
    export(folder)
    random = np.random.default_rng(0)
    Path("pictures/deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/c.png"):
        Image.fromarray(random.integers(0, 256, (9, 30, 3), dtype=np.uint8)).save(Path("pictures") / name)
    ours = call("predict", str(folder), "pictures", "--top-k", "2")
    assert ours.returncode == 0, ours.stderr
    assert host(str(folder), "--input", "pictures", "--output", "theirs.csv", "--top-k", "2").returncode == 0
    with Path("theirs.csv").open() as its:
        one, other = list(csv.reader(ours.stdout.splitlines())), list(csv.reader(its))
    assert one[0] == other[0] and one[0][:5] == ["path", "label_1", "score_1", "label_2", "score_2"]
    for mine, its_ in zip(one[1:], other[1:], strict=True):
        assert [mine[0], mine[1], mine[3]] == [its_[0], its_[1], its_[3]]
        values = [float(value) for value in [mine[2], *mine[4:]]]
        assert values == pytest.approx([float(value) for value in [its_[2], *its_[4:]]], rel=1e-5)
    (Path("pictures") / "folder.png").mkdir()
    (Path("pictures") / "a.png").rename(os.fsdecode(b"pictures/caf\xe9.png"))
    odd = call("predict", str(folder), "pictures")
    assert odd.returncode == 0 and [row[0] for row in csv.reader(odd.stdout.splitlines())][2:] == [
        "pictures/caf\ufffd.png",
        "pictures/deep/c.png",
    ]
    (Path("pictures") / "a.png").symlink_to("nowhere")
    broken = call("predict", str(folder), "pictures")
    assert broken.returncode == 2 and "`pictures/a.png` cannot be read: no such file" in broken.stderr
    (Path("pictures") / "a.png").unlink()
    (Path("pictures") / "a.png").write_bytes(b"\x89PNG")
    broken = call("predict", str(folder), "pictures")
    assert broken.returncode == 2 and "`pictures/a.png`: the picture cannot be decoded" in broken.stderr


def test_what_cannot_be_run_is_said(make_model: MakeModel, call: Run) -> None:
    folder = make_model("eye", RECIPE, EYE)
    result = call("predict", "eye", "x.npy")
    assert result.returncode == 2 and result.stderr.startswith("error: model `eye` has no exported version in `models/")
    assert "hint: `py-authoring export eye`" in result.stderr
    export(folder)
    np.save("whole.npy", np.ones(3, np.float32))
    broken = Path("whole.npy").read_bytes().replace(b"'shape': (3,)", b"'shape': (3,(")
    Path("broken.npy").write_bytes(broken)
    with zipfile.ZipFile("broken.npz", "w") as archive:
        archive.writestr("gain.npy", broken)
    Path("quote.csv").write_text('gain,name\n1,a\n2,"b\n3,c\n')
    for words, said in {
        ("nothing.png",): "error: input: `nothing.png`: no such file or folder",
        ("{bad",): "error: input is no JSON and no .npy, .npz, PNG or JPEG file: Expecting property name",
        ("[1, 2]",): "error: input has no name, the model takes `image`, `gain`",
        ('{"image": [[[[1]]]], "gain": [true]}',): "error: input `gain` has true, expected FP32",
        ("image=[[[[1]]]]", "gain=[1]"): "error: input `image` has shape [1, 1, 1, 1], model `eye` expects [batch, 3,",
        ("image=[1]", "-o", "x.csv"): "error: `--output` is for a table",
        ("gain=rows.csv",): "error: a table fills inputs by the names of its columns",
        ("rows.csv",): "error: `rows.csv`: no such file or folder",
        ("[" * 100_000,): "error: input is no JSON and no .npy, .npz, PNG or JPEG file: maximum recursion depth",
        ("gain=" + "[" * 900 + "]" * 900,): "error: input `gain` is no array of FP32",
        ("gain=[" + "1" * 5000 + "]",): "error: input `gain` is no JSON and no .npy, .npz, PNG or JPEG file: Exceeds",
        ("gain=[" + "1," * 400 + "1]",): "error: missing input `image`, the model takes",
        ("gain=broken.npz",): "error: `broken.npz` cannot be read: ",
        ("gain=broken.npy",): "error: `broken.npy` is no array that can be read: ",
        ("quote.csv",): "error: `quote.csv`: row 2 cannot be read: a quote is opened and never closed",
        ("rows.csv", "-o", "x.jsonl"): "error: `x.jsonl` is no .csv and no .tsv",
    }.items():
        result = call("predict", "eye", *words)
        assert result.returncode == 2 and result.stderr.startswith(said), (words, result.stderr)
        assert "Traceback" not in result.stderr


def test_digits_read_back_as_the_same_number_of_32_bits() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    for value in values[np.isfinite(values)]:
        text = shortest(value)
        assert np.float32(text) == value and len(text.replace("-", "").replace(".", "")) < 20
    assert [shortest(np.float32(value)) for value in (math.nan, -math.inf, 0, -0.0, 1e12, 1.5e-6, 1.5e-7)] == [
        "NaN", "-inf", "0.0", "-0.0", "1000000000000.0", "0.0000015", "1.5e-7",
    ]  # fmt: skip
