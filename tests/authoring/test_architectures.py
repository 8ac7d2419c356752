"""The examples of other architectures, trained for a moment, exported, and run by the host; and what does not fit."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from py_authoring import checkpoint
from py_authoring.detection import MeanAveragePrecision, box_iou, decode_boxes, encode_boxes, nms, roi_align
from py_authoring.errors import AuthoringError, CheckpointError, ModelFileError, NotFoundError, RecipeError
from py_authoring.export import export
from py_authoring.export.script import script
from py_authoring.model_file import build_model
from py_authoring.recipe import load_recipe
from py_authoring.run_evaluation import evaluate_run
from py_authoring.training import train

ROOT = Path(__file__).resolve().parents[2]
SMALL_RESNET = ["model.arguments={ classes = 10, width = 8 }", "training.epochs=1", "data.size=16"]
SMALL_RESNET += ["export.image.size={ height = 16, width = 16 }"]


def copy(name: str) -> Path:
    """A model in a folder of its own, so that a test leaves no run in the repository."""
    return Path(
        shutil.copytree(ROOT / "models" / name, Path("models") / name, ignore=shutil.ignore_patterns("runs", "[0-9]*"))
    )


def train_quietly(folder: Path, *overrides: str, **options: Any) -> list[str]:
    said: list[str] = []
    train(folder, overrides=overrides, say=said.append, **options)
    return said


def host(*arguments: str) -> str:
    """What `rust-host` prints; it must end well."""
    pytest.importorskip("rust_host")
    command = [sys.executable, "-m", "rust_host", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def host_outputs(file: Path, *, method: str | None = None, **inputs: Tensor) -> dict[str, Tensor]:
    """The outputs of `rust-host run`, by name."""
    folder = Path("in-and-out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    words = ["--method", method] if method else []
    for name, value in inputs.items():
        np.save(folder / f"{name}.npy", value.numpy())
        words += ["--input", f"{name}={folder / name}.npy"]
    host("run", str(file), *words, "--output", str(folder / "out"))
    return {path.stem: torch.from_numpy(np.load(path)) for path in (folder / "out").glob("*.npy")}


def trained(folder: Path) -> Any:
    """The model of a folder with the weights of its best checkpoint."""
    file = checkpoint.find_checkpoint(folder)
    saved = checkpoint.load_checkpoint(file)
    resolved = checkpoint.recipe_of(saved, folder)
    from py_authoring.learnt import learnt_of

    model = build_model(resolved, learnt_of(saved))
    checkpoint.load_weights_into(model, saved, file)
    return model.eval()


def torchvision_names(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet-18 with 1000 classes; with width 64 they are those of its files."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", width)
    channels = width
    for layer in range(1, 5):
        wider = width * 2 ** (layer - 1)
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (wider, channels, 3, 3)
            norm(f"{name}.bn1", wider)
            shapes[f"{name}.conv2.weight"] = (wider, wider, 3, 3)
            norm(f"{name}.bn2", wider)
            if block == 0 and layer > 1:
                shapes[f"{name}.downsample.0.weight"] = (wider, channels, 1, 1)
                norm(f"{name}.downsample.1", wider)
            channels = wider
    return shapes | {"fc.weight": (1000, channels), "fc.bias": (1000,)}


def weight_file(path: Path, width: int = 8, leave_out: str = "") -> dict[str, Tensor]:
    """Writes such weights, drawn at random, and gives them."""
    draw = torch.Generator().manual_seed(3)
    state = {
        name: torch.tensor(7) if name.endswith("tracked") else 0.1 * torch.rand(shape, generator=draw) + 0.01
        for name, shape in torchvision_names(width).items()
        if not leave_out or leave_out not in name
    }
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return state


def test_resnet18_has_the_names_and_shapes_of_torchvision_s() -> None:
    model = build_model(load_recipe(ROOT / "models" / "resnet18"))
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = torchvision_names(64)
    assert len(theirs) == 122 and list(ours) == list(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} == {"fc.weight", "fc.bias"}
    assert sum(value.numel() for value in model.parameters()) == 11_689_512 - 512 * 990 - 990


def test_resnet18_is_fine_tuned_from_a_file_with_its_first_layers_frozen_and_a_head_of_its_own() -> None:
    folder = copy("resnet18")
    state = weight_file(Path("weights.pth"))
    freeze = 'model.freeze=["conv1", "bn1", "layer1"]'
    said = train_quietly(folder, *SMALL_RESNET, "model.weights=weights.pth", freeze)
    assert "weights: 120 tensors of weights.pth; new are fc.weight, fc.bias" in said
    model = trained(folder)
    for name, value in model.state_dict().items():
        if name.startswith(("conv1.", "bn1.", "layer1.")):
            assert torch.equal(value, state[name]), name  # the statistics of BatchNorm too
        elif name.endswith(("running_mean", "conv1.weight")):
            assert not torch.equal(value, state[name]), name
    Path("weights.pth").unlink()  # a resumed run has the weights in its checkpoint
    train_quietly(folder, resume=True, epochs=2)
    assert torch.equal(trained(folder).conv1.weight, state["conv1.weight"])
    evaluate_run(folder, say=lambda text: None)
    file = export(folder, overrides=SMALL_RESNET[-1:]).path
    assert "reproduces all of 4" in host("verify", str(file))
    image = torch.rand(3, 1, 16, 16)
    assert torch.allclose(host_outputs(file, image=image)["scores"], trained(folder)(image), rtol=1e-3, atol=1e-3)


def test_weights_are_the_start_of_a_training_whatever_the_form_of_the_file() -> None:
    folder = copy("resnet18")
    state = weight_file(Path("one.safetensors"), leave_out="num_batches_tracked")  # as files of before 2019
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "two.pt")
    for file in ("one.safetensors", "two.pt"):
        version = export(folder, untrained=True, overrides=[*SMALL_RESNET, f"model.weights={file}"])
        module = torch.jit.load(str(version.path))
        loaded = module.state_dict()
        assert torch.equal(loaded["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
        assert loaded["fc.weight"].shape == (10, 64)


def test_weights_of_another_architecture_are_refused_with_the_first_parameter_and_both_shapes() -> None:
    folder = copy("resnet18")

    def refused(file: str, *overrides: str) -> AuthoringError:
        with pytest.raises(AuthoringError) as caught:
            train_quietly(folder, *SMALL_RESNET, f"model.weights={file}", *overrides)
        assert not (folder / "runs").exists()
        return caught.value

    state = weight_file(Path("wide.pth"), width=16)
    error = refused("wide.pth")
    assert "`conv1.weight` has shape [16, 3, 7, 7] in `" in str(error) and "[8, 3, 7, 7] in model.py" in str(error)
    weight_file(Path("right.pth"))
    error = refused("right.pth", "model.fresh=[]")
    assert "`fc.weight` has shape [1000, 64] in `" in str(error)
    assert 'model.fresh=["fc"]' in (error.hint or "")
    weight_file(Path("less.pth"), leave_out="layer2.0.downsample.0")
    assert "less.pth` has no `layer2.0.downsample.0.weight`, which model.py has with shape [16, 8, 1, 1]" in str(
        refused("less.pth")
    )
    torch.save({**torch.load("right.pth"), "layer5.weight": torch.zeros(2, 3)}, "more.pth")
    assert "has `layer5.weight` of shape [2, 3], which model.py does not have" in str(refused("more.pth"))
    assert isinstance(refused("nowhere.pth"), NotFoundError)
    for key in ("fresh", "freeze"):
        error = refused("right.pth", f'model.{key}=["layre1"]')
        assert isinstance(error, RecipeError) and "did you mean layer1?" in str(error)
    assert "leaves no parameter to train" in str(refused("right.pth", 'model.freeze=["*"]'))
    assert state


def test_a_weight_file_that_cannot_be_read_is_one_sentence_and_runs_no_code() -> None:
    folder = copy("resnet18")

    class Code:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, ("it-ran",)

    weight_file(Path("whole.pth"))
    Path("cut.pth").write_bytes(Path("whole.pth").read_bytes()[:5000])
    Path("text.pth").write_text("no weights")
    Path("text.safetensors").write_text("no weights")
    torch.save({"conv1.weight": Code()}, "code.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Code()))
    torch.save([torch.zeros(2)], "list.pth")
    torch.save({"epoch": 3}, "number.pth")
    expected = {
        "cut.pth": "cannot be read",
        "text.pth": "cannot be read",
        "text.safetensors": "cannot be read",
        "code.pth": r"asks for `posix.mkdir`, and only tensors are read",
        "plain.pth": r"posix.mkdir|cannot be read",
        "list.pth": "holds a list, expected a state dict",
        "number.pth": "holds other things than tensors by name",
    }
    for file, sentence in expected.items():
        with pytest.raises(CheckpointError, match=sentence) as caught:
            train_quietly(folder, *SMALL_RESNET, f"model.weights={file}")
        assert file in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("it-ran").exists() and not (folder / "runs").exists()


def test_detector_learns_from_boxes_of_varying_number_and_the_host_finds_the_same() -> None:
    folder = copy("detector")
    said = train_quietly(folder, "data.arguments.samples=80", "training.epochs=2")
    assert any(line.startswith("epoch 2/2") and "  val_map_50 " in line for line in said)
    history = [json.loads(line) for line in next(folder.glob("runs/*/history.jsonl")).read_text().splitlines()]
    assert history[1]["loss"] < history[0]["loss"] and 0 <= history[1]["val_map_50"] <= 1
    assert (next(folder.glob("runs/*/report.html"))).is_file()
    model = trained(folder)
    with torch.no_grad():
        model.head[3].bias[1] += 2.5  # of two epochs it is not sure enough of anything: here it shall find something
    saved = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder))
    checkpoint.save_checkpoint({**saved, "model": model.state_dict()}, checkpoint.find_checkpoint(folder))
    version = export(folder, overrides=["export.golden_count=2", "export.batch_sizes=[1, 3]"])
    assert [part.name for part in version.contract.outputs] == ["boxes", "scores", "labels", "count"]
    assert "reproduces all of 2" in host("verify", str(version.path))
    image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours, theirs = model(image), host_outputs(version.path, image=image)
    assert torch.equal(ours["count"], theirs["count"]) and torch.equal(ours["labels"], theirs["labels"])
    assert torch.allclose(ours["boxes"], theirs["boxes"], atol=1e-2) and int(ours["count"].sum()) > 0


def test_boxes_are_coded_chosen_and_pooled_as_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(30, 2, generator=draw)
    boxes = torch.cat([corner, corner + 4 + 20 * torch.rand(30, 2, generator=draw)], dim=1)
    scores = torch.rand(30, generator=draw)
    other = boxes.flip(0)
    assert torch.allclose(decode_boxes(encode_boxes(boxes, other), other), boxes, atol=1e-4)

    def overlap(one: list[float], two: list[float]) -> float:
        wide = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
        high = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
        return wide * high / (sum(areas) - wide * high)

    overlaps = torch.tensor([[overlap(one, two) for two in boxes.tolist()] for one in boxes.tolist()])
    assert torch.allclose(box_iou(boxes, boxes), overlaps, atol=1e-5)
    kept: list[int] = []
    for place in scores.argsort(descending=True).tolist():
        if all(overlaps[place, better] <= 0.3 for better in kept):
            kept.append(place)
    for compiled in (nms, script(nms)):
        assert compiled(boxes, scores, 0.3).tolist() == kept and len(kept) < 30
    assert nms(boxes[:0], scores[:0], 0.3).shape == (0,)
    flat = torch.arange(8.0)[None, :, None].expand(2, 8, 8).contiguous()  # each row is its own number
    pooled = roi_align(flat, torch.tensor([[8.0, 16, 24, 48], [0, 0, 64, 64]]), 8.0, 2)
    assert pooled.shape == (2, 2, 2, 2) and torch.allclose(pooled[0, 0, :, 0], torch.tensor([2.5, 4.5]))


def test_mean_average_precision_counts_a_box_once_and_false_alarms_by_their_place() -> None:
    box, far = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[50.0, 50, 60, 60]])

    def of(boxes: list[Tensor], scores: list[float], there: Tensor) -> float:
        metric = MeanAveragePrecision(0.5)
        said = {"boxes": torch.cat(boxes), "scores": torch.tensor(scores), "labels": torch.ones(len(scores)).long()}
        metric.update(([said], [{"boxes": there, "labels": torch.ones(len(there)).long()}]))
        return float(metric.compute())

    assert of([box], [0.9], box) == 1 and of([box, box], [0.9, 0.8], box) == 1
    assert of([far, box], [0.9, 0.8], box) == 0.5 and of([box, far], [0.9, 0.8], box) == 1
    assert of([box, box], [0.9, 0.8], torch.cat([box, far])) == 0.5 and of([far], [0.9], box) == 0


def test_autoencoder_learns_its_input_and_the_host_decodes_its_codes() -> None:
    folder = copy("autoencoder")
    train_quietly(folder, "training.epochs=3")
    result = evaluate_run(folder, say=lambda text: None)
    assert set(result.evaluation.metrics) == {"loss", "psnr"} and result.evaluation.metrics["psnr"] > 14
    page = (result.report or Path()).read_text()
    assert "psnr" in page and "Mistakes" not in page
    file = export(folder).path
    assert "reproduces all of 4" in host("verify", str(file))
    image = torch.rand(2, 1, 28, 28)
    outputs = host_outputs(file, image=image)
    with torch.no_grad():
        ours = trained(folder)(image)
    assert torch.allclose(outputs["reconstruction"], ours["reconstruction"], atol=1e-5)
    decoded = host_outputs(file, method="decode", code=ours["code"])
    assert torch.allclose(next(iter(decoded.values())), ours["reconstruction"], atol=1e-5)


def test_recurrent_state_goes_in_and_out_so_that_single_steps_give_what_the_whole_does() -> None:
    folder = copy("recurrent")
    train_quietly(folder, "training.epochs=1", "data.arguments.samples=100")
    file = export(folder).path
    assert "reproduces all of 4" in host("verify", str(file))
    rust_host = pytest.importorskip("rust_host")
    x, zeros = torch.rand(1, 12, 1), torch.zeros(1, 48)
    whole = host_outputs(file, x=x, h=zeros, c=zeros)
    with torch.no_grad():
        assert torch.allclose(whole["prediction"], trained(folder)(x, zeros, zeros)[0], atol=1e-5)
    model = rust_host.Model(str(file))
    h = c = zeros.numpy()
    steps = []
    for step in range(12):
        said, h, c = model(x[:, step : step + 1].numpy(), h, c)
        steps.append(np.array(said))
    assert np.allclose(np.concatenate(steps, axis=1), whole["prediction"].numpy(), atol=1e-5)
    assert np.allclose(np.array(h), whole["new_h"].numpy(), atol=1e-5)


def test_sentence_goes_into_the_transformer_as_it_is_written() -> None:
    folder = copy("text")
    train_quietly(folder, "training.epochs=1", "model.arguments.layers=1")
    assert evaluate_run(folder, say=lambda text: None).evaluation.metrics["accuracy"] > 0.5  # of three authors
    file = export(folder).path
    assert "reproduces all of 4" in host("verify", str(file))
    model, text = trained(folder), "`I don't think they play at all fairly,' Alice began, in rather a complaining tone."
    said = host("run", str(file), "--method", "predict_text", "--input", f"text={json.dumps(text)}", "--json")
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", said)]
    with torch.no_grad():
        ours = model.predict_text(text)
        short, tokens = model(torch.tensor([[5, 9]])), torch.tensor([[5, 9, 0, 0], [0, 0, 0, 0]])
        assert torch.allclose(model(tokens)[0], short[0], atol=1e-6) and bool(model(tokens).isfinite().all())
    assert torch.allclose(torch.tensor(numbers[-3:]), ours[0], atol=1e-4)


OWN = """
import torch
from torch import nn
from ignite.metrics import Average
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
    def forward(self, x):
        return self.linear(x)
