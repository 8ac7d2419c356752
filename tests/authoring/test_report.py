"""The page that a person looks at: what is on it, that it opens by itself anywhere, and that it never costs a run."""

import html
import itertools
import json
import re
import shutil
import signal
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from py_authoring import report, run_state
from py_authoring.cli.evaluate import as_text
from py_authoring.contract import CONTRACT_FILE
from py_authoring.errors import InterruptedRunError, NotFoundError, TrainingError, UsageError
from py_authoring.evidence import MISTAKES, Evidence, picture
from py_authoring.recipe_sections import LossSection
from py_authoring.report import charts, write_report
from py_authoring.report.collect import SplitRecord
from py_authoring.report.comparison import compare, render_comparison, write_comparison
from py_authoring.report.drawing import draw
from py_authoring.run_evaluation import evaluate_run
from py_authoring.runs import summarize_runs
from py_authoring.training import train

MakeModel = Callable[..., Path]

# Pictures of 8 × 8 in three classes, one of which has a name that would run if it were not escaped.
PICTURES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    def forward(self, image):
        return self.body(image)

def load_data():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(120, 1, 8, 8, generator=generator)
    return {"image": image}, (image.mean((1, 2, 3)) * 60).long() % 3
"""
PICTURES_RECIPE = """
[model]
class = "Net"
[data]
kind = "function"
validation = 0.3
[training]
epochs = 2
batch_size = 16
device = "cpu"
[scheduler]
name = "step"
gamma = 0.5
[export]
labels = ["<script>alert(1)</script>", "$x_1$ & \\"co\\"", "日本語"]
"""


def silent(text: str) -> None:
    pass


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def pictures(make_model: MakeModel) -> Path:
    return make_model("pictures", PICTURES_RECIPE, PICTURES)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """The machine's own Chromium; the network is not needed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on PATH: `apt-get install chromium`")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_report_holds_curves_classes_mistakes_calibration_data_recipe_and_environment(pictures: Path) -> None:
    run = train(pictures, say=silent)
    assert run.report == run.path / "report.html"
    text = run.report.read_text()
    outline = Outline(text)
    headings = [re.sub("<.*?>", "", each).strip() for each in re.findall(r"<h[1-4].*?</h[1-4]>", text, re.DOTALL)]
    for wanted in ("Training", "Loss", "Validation metrics", "Learning rate", "Validation", "Confusion matrix"):
        assert wanted in headings
    for wanted in ("Calibration", "Precision and recall", "Worst mistakes", "Data", "Model", "Recipe", "Environment"):
        assert wanted in headings
    wrong = sum(
        count
        for i, row in enumerate(json.loads((run.path / "metrics.json").read_text())["validation"]["confusion"])
        for j, count in enumerate(row)
        if i != j
    )
    images = outline.all("img")
    assert len(images) == min(wrong, MISTAKES) and all(each["alt"] for each in images)
    assert all(str(each["src"]).startswith("data:image/png;base64,iVBOR") for each in images)
    assert f"{run.metrics['accuracy']:.4g}" in text and torch.__version__ in text
    evaluate_run(pictures, split="train", say=silent)
    assert "Training data, evaluated" in run.report.read_text()