def load_data():
    return {"x": torch.rand(20, 2)}, torch.rand(20, 1)
def loss(model, inputs, target):
    return ((model(**inputs) - target) ** 2).mean()
def as_text(model, inputs, target):
    return "small"
def each(model, inputs, target):
    return ((model(**inputs) - target) ** 2)[:, 0]
def detached(model, inputs, target):
    return loss(model, inputs, target).detach()
def broken(model, inputs, target):
    return model.nothing(inputs)
def largest():
    return Average(output_transform=lambda seen: float(seen["outputs"].max()))
def no_metric():
    return 3
def pair():
    return Average(output_transform=lambda seen: torch.ones(2))
"""
OWN_RECIPE = """
metric_functions = ["largest"]
[model]
class = "Net"
[data]
kind = "function"
[training]
epochs = 1
batch_size = 8
[loss]
name = "function"
"""


def test_function_of_one_s_own_that_gives_rubbish_is_named(make_model: Callable[..., Path]) -> None:
    folder = make_model("own", OWN_RECIPE, OWN)
    train_quietly(folder)
    history = json.loads(next(folder.glob("runs/*/history.jsonl")).read_text())
    assert {"loss", "val_loss", "val_largest"} <= set(history)
    runs = len(list(folder.glob("runs/*")))
    for override, sentence in {
        "loss.function=as_text": r"`as_text` in `models/own/model.py` returned str, expected a tensor of one number",
        "loss.function=each": r"`each` in .* returned a float32 tensor of shape \[8\], expected one floating number",
        "loss.function=detached": "a number that does not depend on the weights",
        "loss.function=broken": r"models/own/model.py:22: while training: AttributeError",
        "loss.function=los": r"has no function `los`; did you mean loss\?",
        'metric_functions=["no_metric"]': "`no_metric` in `.*` returned int, expected an Ignite Metric",
        'metric_functions=["pair"]': "the metric `pair` gave a Tensor, expected one number",
        'metric_functions=["loss"]': "metric_functions has 'loss', which is taken",
        'metrics=["mae"]': r"has mae, which does not fit loss.name function \(metric_functions names your own\)",
        "training.monitor=largset": r"expected loss or largest; did you mean largest\?",
    }.items():
        with pytest.raises(AuthoringError, match=sentence):
            train_quietly(folder, override)
    with pytest.raises(ModelFileError):
        train_quietly(folder, "loss.function=as_text")
    assert len(list(folder.glob("runs/*"))) >= runs


def test_dataset_makes_its_own_batches_and_targets_hold_what_is_no_tensor(make_model: Callable[..., Path]) -> None:
    code = OWN.replace("def load_data", "def arrays")
    code += """
class Named:
    def __init__(self, own):
        if own:
            self.collate = lambda samples: ({"x": torch.stack([s[0]["x"] for s in samples])}, {"all": samples})
    def __len__(self):
        return 10
    def __getitem__(self, i):
        return {"x": torch.full((2,), i / 10)}, {"y": torch.rand(i), "name": f"{i}.png"}
def load_data(own=False):
    return Named(own), Named(own), Named(own)
def of_list(model, inputs, target):
    assert isinstance(target, list) and target[0]["name"].endswith(".png") and len(inputs["x"]) == len(target)
    return model(**inputs).mean()
def of_dict(model, inputs, target):
    assert len(target["all"]) == len(inputs["x"])
    return model(**inputs).mean()
"""
    folder = make_model("own", OWN_RECIPE, code)
    for own, function in (("false", "of_list"), ("true", "of_dict")):
        train_quietly(folder, f"data.arguments.own={own}", f"loss.function={function}")
        result = evaluate_run(folder, say=lambda text: None)
        assert result.evaluation.samples == 10 and result.report is not None


def test_training_with_a_loss_and_a_metric_of_one_s_own_is_resumed_bit_for_bit() -> None:
    folder = copy("detector")
    small = ("data.arguments.samples=40", "training.batch_size=8", "model.arguments.proposals=6")
    train_quietly(folder, *small, "training.epochs=2")
    once = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))["model"]
    train_quietly(folder, *small, "training.epochs=1")
    train_quietly(folder, resume=True, epochs=2)
    resumed = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder, which="last"))["model"]
    assert all(torch.equal(once[name], resumed[name]) for name in once)