def test_every_chart_says_in_words_what_it_shows_and_every_table_has_caption_and_scopes(pictures: Path) -> None:
    run = train(pictures, say=silent)
    text = (run.path / "report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) >= 6
    for drawing in drawings:
        root = ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))
        title, description = (root.find(name) for name in ("title", "desc"))
        assert title is not None and title.text and description is not None and len(description.text or "") > 20
        assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) >= 8
    for table in tables:
        assert re.search(r"<caption>.+?</caption>", table)
        assert all(each.get("scope") in ("col", "row") for each in Outline(table).all("th"))
    levels = [int(tag[1]) for tag, _ in Outline(text).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    names = [attributes["id"] for _, attributes in Outline(text).tags if "id" in attributes]
    assert len(names) == len(set(names))
    for reference in re.findall(r'href="#(.+?)"|url\(#(.+?)\)', text):
        assert (reference[0] or reference[1]) in names


def test_names_of_users_are_text_and_nothing_on_the_page_can_run_or_be_fetched(pictures: Path) -> None:
    run = train(pictures, say=silent)
    text = (run.path / "report.html").read_text()
    outline = Outline(text)
    assert not outline.all("script") and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "日本語" in text and html.escape('$x_1$ & "co"', quote=False) in html.unescape(text).replace("&", "&amp;")
    assert not [name for _, attributes in outline.tags for name in attributes if name.startswith("on")]
    for tag, attributes in outline.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"@import|url\((?!#)", text)
    (policy,) = [each for each in outline.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_report_and_comparison_open_in_a_browser_without_a_request(
    pictures: Path, browser, width: int, scheme: str, tmp_path: Path
) -> None:
    runs = [train(pictures, epochs=epochs, say=silent) for epochs in (2, 3)]
    page = write_comparison(compare([run.path for run in runs]), tmp_path / "comparison.html")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("dialog", lambda dialog: said.append("dialog"))
    for file in (runs[0].path.resolve() / "report.html", page):
        asked.clear()
        opened.goto(f"file://{file}")
        assert [url for url in asked if not url.startswith("data:")] == [f"file://{file}"] and not said
        # nothing sticks out sideways, and what is drawn is seen
        assert opened.evaluate("document.documentElement.scrollWidth") == width
        sizes = opened.evaluate(
            "[...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect().width)"
        )
        assert sizes and min(sizes) > 200 and max(sizes) <= width
        widths = opened.evaluate("[...document.querySelectorAll('img')].map(e => e.naturalWidth)")
        assert min(widths, default=8) == 8
        paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
        ink = opened.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
        assert ink != "rgb(0, 0, 0)"  # the page's own colour: black would be lost in the dark
    context.close()


def test_interrupted_training_leaves_a_report_that_says_so(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model()
    monkeypatch.setenv("STOP_AT", "10")
    with pytest.raises(InterruptedRunError) as caught:
        train(folder, say=silent)
    (run,) = (folder / "runs").iterdir()
    text = html.unescape(re.sub("</?code>", "`", (run / "report.html").read_text()))
    assert caught.value.message in text and str(caught.value.hint) in text and ">interrupted</span>" in text
    assert "1 of 3 epochs" in text and "py-authoring evaluate tiny" in text
    monkeypatch.delenv("STOP_AT")
    train(folder, resume=True, say=silent)
    text = (run / "report.html").read_text()
    assert ">finished</span>" in text and "interrupted" not in text.partition("<main>")[0].partition("<body>")[2]


def test_report_of_a_run_that_went_on_says_when_it_was_measured(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model()
    run = train(folder, epochs=1, say=silent)
    assert "Measured after" not in (run.path / "report.html").read_text()
    evaluate_run(folder, split="test", say=silent)
    monkeypatch.setenv("STOP_AT", "10")
    with pytest.raises(InterruptedRunError):
        train(folder, epochs=4, resume=True, say=silent)
    text = (run.path / "report.html").read_text()
    assert text.count("Measured after 1 epoch.") == 2  # the test data too
    evaluate_run(folder, checkpoint=run.path, split="validation", say=silent)
    assert (run.path / "report.html").read_text().count("Measured after 1 epoch.") == 1


def test_training_that_fails_after_an_epoch_leaves_a_report_with_the_error(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(
        code.read_text().replace("calls += 1", "calls += 1\n            assert calls < 10, 'ten is too many'")
    )
    with pytest.raises(TrainingError, match="ten is too many"):
        train(folder, say=silent)
    (run,) = (folder / "runs").iterdir()
    text = (run / "report.html").read_text()
    assert ">failed</span>" in text and "ten is too many" in text
    assert run_state.read_state(run).state == "failed"


def test_training_that_fails_in_its_first_epoch_leaves_none(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(code.read_text().replace("calls += 1", "calls += 1\n            assert calls < 3"))
    with pytest.raises(TrainingError):
        train(folder, say=silent)
    (run,) = (folder / "runs").iterdir()
    assert not (run / "report.html").exists() and (run / "checkpoints" / "last.pt").exists()


def test_failing_report_is_one_line_and_the_run_is_whole(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model()

    def fail(run: object) -> str:
        raise ValueError("no ink\nat all")

    monkeypatch.setattr("py_authoring.report.page.render_report", fail)
    lines: list[str] = []
    run = train(folder, say=lines.append)
    assert run.report is None and run.metrics["accuracy"] > 0
    assert [line for line in lines if "report" in line] == ["note: no report: no ink"]
    assert (run.path / "metrics.json").is_file() and not list(run.path.glob(".*.tmp"))
    lines.clear()
    assert evaluate_run(folder, say=lines.append).report is None
    assert lines == ["note: no report: no ink"]


def test_picture_that_cannot_be_drawn_is_one_line_and_of_many_classes_there_is_none(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*drawn: object) -> bytes:
        raise RuntimeError("no ink")

    lines: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("py_authoring.run_folder.draw_confusion", fail)
        run = train(make_model(), say=lines.append)
    assert "note: no picture of the confusion matrix: no ink" in lines
    assert run_state.read_state(run.path).state == "finished" and not (run.path / "confusion_matrix.png").exists()
    assert evaluate_run("tiny", say=silent).picture == run.path / "confusion_matrix.png"
    many = make_model("many")
    code = many / "model.py"
    code.write_text(code.read_text().replace("nn.Linear(hidden, 2)", "nn.Linear(hidden, 201)"))
    run = train(many, epochs=1, say=silent)
    assert run.evaluation is not None and run.evaluation.confusion is not None
    assert not (run.path / "confusion_matrix.png").exists() and evaluate_run(many, say=silent).picture is None


def test_old_report_stays_whole_when_the_new_one_cannot_be_written(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(make_model(), say=silent)
    before = (run.path / "report.html").read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    lines: list[str] = []
    assert report.or_say(lambda: write_report(run.path), lines.append) is None
    assert lines == [f"note: no report: cannot write `{run.path / 'report.html'}`: no space left on device"]
    assert (run.path / "report.html").read_bytes() == before


def test_report_of_regression_shows_predictions_against_truth_and_the_largest_errors(make_model: MakeModel) -> None:
    recipe = '[model]\nclass = "Line"\n[data]\nkind = "function"\nvalidation = 0.3\n[loss]\nname = "mse"\n'
    recipe += '[training]\nepochs = 2\ndevice = "cpu"\n'
    code = (
        "import torch\n"
        "class Line(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = torch.nn.Linear(3, 1)\n"
        "    def forward(self, x): return self.inner(x)\n"
        "def load_data():\n    x = torch.randn(100, 3)\n    return {'x': x}, x.sum(1)\n"
    )
    run = train(make_model(recipe=recipe, code=code), say=silent)
    text = (run.path / "report.html").read_text()
    for wanted in ("Predicted against true", "Errors", "Worst mistakes", "Validation errors", "MAE from"):
        assert wanted in text
    kept = json.loads((run.path / "evidence.json").read_text())["splits"]["validation"]
    assert kept["points_of"] == len(kept["points"]) == 30
    sizes = [each["badness"] for each in kept["mistakes"]]
    errors = sorted((abs(true - said) for true, said in kept["points"]), reverse=True)
    assert sizes == pytest.approx(errors[:MISTAKES])
    assert re.search(r"x <code>[-−.\d]+, [^<]+</code>", text)  # no picture: the values as text


def test_evidence_is_what_a_plain_loop_finds(make_model: MakeModel) -> None:
    torch.manual_seed(3)
    output, target = torch.randn(500, 5), torch.randint(0, 5, (500,))
    evidence = Evidence(LossSection(name="cross_entropy"), 5)
    for start in range(0, 500, 64):
        part = slice(start, start + 64)
        evidence.add({"x": output[part]}, output[part], target[part])
    seen = evidence.to_dict()
    probabilities = output.softmax(1)
    confidence, predicted = probabilities.max(1)
    right = predicted == target
    assert seen["wrong"] == int((~right).sum()) and seen["samples"] == 500
    assert sum(count for _, _, count in seen["confused"]) == seen["wrong"]
    expected = 0.0
    for low in range(10):
        inside = (confidence >= low / 10) & (confidence < (low + 1) / 10)
        if inside.any():
            gap = abs(float(confidence[inside].mean()) - float(right[inside].float().mean()))
            expected += gap * int(inside.sum()) / 500
    assert seen["calibration"]["expected_error"] == pytest.approx(expected, abs=1e-6)
    of_target = probabilities.gather(1, target[:, None])[:, 0].masked_fill(right, 2.0)
    assert [each["index"] for each in seen["mistakes"]] == of_target.argsort()[:MISTAKES].tolist()


def test_evidence_of_outputs_that_nobody_thought_of_ends_no_evaluation() -> None:
    from ignite.engine import Engine

    evidence = Evidence(LossSection(name="cross_entropy"), 5)
    odd = {"output": torch.zeros(4, 5, 2), "target": torch.zeros(4, 2, dtype=torch.int64)}
    engine = Engine(lambda engine, batch: odd)
    evidence.attach(engine)
    engine.run([({"x": torch.zeros(4)}, torch.zeros(4))])
    assert "broken" in evidence.to_dict()


def test_pictures_are_told_from_other_inputs() -> None:
    assert picture(torch.rand(3, 20, 30)) and picture(torch.rand(20, 30, 3)) and picture(torch.rand(20, 30))
    assert picture(torch.randint(0, 256, (1, 9, 9), dtype=torch.uint8)) and picture(torch.randn(3, 9, 9))
    for values in (torch.rand(3), torch.rand(4, 20, 20), torch.rand(1, 7, 20), torch.rand(2, 3, 20, 20)):
        assert picture(values) is None
    large = picture(torch.rand(3, 2000, 3000))
    assert large is not None and len(large) < 60_000


def test_ten_thousand_epochs_and_classes_stay_a_few_megabytes_and_lose_no_peak(make_model: MakeModel) -> None:
    run = train(make_model(), epochs=1, say=silent)
    rows = [
        {
            "epoch": i,
            "iteration": i,
            "loss": 1 / i,
            "val_loss": 1 / i,
            "val_accuracy": 1 - 1 / i,
            "lr": 1e-3,
            "seconds": 1,
        }
        for i in range(1, 10_001)
    ]
    rows[7003]["val_loss"] = 77.25
    (run.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    count = 10_000
    classes = [
        {"label": f"class {i}", "precision": 0.5, "recall": 0.5 + 0.4 * (i % 7 > 0), "f1": 0.5, "samples": 10}
        for i in range(count)
    ]
    metrics = {
        "metrics": {"loss": 1.0, "accuracy": 0.9},
        "samples": 10 * count,
        "per_class": classes,
        "confusion": None,
    }
    (run.path / "metrics.json").write_text(json.dumps({"validation": metrics, "epochs": count}))
    evidence = json.loads((run.path / "evidence.json").read_text())
    pairs = [[i, (i + 1) % count, 400 - i] for i in range(400)]
    evidence["splits"]["validation"] |= {"confused": pairs, "wrong": 90_000, "mistakes": []}
    evidence["dataset"]["splits"]["train"]["classes"] = [i % 50 for i in range(count)]
    (run.path / "evidence.json").write_text(json.dumps(evidence))
    file = write_report(run.path)
    text = file.read_text()
    assert file.stat().st_size < 1_500_000
    thinned = charts.thin(charts.column(rows, "val_loss"))
    assert 77.25 in thinned[2] and len(thinned[2]) < 500
    assert "20 of 10,000 classes" in text and "of 10,000 classes with the smallest F1" in text
    assert "history.csv has all" in text and "class 9999" not in text


def test_models_with_thousands_of_classes_are_evaluated_without_a_matrix(make_model: MakeModel) -> None:
    recipe = '[model]\nclass = "Wide"\n[data]\nkind = "function"\n[training]\nepochs = 1\ndevice = "cpu"\n'
    code = (
        "import torch\n"
        "class Wide(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = torch.nn.Linear(2, 3000)\n"
        "    def forward(self, x): return self.inner(x)\n"
        "def load_data(): return {'x': torch.randn(60, 2)}, torch.arange(60) % 3000\n"
    )
    run = train(make_model(recipe=recipe, code=code), say=silent)
    assert run.evaluation is not None and run.evaluation.confusion is None and run.evaluation.per_class is not None
    assert sum(each.samples for each in run.evaluation.per_class) == run.evaluation.samples
    assert "of 3,000 classes" in (run.path / "report.html").read_text()


def test_damaged_and_missing_files_of_a_run_leave_out_their_part(make_model: MakeModel) -> None:
    run = train(make_model(), say=silent)
    names = ["metrics.json", "evidence.json", "environment.json", "recipe.toml", "state.json", "history.jsonl"]
    for name in names:
        (run.path / name).write_text("{ not", encoding="utf-8")
        assert "<h1>tiny" in write_report(run.path).read_text()
    for name in names:
        (run.path / name).unlink()
        assert "<h1>tiny" in write_report(run.path).read_text()


def test_damaged_archive_of_a_version_leaves_out_its_contract(pictures: Path) -> None:
    from py_authoring.export import export

    run = train(pictures, say=silent)
    file = export(pictures).path
    stored = bytearray(file.read_bytes())
    entry = stored.rindex(b"PK\x01\x02", 0, stored.rindex(f"/extra/{CONTRACT_FILE}".encode()))
    assert stored[entry + 10] == 0  # stored as it is; now it claims to be deflated
    stored[entry + 10] = 8
    stored[stored.index(b"{", stored.index(f"/extra/{CONTRACT_FILE}".encode()))] = 0xFF  # and is no such stream
    file.write_bytes(stored)
    text = write_report(run.path).read_text()
    assert "<h1>pictures" in text and "Contract of version" not in text


def test_contract_of_an_exported_version_stands_in_the_report_of_its_run(pictures: Path) -> None:
    from py_authoring.export import export

    first = train(folder := pictures, say=silent)
    export(folder)
    evaluate_run(folder, split="validation", say=silent)
    text = (first.path / "report.html").read_text()
    assert "Contract of version 1, model.pt" in text and "golden example" in text
    second = train(folder, say=silent)
    assert "Contract of" not in (second.path / "report.html").read_text()


def test_drawings_need_no_font_for_a_script_and_read_no_dollar_as_mathematics() -> None:
    names = ["$\\frac{1$", "عربى", "a & b <c>", "x" * 50]
    split = SplitRecord(
        "test",
        8,
        {},
        [{"label": name, "precision": 1.0, "recall": 0.5, "f1": 0.7, "samples": 2} for name in names],
        {(0, 1): 1, (1, 0): 1, (2, 3): 1, (3, 2): 1},
        {},
    )
    chart = charts.confusion_chart(split)
    assert (
        chart is not None and "عربى" in chart.svg and "a &amp; b &lt;c&gt;" in chart.svg and "$\\frac{1$" in chart.svg
    )
    assert "x" * 50 not in chart.svg
    assert "<" not in re.sub("<[^<>]*>", "", draw("a", "<&>", "<&>", lambda axes: axes.text(0, 0, "<&>") and None))


def test_runs_are_listed_with_state_epochs_and_best_metric(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, run_command: Callable
) -> None:
    tiny, other = make_model("tiny"), make_model("other")
    train(tiny, say=silent)
    monkeypatch.setenv("STOP_AT", "10")
    with pytest.raises(InterruptedRunError):
        train(other, say=silent)
    monkeypatch.delenv("STOP_AT")
    one, two = summarize_runs()
    assert (one.model, one.state, one.epochs, one.planned) == ("other", "interrupted", 1, 3)
    assert (two.model, two.state, two.epochs, two.metric) == ("tiny", "finished", 3, "val_accuracy")
    rows = [json.loads(line) for line in (two.path / "history.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["val_loss"])
    assert (two.best_epoch, two.value) == (best["epoch"], best["val_accuracy"])
    with run_state.hold(two.path):
        assert summarize_runs(["tiny"])[0].state == "running"
    run_state.write_state(two.path, "running")
    assert summarize_runs(["tiny"])[0].state == "killed"
    listed = run_command("runs")
    assert listed.returncode == 0 and [line.split()[0] for line in listed.stdout.splitlines()] == [
        "model",
        "other",
        "tiny",
    ]
    document = json.loads(run_command("runs", "tiny", "--json").stdout)
    assert [(run["model"], run["state"], run["value"]) for run in document] == [("tiny", "killed", two.value)]
    assert run_command("runs", "tnny").returncode == 2


def test_run_is_running_while_it_trains_and_killed_when_its_process_is(make_model: MakeModel) -> None:
    import os
    import subprocess
    import sys

    folder = make_model()
    code = folder / "model.py"
    code.write_text(code.read_text().replace("calls += 1", "calls += 1\n            __import__('time').sleep(0.05)"))
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "py_authoring", "train", "tiny", "--epochs", "1000", "-q"],
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        deadline = time.monotonic() + 60
        while not (found := [run for run in summarize_runs() if run.state == "running"]):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert [run.state for run in summarize_runs()] == ["killed"]
        assert found[0].planned == 1000
    finally:
        process.kill()
        process.wait(20)


def test_runs_are_compared_with_figures_recipes_and_a_star_at_the_best(
    make_model: MakeModel, run_command: Callable
) -> None:
    folder = make_model()
    one = train(folder, epochs=1, say=silent)
    two = train(folder, epochs=3, lr=0.05, say=silent)
    result = run_command("compare", f"tiny/{one.path.name}", "tiny", "--output", "side.html")
    assert result.returncode == 0 and result.stderr.endswith("saved side.html\n"), result.stderr
    rows = {line.split("  ")[0]: line for line in result.stdout.splitlines() if line}
    better = min((one, two), key=lambda run: run.metrics["loss"])
    place = rows["val_loss"].index("*") > len(rows["val_loss"]) - 3
    assert place == (better is two)
    assert rows["optimizer.lr"].split()[1:] == ["0.01", "0.05"] and rows["training.epochs"].split()[1:] == ["1", "3"]
    assert "data.kind" not in result.stdout
    outline = Outline(Path("side.html").read_text())
    assert len(outline.all("svg")) >= 3 and all(each.get("scope") for each in outline.all("th"))
    document = json.loads(run_command("compare", str(one.path), str(two.path), "--json").stdout)
    assert document["figures"]["val_loss"]["best"] == [int(better is two)]
    assert document["data"] is None and document["page"] == "comparison.html"


def test_comparison_warns_of_different_data_and_refuses_one_run_or_none(make_model: MakeModel) -> None:
    folder = make_model()
    one = train(folder, epochs=1, say=silent)
    code = folder / "model.py"
    code.write_text(code.read_text().replace("manual_seed(1)", "manual_seed(2)"))
    two = train(folder, epochs=1, say=silent)
    assert "different data" in str(compare([one.path, two.path]).data)
    with pytest.raises(UsageError, match="nothing beside it"):
        compare(["tiny"])
    with pytest.raises(UsageError, match="are the same run"):
        compare(["tiny", two.path])
    with pytest.raises(NotFoundError, match="has no run of that name"):
        compare(["tiny", "tiny/2020"])
    with pytest.raises(NotFoundError, match="it is no run's folder, no model and no MODEL/RUN"):
        compare(["tiny", "nowhere/2020"])
    make_model("fresh")
    with pytest.raises(NotFoundError) as caught:
        compare(["tiny", "fresh"])
    assert caught.value.hint == "`py-authoring train fresh`"


def test_what_the_functions_return_is_shown_in_a_notebook(
    pictures: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from py_authoring.export import export
    from py_authoring.verify import verify

    runs = [train(pictures, epochs=epochs, say=silent) for epochs in (2, 3)]
    version = export(pictures)
    evaluation = evaluate_run(pictures, say=silent)
    shown = [
        runs[0],
        evaluation,
        evaluation.evaluation,
        version,
        verify(version.path),
        summarize_runs(),
        compare([run.path for run in runs]),
    ]
    for each in shown:
        text = each._repr_html_()
        assert text is not None and len(text) < 150_000
        outline = Outline(text)
        assert outline.all("table") and all(head.get("scope") for head in outline.all("th"))
        assert not outline.all("script") and not outline.all("style")  # a style sheet would hold for the whole notebook
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert all(each._repr_html_() is None for each in shown)


def test_samples_with_several_values_are_counted_as_values() -> None:
    target, output = torch.tensor([[0.0, 1.0, 1.0]] * 18), torch.tensor([[1.0, 1.0, -1.0]] * 18)
    evidence = Evidence(LossSection(name="bce_with_logits"), 2)
    evidence.add({"x": torch.zeros(18, 3)}, output, target)
    classes = [
        {"label": "no", "precision": 0.0, "recall": 0.0, "f1": 0.0, "samples": 18},
        {"label": "yes", "precision": 0.5, "recall": 0.5, "f1": 0.5, "samples": 36},
    ]
    seen = evidence.to_dict()
    split = SplitRecord("validation", 18, {}, classes, {(0, 1): 18, (1, 0): 18}, seen)
    drawn, calibration = charts.confusion_chart(split), charts.calibration_chart(split)
    assert drawn is not None and "18 of 54 validation values are right." in drawn.description
    assert calibration is not None and " 54 values with " in calibration.description


def test_loss_chart_says_that_class_weights_count_in_training_alone(make_model: MakeModel) -> None:
    folder = make_model()
    run = train(folder, overrides=["loss.class_weights=[1.0, 2.0]"], say=silent)
    assert "count in the training loss alone" in (run.path / "report.html").read_text()
    assert "count in the training loss alone" in str(run._repr_html_())
    plain = train(folder, say=silent)
    assert "count in the training loss alone" not in (plain.path / "report.html").read_text()


def test_class_without_samples_has_no_recall_and_stands_last(make_model: MakeModel) -> None:
    folder = make_model()
    code = folder / "model.py"
    code.write_text(code.read_text().replace("Noisy(x[:12], y[:12], False)", "Noisy(x[:12], y[:12] * 0 + 1, False)"))
    run = train(folder, say=silent)
    assert run.evaluation is not None and re.search(r"(?m)^0 +0\.0000 +– +– +0$", as_text(run.evaluation))
    for text in ((run.path / "report.html").read_text(), str(run.evaluation._repr_html_())):
        rows = re.findall(r"<tr><th scope=\"row\">([01])</th>(.*?)</tr>", text.replace("\n", ""))
        rows = [row for row in rows if row[1].count("<td") == 4]  # precision, recall, F1, samples
        assert [name for name, _ in rows] == ["1", "0"]
        assert rows[-1][1].count("–") == 2 and "–" not in rows[-2][1]


def test_points_are_thinned_as_if_all_had_been_there_at_once() -> None:
    section = LossSection(name="mse")
    values = torch.arange(50_000.0)
    batches, whole = Evidence(section, None), Evidence(section, None)
    whole.add({"x": values}, values, values)
    for part in values.split(1700):
        batches.add({"x": part}, part, part)
    assert batches.to_dict()["points"] == whole.to_dict()["points"]
    kept = [int(true) for true, _ in whole.to_dict()["points"]]
    assert kept == list(range(0, 50_000, 64)) and whole.to_dict()["points_of"] == 50_000


def test_large_batch_of_numbers_is_not_turned_into_python_numbers() -> None:
    class Watched(torch.Tensor):
        made = 0

        def tolist(self) -> list:
            Watched.made += self.numel()
            return super().tolist()

        def __float__(self) -> float:
            Watched.made += 1
            return super().__float__()

    values = torch.zeros(4, 100_000).as_subclass(Watched)
    Evidence(LossSection(name="mse"), None).add({"x": torch.zeros(4)}, values, values)
    assert 0 < Watched.made <= 3000


def test_outputs_that_are_not_finite_are_null_in_json_and_the_page_is_written(make_model: MakeModel) -> None:
    folder = make_model()
    run = train(folder, say=silent)
    code = folder / "model.py"
    code.write_text(code.read_text().replace("return self.last(", "return 0 / (x[:, :1] > 0.5) + self.last("))
    lines: list[str] = []
    assert evaluate_run(folder, say=lines.append).report is not None and lines == []
    for name in ("metrics.json", "evidence.json"):
        json.loads((run.path / name).read_text(), parse_constant=pytest.fail)


def test_comparison_ranks_test_figures_of_best_checkpoints_alone(make_model: MakeModel) -> None:
    folder = make_model()
    one, two = (train(folder, epochs=epochs, say=silent) for epochs in (1, 3))
    evaluate_run(folder, checkpoint=one.path, say=silent)
    evaluate_run(folder, checkpoint=two.path, say=silent)
    figure = next(each for each in compare([one.path, two.path]).figures if each.name == "test_loss")
    assert None not in figure.values and len(figure.best) == 1
    assert "on the test data" in render_comparison(compare([one.path, two.path]))
    evaluate_run(folder, checkpoint=two.path / "checkpoints" / "last.pt", say=silent)
    comparison = compare([one.path, two.path])
    figure = next(each for each in comparison.figures if each.name == "test_loss")
    assert figure.values[1] is None and figure.texts[1].endswith("(with last.pt)") and figure.best == []
    assert "on the test data" not in render_comparison(comparison)
